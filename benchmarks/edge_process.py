"""An edge as a process of its own, on a free loopback port, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.verb_process import VerbProcess


class EdgeProcess(VerbProcess):
    """Starts on entry; `ready()` waits for its URL."""

    def __init__(self, model: Path, arguments: Sequence[str] = ()) -> None:
        super().__init__("edge", ["--model", str(model), "--port", "0", "--json", *arguments])

    def __enter__(self) -> EdgeProcess:
        super().__enter__()
        return self

    def ready(self) -> str:
        """The URL, once the model is loaded and the port is open."""
        return str(self.line()["url"])
