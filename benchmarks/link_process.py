"""An emulated link as a process of its own, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.link.cli import COUNTS
from benchmarks.verb_process import VerbProcess


class LinkProcess(VerbProcess):
    """`tandem link run` between devices and one edge."""

    def __init__(self, profile: str, edge: str, arguments: Sequence[str] = ()) -> None:
        """profile: a link's name or file; edge: HOST:PORT; arguments: as of `tandem link run`."""
        super().__init__(
            "link",
            ["run", profile, "--edge", edge, "--listen", "127.0.0.1:0", "--json", "--control",
             *arguments],
            reads_stdin=True,
        )  # fmt: skip
        self.realtime = False
        """Whether the proxy has a real-time priority; known once it is ready."""

    def __enter__(self) -> LinkProcess:
        super().__enter__()
        return self

    def ready(self) -> tuple[str, int]:
        """Host and port that devices connect to."""
        facts = self.line()
        self.realtime = bool(facts["realtime"])
        return facts["host"], facts["port"]

    def counts(self) -> dict[str, Any]:
        """What has crossed so far, each way, and how late the emulator was (see `Proxy.counts`)."""
        return self.ask(COUNTS)
