"""What a batch costs an engine with all that belongs to it: laws, judging, draws.

Blocks are made up so that a given share of their tokens stands, and judged for real: a token that
shall stand is the most probable one, a token that shall not is one without any probability. Texts
before them are taken as read (`benchmarks.edge_passes`). On a CPU laws are made when each session
judges, after the pass; that is timed, too, so that all arms pay for all their laws everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.edge_passes import pretend_read, timed_s
from device_runtime.protocol.edge_states import Job, Rows
from device_runtime.protocol.judging import Judging, judging_of
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import DEFAULT_SCHEME, scheme_named
from device_runtime.protocol.schemes.base import Ask, Drafted
from device_runtime.protocol.schemes.on_edge import scheme_on_edge
from device_runtime.protocol.verify import Judgement, RoundKey
from edge_server.edge_draft import DraftingEngine, TwoSlots
from edge_server.engine import Slot, TorchEngine

SAMPLING = Sampling(temperature=0.8, top_p=0.9)
NUM_DRAWS = 16
"""That a device asks for on a rejection."""
_GOLDEN = 0.6180339887498949
"""Multiples of it fill the unit interval evenly: few rounds suffice for the share wanted."""


@dataclass(frozen=True)
class Timed:
    """Seconds of a batch, and what came of its rounds."""

    seconds: float
    tokens_per_round: float


def stream_s(engine: TorchEngine, num_sessions: int, context: int, repeats: int = 5) -> float:
    """A batch of streams: the LLM writes one token for each session."""
    slots = pretend_read(engine, num_sessions, context)
    jobs = [
        _stream_job(_judging(tokens, context, (), number))
        for number, tokens in enumerate(_texts(num_sessions, context))
    ]
    return _timed(engine, slots, context, lambda _: jobs, repeats).seconds


def verify_s(
    engine: TorchEngine, num_sessions: int, context: int, gamma: int, alpha: float,
    repeats: int = 5,
) -> Timed:  # fmt: skip
    """A batch of devices' rounds, of whose drafted tokens the share `alpha` stands."""
    slots = pretend_read(engine, num_sessions, context)
    texts = _texts(num_sessions, context)
    likely, unlikely = _continuations(engine, slots, texts, gamma)

    def jobs(repeat: int) -> list[Job]:
        found = []
        for number, text in enumerate(texts):
            num_standing = standing(number + num_sessions * repeat, gamma, alpha)
            ids = [*likely[number][:gamma]]
            if num_standing < gamma:
                ids[num_standing] = unlikely[number][num_standing]
            tokens = (*text, *ids)
            judging = _judging(tokens, context, ids, number + num_sessions * repeat)
            found.append(Job(tokens, gamma + 1, judging.judge))
        return found

    return _timed(engine, slots, context, jobs, repeats)


def drafting_s(
    engine: DraftingEngine, num_sessions: int, context: int, gamma: int, repeats: int = 5
) -> float:
    """A batch of streams for which the edge drafts, too, whatever comes of its drafts."""
    pairs = zip(
        pretend_read(engine.target, num_sessions, context),
        pretend_read(engine.draft, num_sessions, context),
        strict=True,
    )
    slots = [TwoSlots(target, draft) for target, draft in pairs]
    jobs = [
        _stream_job(_judging(tokens, context, (), number, gamma))
        for number, tokens in enumerate(_texts(num_sessions, context))
    ]
    return _timed(engine, slots, context, lambda _: jobs, repeats).seconds


def standing(number: int, gamma: int, alpha: float) -> int:
    """How many drafted tokens of the block of this number stand: evenly spread over all numbers."""
    if alpha >= 1:
        return gamma
    share = ((number + 0.5) * _GOLDEN) % 1.0
    return min(gamma, int(math.log(share) / math.log(alpha))) if alpha > 0 else 0


def _texts(num_sessions: int, context: int) -> list[tuple[int, ...]]:
    """Texts taken as read, and the token that each device or stream adds."""
    return [(*(1,) * context, 2 + number) for number in range(num_sessions)]


def _judging(
    tokens: Sequence[int], context: int, ids: Sequence[int], number: int, gamma: int = 0
) -> Judging:
    scheme = scheme_named(DEFAULT_SCHEME)
    block = tuple(Drafted(token_id, 1) for token_id in ids)  # the least index: stands if it can
    return Judging(
        scheme_on_edge(scheme) if gamma else scheme, SAMPLING, context, RoundKey(7, 0, number),
        tuple(tokens), block, ask=Ask(NUM_DRAWS), gamma=gamma,
    )  # fmt: skip


def _stream_job(judging: Judging) -> Job:
    def read(rows: Rows) -> Judgement:
        return judging_of(rows, judging).judge(rows)

    return Job(judging.tokens, 1, read, judging)


def _continuations(
    engine: TorchEngine, slots: Sequence[Slot], texts: Sequence[tuple[int, ...]], count: int
) -> tuple[list[list[int]], list[list[int]]]:
    """The most probable tokens after each text, and at each of these places the least."""
    likely: list[list[int]] = [[] for _ in texts]
    unlikely: list[list[int]] = [[] for _ in texts]
    for _ in range(count):
        jobs = [Job((*text, *ids), 1) for text, ids in zip(texts, likely, strict=True)]
        rows = engine.logits(list(zip(slots, jobs, strict=True)))
        for number, row in enumerate(rows):
            likely[number].append(int(row[0, : engine.num_ids].argmax()))
            unlikely[number].append(int(row[0, : engine.num_ids].argmin()))
    return likely, unlikely


def _timed(
    engine: Any, slots: Sequence[Any], context: int, jobs: Callable[[int], list[Job]], repeats: int
) -> Timed:
    """Median of batches as a server runs them; then the slots are given back."""
    waiting = [list(zip(slots, jobs(repeat), strict=True)) for repeat in range(repeats + 1)]
    judged: list[Judgement] = []

    def rewind() -> None:
        for slot in slots:
            for own in (slot.target, slot.draft) if isinstance(slot, TwoSlots) else (slot,):
                own.tokens = own.tokens[:context]

    def work() -> None:
        judged.extend(result() for result in engine.run(waiting.pop()))

    seconds = timed_s(work, repeats, rewind)
    for slot in slots:
        engine.drop(slot)
    return Timed(seconds, sum(own.num_accepted + 1 for own in judged) / len(judged))
