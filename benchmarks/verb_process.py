"""A verb of `tandem` as a process of its own, for as long as a `with` block lasts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from device_runtime.protocol.errors import TandemError

STOP_TIMEOUT_S = 10.0


class VerbFailedError(TandemError):
    """The process ended before it said what it had to say."""


class VerbProcess:
    """Starts on entry, ends with the block, come what may. It prints JSON, a line at a time.

    Where this process ends without a chance to tidy up (SIGKILL), the other one sees its stdin end.
    """

    def __init__(self, verb: str, arguments: Sequence[str], *, reads_stdin: bool = False) -> None:
        """reads_stdin: the verb reads its standard input and ends with it, by itself."""
        self._verb = verb
        until = () if reads_stdin else ("--until-eof",)
        self._command = [sys.executable, "-m", "device_runtime", *until, verb, *arguments]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> VerbProcess:
        # A session of its own: Ctrl-C reaches this process first, which then ends the other.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        return self

    def line(self) -> dict[str, Any]:
        """The next line it prints; waits for it."""
        assert self._process is not None
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            status = self._process.wait(STOP_TIMEOUT_S)
            raise VerbFailedError(
                f"tandem {self._verb} ended with status {status}; its words are above"
            )
        data: dict[str, Any] = json.loads(text)
        return data

    def ask(self, question: str) -> dict[str, Any]:
        """Write a line to its stdin and wait for the answer."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{question}\n")
        self._process.stdin.flush()
        return self.line()

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
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
