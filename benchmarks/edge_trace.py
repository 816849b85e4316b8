"""What devices said in one run, to be said again: then no SLM runs beside the edge that is measured.

The edge's draws are keyed by the generation's seed, so the same messages get the same verdicts. A
batch of another shape may round otherwise and flip one: a replay notices, counts it, and begins that
answer anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from device_runtime.generate import write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.messages import Ending, Kind, Verdict, decode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.transcript import Transcript
from device_runtime.turn import Counts
from device_runtime.writer import Device

_RECORDED = (Kind.BEGIN, Kind.ROUND, Kind.MORE)


@dataclass
class Exchange:
    """One message up and its answer, in hexadecimal, and how many tokens it committed."""

    up: str
    down: str
    num_tokens: int


@dataclass
class Trace:
    """One answer: the first exchange is the generation's beginning."""

    prompt_tokens: int
    accepted: int = 0
    judged: int = 0
    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Committed in all."""
        return sum(exchange.num_tokens for exchange in self.exchanges)

    @property
    def num_rounds(self) -> int:
        """Exchanges after the beginning."""
        return len(self.exchanges) - 1


class RecordingLink(EdgeLink):
    """A link that writes down what crosses it."""

    def __init__(self, settings: LinkSettings, session: DeviceSession, trace: Trace) -> None:
        super().__init__(settings, session)
        self._trace = trace

    async def exchange(self, data: bytes) -> bytes:
        answer = await super().exchange(data)
        if data[1] in _RECORDED:
            count = num_committed(answer) if data[1] == Kind.ROUND else 0
            self._trace.exchanges.append(Exchange(data.hex(), answer.hex(), count))
        return answer


def num_committed(answer: bytes) -> int:
    """Tokens that stand with a verdict, the one the device draws after a rejection included."""
    verdict = decode(answer)
    if not isinstance(verdict, Verdict):
        return 0
    return verdict.num_accepted + int(verdict.ending is not Ending.NOTHING)


async def record(
    url: str, device: Device, prompts: Iterable[str], *, scheme: str, gamma: int,
    sampling: Sampling, num_tokens: int,
) -> list[Trace]:  # fmt: skip
    """Real answers by the real device, one after the other."""
    traces = []
    for seed, prompt in enumerate(prompts):
        prompt_ids = device.encode(prompt, system=None)
        trace, counts = Trace(len(prompt_ids)), Counts()
        async with RecordingLink(LinkSettings(url), device.session(), trace) as link:
            generation = Generation(scheme_named(scheme), sampling, seed, ())
            detokenizer = device.tokenizer.detokenizer(prompt_ids, ())
            transcript = Transcript(detokenizer, frozenset(), num_tokens)
            link.session.append(prompt_ids)
            device.drafter.truncate(0)
            pieces = write_split(
                link, device.drafter, generation, gamma, device_coins(seed), transcript, counts
            )
            async for _ in pieces:
                pass
        trace.accepted, trace.judged = counts.accepted, counts.accepted + counts.rejected
        traces.append(trace)
    return traces


def save(path: Path, traces: Iterable[Trace]) -> None:
    """One answer a line."""
    path.write_text("".join(f"{json.dumps(asdict(trace))}\n" for trace in traces))


def load(path: Path) -> list[Trace]:
    """What `save` wrote."""
    traces = []
    for line in path.read_text().splitlines():
        data = json.loads(line)
        exchanges = [Exchange(**exchange) for exchange in data.pop("exchanges")]
        traces.append(Trace(**data, exchanges=exchanges))
    return traces
