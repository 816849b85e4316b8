"""What the export refuses or fails at."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from device_runtime.protocol.errors import TandemError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class ExportError(TandemError):
    """A checkpoint cannot become a bundle, or the bundle made of it is not right."""


@contextmanager
def naming_full_disk(folder: Path, advice: str) -> Iterator[None]:
    """ExportError in place of the OSError of a disk that fills up meanwhile.

    advice: what is needed in the folder, and what to do.
    """
    try:
        yield
    except OSError as error:
        # hf_xet, which downloads for the hub, gives the number in words alone.
        in_words = any(f"(os error {number})" in str(error) for number in _FULL)
        if error.errno not in _FULL and not in_words:
            raise
        raise ExportError(f"the disk of {folder} has become full ({error}): {advice}") from error
