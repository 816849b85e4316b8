"""What the export refuses or fails at."""

from __future__ import annotations

from device_runtime.protocol.errors import TandemError


class ExportError(TandemError):
    """A checkpoint cannot become a bundle, or the bundle made of it is not right."""
