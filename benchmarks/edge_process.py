"""An edge as a process of its own, on a free loopback port, for as long as a `with` block lasts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from device_runtime.protocol.errors import TandemError

STOP_TIMEOUT_S = 10.0


class EdgeFailedError(TandemError):
    """The edge process ended before it was ready."""


class EdgeProcess:
    """Starts on entry, ends with the block, come what may; `ready()` waits for its URL."""

    def __init__(self, model: Path, arguments: Sequence[str] = ()) -> None:
        self._command = [
            sys.executable, "-m", "device_runtime", "edge", "--model", str(model),
            "--port", "0", "--json", *arguments,
        ]  # fmt: skip
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> EdgeProcess:
        # A session of its own: Ctrl-C reaches this process first, which then ends the edge.
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        return self

    def ready(self) -> str:
        """The URL, once the model is loaded and the port is open."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait(STOP_TIMEOUT_S)
            raise EdgeFailedError(f"the edge ended with status {status}; its words are above")
        return str(json.loads(line)["url"])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
