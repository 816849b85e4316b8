"""What devices said in one run, to be said again: then no SLM runs beside the edge that is measured.

The edge's draws are keyed by the generation's seed, so the same messages get the same verdicts. A
batch of another shape may round otherwise and flip one: a replay notices, counts it, and begins that
answer anew. Under other weights or settings every answer would end so: a file of answers names what
they were recorded with, and holds for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from device_runtime.generate import write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.messages import Ending, Kind, Verdict, decode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.transcript import Transcript
from device_runtime.turn import Counts
from device_runtime.writer import Device

_RECORDED = (Kind.BEGIN, Kind.ROUND, Kind.MORE)


@dataclass(frozen=True)
class Terms:
    """What answers are recorded with: the first line of their file."""

    llm: str
    """Digest of the weights."""
    slm: str
    scheme: str
    gamma: int
    temperature: float
    top_p: float
    max_tokens: int
    num_answers: int

    def differences(self, found: dict[str, Any]) -> list[str]:
        """Where a file's terms are others, in words."""
        return [
            f"{name} {found.get(name)}, not {value}"
            for name, value in asdict(self).items()
            if found.get(name) != value
        ]


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


def save(path: Path, traces: Iterable[Trace], terms: Terms) -> None:
    """The terms, then one answer a line."""
    lines = ({"terms": asdict(terms)}, *(asdict(trace) for trace in traces))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def load(path: Path, terms: Terms) -> list[Trace]:
    """What `save` wrote; ConfigError where that was under other terms, or is not whole."""
    try:
        head, *lines = map(json.loads, path.read_text().splitlines())
        differences = terms.differences(dict(head["terms"]))
        traces = [_trace(line) for line in lines]
    except (ValueError, LookupError, TypeError):
        raise ConfigError(
            f"{path} holds no answers of this version of tandem bench edge; "
            "give another --trace to record new ones"
        ) from None
    if differences:
        raise ConfigError(
            f"the answers in {path} were recorded with {'; '.join(differences)}: give the options "
            "as they were then, or another --trace to record new ones"
        )
    if len(traces) != terms.num_answers:
        raise ConfigError(
            f"{path} was cut off: {len(traces)} answers of {terms.num_answers} are there; "
            "give another --trace to record new ones"
        )
    return traces


def _trace(line: dict[str, Any]) -> Trace:
    exchanges = [Exchange(**exchange) for exchange in line.pop("exchanges")]
    return Trace(**line, exchanges=exchanges)
