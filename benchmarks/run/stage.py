"""The processes of a measurement: edges, and an emulated link to each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.edge_process import EdgeProcess
from benchmarks.link_process import LinkProcess
from edge_server.trace import Answered, read_trace

TRACE_PATIENCE_S = 1.0
MAX_LATE_SHARE = 0.01
"""Of deliveries that come more than 1 ms late: above that a link's times are in doubt."""


@dataclass(frozen=True, slots=True)
class EdgeSpec:
    """An edge to be started: which arguments `tandem edge` gets beside the model."""

    model: Path
    arguments: tuple[str, ...]


class TracedEdge:
    """A running edge and the file in which it notes its jobs."""

    def __init__(self, process: EdgeProcess, trace: Path) -> None:
        self.url = process.ready()
        self._trace = trace
        self._read_to = 0

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return urlsplit(self.url).netloc

    def jobs(self, at_least: int) -> list[Answered]:
        """The jobs noted since the last call; waits a moment for as many as there must be."""
        deadline_s = time.monotonic() + TRACE_PATIENCE_S
        while True:
            with self._trace.open("rb") as file:
                file.seek(self._read_to)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if whole.count(b"\n") >= at_least or time.monotonic() > deadline_s:
                self._read_to += len(whole)
                return read_trace(whole.decode())
            time.sleep(0.002)


@contextmanager
def running_edges(specs: dict[bool, EdgeSpec], folder: Path) -> Iterator[dict[bool, TracedEdge]]:
    """Start every edge (key: whether it drafts for itself); they end with the block."""
    with ExitStack() as stack:
        processes = {}
        for drafts, spec in specs.items():
            trace = folder / f"edge-{'draft' if drafts else 'plain'}.trace"
            trace.write_text("")
            arguments = [*spec.arguments, "--trace-file", str(trace)]
            processes[drafts] = (stack.enter_context(EdgeProcess(spec.model, arguments)), trace)
        yield {drafts: TracedEdge(*both) for drafts, both in processes.items()}


@contextmanager
def running_links(
    profile: str, edges: dict[bool, TracedEdge], arguments: Sequence[str]
) -> Iterator[dict[bool, RunningLink]]:
    """A proxy of this profile before each edge."""
    with ExitStack() as stack:
        processes = {
            drafts: stack.enter_context(LinkProcess(profile, edge.address, arguments))
            for drafts, edge in edges.items()
        }
        yield {drafts: RunningLink(process) for drafts, process in processes.items()}


class RunningLink:
    """A proxy, and what it has carried."""

    def __init__(self, process: LinkProcess) -> None:
        host, port = process.ready()
        self.url = f"http://{host}:{port}"
        self._process = process

    @property
    def realtime(self) -> bool:
        """Whether the proxy has a real-time priority."""
        return self._process.realtime

    def bills(self) -> dict[str, dict[str, Any]]:
        """Totals so far: `up` and `down` (`benchmarks.link.model.Bill`), and the emulator's error.

        The latter is `late` (`benchmarks.link.proxy.Lateness`).
        """
        counts = self._process.counts()
        return {name: counts[name] for name in ("up", "down", "late")}

    def doubt(self) -> str | None:
        """Why the link was not the one it stands for; None where it was."""
        return doubt_of(self.bills()["late"], realtime=self.realtime)


def doubt_of(late: dict[str, Any], *, realtime: bool) -> str | None:
    """A warning where more deliveries than MAX_LATE_SHARE came over 1 ms late."""
    if late["over_1ms"] <= MAX_LATE_SHARE * late["deliveries"]:
        return None
    mean_s = late["sum_s"] / late["deliveries"]
    advice = "" if realtime else "; as root the link takes a real-time priority"
    return (
        f"the emulated link was more than 1 ms late for {late['over_1ms']} of {late['deliveries']} "
        f"deliveries ({1e3 * mean_s:.2f} ms on average, {1e3 * late['max_s']:.0f} ms at most): this "
        f"machine is too busy to play it, and its times are longer than the link's{advice}"
    )
