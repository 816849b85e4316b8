"""A contender as a process of its own: asked over pipes, stopped while another one is measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.device.models import ROOT, Contender, PeerError

STOP_TIMEOUT_S = 10.0


class ArmProcess:
    """Starts with a `with` block and ends with it.

    Between two questions the process is stopped: threads of one contender that spin must not slow
    another one down.
    """

    def __init__(self, contender: Contender, spec: dict[str, Any], log: Path) -> None:
        self.contender = contender
        spec = {"arm": contender.arm, "model": str(contender.model), **spec}
        self._command = [str(contender.python), "-m", "benchmarks.device.worker", json.dumps(spec)]
        self._log = log
        # One thread pool per contender, and that is its own.
        self._environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        self._environment["OMP_NUM_THREADS"] = str(spec["num_threads"])
        self.version = ""
        self.kinds: list[str] = []
        self.start_s = 0.0
        """From the start of the process to its first token."""

    def __enter__(self) -> ArmProcess:
        started_s = time.perf_counter()
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, env=self._environment, text=True, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        try:
            ready = self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.start_s = time.perf_counter() - started_s
        self.version, self.kinds = ready["version"], ready["kinds"]
        self._signal(signal.SIGSTOP)
        return self

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Let the process run until it has answered."""
        stdin = self._process.stdin
        assert stdin is not None
        self._signal(signal.SIGCONT)
        stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        stdin.flush()
        answer = self._answer()
        self._signal(signal.SIGSTOP)
        return answer

    def memory_bytes(self) -> dict[str, int]:
        """Resident now, the most so far, and the part that no file backs; nothing off Linux."""
        keys = {"VmRSS": "rss", "VmHWM": "peak", "RssAnon": "anonymous"}
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        except OSError:
            return {}
        fields = (line.split() for line in lines)
        return {
            keys[name.rstrip(":")]: int(rest[0]) * 1024
            for name, *rest in fields
            if name.rstrip(":") in keys
        }

    def _answer(self) -> dict[str, Any]:
        stdout = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        if not line:
            status = self._process.wait(STOP_TIMEOUT_S)
            cause = f"signal {-status}" if status < 0 else f"status {status}"
            raise PeerError(f"its process ended with {cause}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()  # a stopped process hears nothing else
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
