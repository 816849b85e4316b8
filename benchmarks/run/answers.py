"""One answer over an emulated link, as the values of a record."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.run.parts import acceptance_by_place, message_gaps, round_parts
from benchmarks.run.plan import Task
from benchmarks.run.stage import RunningLink, TracedEdge
from device_runtime.link import LinkSettings
from device_runtime.protocol.sampling import Sampling
from device_runtime.writer import Answer, Device, WriteConfig, link_to
from edge_server.trace import Answered


@dataclass(frozen=True, slots=True)
class Written:
    """An answer with what was seen from outside."""

    answer: Answer
    connect_s: float | None
    busy_s: float
    """CPU time of this process, which plays the device, over all threads."""
    bills: dict[str, dict[str, Any]] | None
    """What the link carried for the answer, each way, and how late; its connection apart."""
    jobs: tuple[Answered, ...]
    arrivals_s: tuple[float, ...]
    """When each message's text was there; a device that writes alone has a message a token."""

    def values(self) -> dict[str, Any]:
        """By the keys of `benchmarks.record_keys`."""
        answer = self.answer
        summary = answer.summary()
        judged, accepted = acceptance_by_place(answer.round_clocks)
        parts = round_parts(answer.round_clocks, self.jobs)
        values = {
            **{name: value for name, value in summary.items() if name != "text"},
            **{f"round_{name}_s": seconds for name, seconds in parts.items()},
            "message_gaps_s": message_gaps(self.arrivals_s),
            "connect_s": self.connect_s,
            "device_busy_s": self.busy_s,
            "judged_at": judged or None,
            "accepted_at": accepted or None,
            "engine_s": sum(job.engine_s for job in self.jobs) if self.jobs else None,
        }
        return values | self._link_values()

    def _link_values(self) -> dict[str, Any]:
        if self.bills is None:
            return {}
        late = self.bills["late"]
        deliveries = late["deliveries"] or 1
        return {
            "wire_bytes_up": self.bills["up"]["wire_bytes"],
            "wire_bytes_down": self.bills["down"]["wire_bytes"],
            "link_late_s": late["sum_s"] / deliveries,
            "link_late_share": late["over_1ms"] / deliveries,
        }


def write_answer(
    device: Device,
    task: Task,
    sampling: Sampling,
    max_tokens: int,
    edge: TracedEdge | None,
    link: RunningLink | None,
) -> Written:
    """Write one answer; edge and link are needed unless the device writes alone."""
    arm = task.arm
    config = WriteConfig(
        arm.mode, arm.scheme or "dssd-thinned", arm.gamma or 0, sampling, max_tokens,
        seed=task.seed, device_seed=task.device_seed, lossy=not arm.lossless,
    )  # fmt: skip
    answer = Answer(device, config, device.encode(task.prompt.text, system=None))
    device.drafter.truncate(0)
    return asyncio.run(_written(device, answer, edge, link))


async def _written(
    device: Device, answer: Answer, edge: TracedEdge | None, link: RunningLink | None
) -> Written:
    async with AsyncExitStack() as stack:
        connect_s = before = after = way = None
        if link is not None:
            started_s = time.monotonic()
            way = await stack.enter_async_context(link_to(LinkSettings(link.url), device))
            connect_s, before = time.monotonic() - started_s, link.bills()
        busy_s = time.process_time()
        arrivals_s: list[float] = []
        async for _ in answer.pieces(way):  # those of one message follow without a pause
            newest_s = answer.transcript.times_s[-1]
            if arrivals_s[-1:] != [newest_s]:
                arrivals_s.append(newest_s)
        busy_s = time.process_time() - busy_s
        if link is not None:
            after = link.bills()
    jobs: tuple[Answered, ...] = ()
    if edge is not None:
        started_s = answer.transcript.started_s
        noted = edge.jobs(at_least=1 + len(answer.round_clocks))
        jobs = tuple(job for job in noted if job.sent_s > started_s)
    return Written(answer, connect_s, busy_s, _difference(before, after), jobs, tuple(arrivals_s))


def _difference(
    before: dict[str, dict[str, Any]] | None, after: dict[str, dict[str, Any]] | None
) -> dict[str, dict[str, Any]] | None:
    if before is None or after is None:
        return None
    return {
        way: {name: after[way][name] - before[way][name] for name in after[way]} for way in after
    }
