"""Which of the waiting jobs run next, and how much of each: a pure function.

Rounds are short and somebody waits for each of them; prompts are long. So every batch takes rounds
first, in the order in which they came, but leaves prompts a share of its tokens: a long prompt is
cut into chunks that run beside the rounds, and neither stalls the other. A prompt that had its
chunk queues up behind the others; one that lost its chunks to them keeps its turn. As a session has
at most one job at a time, first come, first served is also fair between sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROUND_TOKENS = 128
"""A job with at most so many new tokens runs in one go: the largest block and what came before."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job as the plan sees it."""

    num_new: int
    """Tokens the model must still run for it."""
    num_tokens: int
    """Its whole text: what it needs of the cache."""
    is_round: bool
    """Short, and to be done in one go."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much fits into one batch."""

    max_rows: int
    max_tokens: int
    """New tokens."""
    prefill_tokens: int
    """Of these, how many are kept for prompts while rounds wait."""
    max_cached: int
    """Tokens of all texts of the batch together."""
    cache_block: int = 1
    """A text takes up a multiple of that many tokens of the cache."""
    length_ratio: float = 0.0
    """Length-aware batching (LAB of DSD, arXiv 2511.21669): rounds run only beside rounds whose
    text is at most so many times longer or shorter than the first one's; 0 takes them as they
    come. The batch pads little anyway (`edge_server.batch`), so waiting for one's like costs more
    than it saves: `tandem bench edge` compares the two."""


@dataclass(frozen=True, slots=True)
class Share:
    """Run `num_new` of a waiting job's new tokens; all of them if it has no more."""

    index: int
    num_new: int


def plan(waiting: Sequence[Waiting], limits: Limits) -> list[Share]:
    """The next batch out of the waiting jobs, which stand in the order of their turn.

    The job at the front always runs, even a round that is larger than any batch. As a prompt goes
    to the back after its chunk, or stays until it is done, every job is done in the end.
    """
    if not waiting:
        return []
    batch = _Batch(waiting, limits)
    rounds = [i for i, job in enumerate(waiting) if i > 0 and job.is_round]
    if limits.length_ratio:
        rounds = _alike(rounds, waiting, limits.length_ratio)
    prompts = [i for i, job in enumerate(waiting) if i > 0 and not job.is_round]
    is_shared = bool(rounds) or waiting[0].is_round
    for_prompts = limits.prefill_tokens if is_shared else limits.max_tokens
    if waiting[0].is_round:
        batch.add(0, waiting[0].num_new)
    else:
        for_prompts -= batch.add(0, min(waiting[0].num_new, for_prompts))
    kept = for_prompts if prompts else 0
    for index in rounds:
        if not batch.fits(index, waiting[index].num_new + kept):
            break
        batch.add(index, waiting[index].num_new)
    for index in prompts:
        num_new = min(waiting[index].num_new, for_prompts, limits.max_tokens - batch.num_new)
        if num_new <= 0 or not batch.fits(index, num_new):
            break
        for_prompts -= batch.add(index, num_new)
    return batch.shares


def _alike(rounds: Sequence[int], waiting: Sequence[Waiting], ratio: float) -> list[int]:
    """Rounds whose texts are about as long as that of the round whose turn it is."""
    leader = 0 if waiting[0].is_round else rounds[0] if rounds else 0
    length = waiting[leader].num_tokens
    return [i for i in rounds if length <= ratio * waiting[i].num_tokens <= ratio**2 * length]


class _Batch:
    """Shares so far and what they use up."""

    def __init__(self, waiting: Sequence[Waiting], limits: Limits) -> None:
        self._waiting = waiting
        self._limits = limits
        self._num_cached = 0
        self.num_new = 0
        self.shares: list[Share] = []

    def fits(self, index: int, num_new: int) -> bool:
        """Whether there is room for one job more and that many new tokens."""
        limits = self._limits
        return (
            len(self.shares) < limits.max_rows
            and self.num_new + num_new <= limits.max_tokens
            and self._num_cached + self._needed(index) <= limits.max_cached
        )

    def add(self, index: int, num_new: int) -> int:
        """Run that many tokens of a job; how many."""
        self.shares.append(Share(index, num_new))
        self.num_new += num_new
        self._num_cached += self._needed(index)
        return num_new

    def _needed(self, index: int) -> int:
        """Tokens of the cache that the job's text takes up."""
        block = self._limits.cache_block
        return -(-self._waiting[index].num_tokens // block) * block
