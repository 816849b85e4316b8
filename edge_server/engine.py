"""The engine: jobs of many sessions in, their results out, one forward pass per batch.

A slot is what the engine remembers of a session: the tokens whose keys and values are in the
cache, and the blocks that hold them. A job names all its tokens; the engine keeps the common
prefix, forgets the rest and runs what is new. So a slot may be emptied at any time: its next job
just runs more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from device_runtime.protocol.edge_states import Job, Result
from device_runtime.protocol.errors import TandemError
from edge_server.batch import Piece
from edge_server.blocks import BLOCK_LEN, FreeBlocks, num_blocks_for
from edge_server.reads import read_rows
from edge_server.runner import Runner
from edge_server.sharing import SharedBlocks

S = TypeVar("S")

_OFTEN_UNLIKE = 16
"""A text differs mostly in its last tokens from what is cached: drafts that were rejected."""


class CacheFullError(TandemError):
    """The jobs of a batch do not fit into the cache together."""

    def __init__(self, num_wanted: int, num_there: int) -> None:
        super().__init__(
            f"a batch needs {num_wanted} cache blocks of {BLOCK_LEN} tokens, but there are "
            f"{num_there}; run fewer jobs at a time, or give the cache more memory"
        )


class TargetEngine(Protocol[S]):
    """What the scheduler drives. Calls do not overlap, except for `open` and `check`."""

    @property
    def context_len(self) -> int:
        """Longest text a slot can hold."""
        ...

    @property
    def max_cached(self) -> int:
        """Tokens the cache can hold over all slots."""
        ...

    @property
    def num_evictions(self) -> int:
        """How often a slot lost its memory to others."""
        ...

    def open(self, tenant: bytes = b"") -> S:
        """A slot for a new session; it costs nothing before its first job.

        Sessions of one tenant may share the cache of their texts' beginnings; those of b"" do not.
        """
        ...

    def drop(self, slot: S) -> None:
        """Give the slot's memory back; a later job runs all its tokens again."""
        ...

    def num_new(self, slot: S, job: Job) -> int:
        """Tokens the model must run for this job as things stand."""
        ...

    def run(self, batch: Sequence[tuple[S, Job]]) -> list[Result]:
        """Do jobs of different slots in one forward pass."""
        ...

    def check(self) -> None:
        """LostRunnerError if no job will ever succeed; may be called while `run` is under way."""
        ...

    def close(self) -> None:
        """It is not used any more."""
        ...


class Slot:
    """The part of one session's text that is in the cache."""

    __slots__ = ("blocks", "tenant", "tokens")

    def __init__(self, tenant: bytes = b"") -> None:
        self.tenant = tenant
        self.tokens: tuple[int, ...] = ()
        """Never more than `blocks` hold."""
        self.blocks: list[int] = []


class TorchEngine:
    """Bookkeeping over a runner's cache: which session has which blocks, and what is in them."""

    def __init__(self, runner: Runner, *, num_ids: int, context_len: int, max_blocks: int) -> None:
        """The runner must be this engine's own.

        num_ids: ids the tokenizer defines; logits beyond are padding.
        """
        self.runner = runner
        self.num_ids = num_ids
        self.max_blocks = max_blocks
        self._context_len = min(context_len, self.max_cached)
        self._free = FreeBlocks(runner, max_blocks)
        self._least_recent: dict[Slot, int] = {}
        """Slots that hold blocks and when they were used, the longest ago first."""
        self._now = 0
        """Counts uses: what orders slots and idle blocks."""
        self._num_evictions = 0
        self._shared = SharedBlocks(max_blocks // 2)
        self.reads_together = runner.device.type == "cuda"
        """Whether the jobs of a batch read their rows in `run`, all together."""

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def max_cached(self) -> int:
        return (self.max_blocks - 1) * BLOCK_LEN

    @property
    def num_evictions(self) -> int:
        return self._num_evictions

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no slot holds, those kept for a text that begins as an earlier one included."""
        return len(self._free) + self._shared.num_idle

    def open(self, tenant: bytes = b"") -> Slot:
        return Slot(tenant)

    def check(self) -> None:
        self.runner.check()

    def close(self) -> None:
        self.runner.close()

    def drop(self, slot: Slot) -> None:
        self._now += 1
        self._empty(slot, self._now)

    def _empty(self, slot: Slot, now: int | None) -> None:
        """now: others may still come to what the slot shared; None: its room is needed."""
        self._free.give_back(self._shared.release(slot.blocks, now))
        slot.tokens, slot.blocks = (), []
        self._least_recent.pop(slot, None)

    def num_new(self, slot: Slot, job: Job) -> int:
        if not slot.blocks:
            slot.blocks = self._shared.adopt(slot.tenant, job.tokens)
            slot.tokens = tuple(job.tokens[: len(slot.blocks) * BLOCK_LEN])
            self._used(slot)
        return len(job.tokens) - self._start(slot, job)

    def _used(self, slot: Slot) -> None:
        """The slot is the last one to be evicted now, if it holds anything."""
        self._now += 1
        self._least_recent.pop(slot, None)
        if slot.blocks:
            self._least_recent[slot] = self._now

    def _start(self, slot: Slot, job: Job) -> int:
        """The first position to run: what is cached is kept, but wanted rows must be computed.

        A block that others read, too, is not written to: its part of the text runs again, into a
        block of its own.
        """
        tokens = tuple(job.tokens)
        start = min(common_prefix_len(slot.tokens, tokens), len(tokens) - job.num_rows)
        first = start // BLOCK_LEN
        if first < len(slot.blocks) and self._shared.num_holders(slot.blocks[first]) > 1:
            return first * BLOCK_LEN
        return start

    def run(self, batch: Sequence[tuple[Slot, Job]]) -> list[Result]:
        jobs = [job for _, job in batch]
        return read_rows(self.logits(batch), jobs, self.num_ids, together=self.reads_together)

    def logits(self, batch: Sequence[tuple[Slot, Job]]) -> list[Tensor]:
        """Logits (num_rows, vocab) for each job; float32, or float64 if the model is."""
        assert len({id(slot) for slot, _ in batch}) == len(batch), "one job per slot"
        num_wanted = sum(num_blocks_for(len(job.tokens)) for _, job in batch)
        if num_wanted > self.max_blocks - 1:
            raise CacheFullError(num_wanted, self.max_blocks - 1)
        starts = [self._start(slot, job) for slot, job in batch]
        for (slot, _), start in zip(batch, starts, strict=True):
            slot.tokens = slot.tokens[:start]  # true also if what follows fails half way
        self._reserve(batch, starts)
        pieces = []
        for (slot, job), start in zip(batch, starts, strict=True):
            if start < len(job.tokens):
                pieces.append(Piece(job.tokens[start:], start, slot.blocks, job.num_rows))
        rows = self.runner.run(pieces) if pieces else torch.empty(0)
        for slot, job in batch:
            slot.tokens = tuple(job.tokens)
            if job.num_rows == 0:  # a prompt: nothing in it will be rejected
                self._shared.offer(slot.tenant, slot.tokens, slot.blocks)
        return list(torch.split(rows, [job.num_rows for _, job in batch]))

    def _reserve(self, batch: Sequence[tuple[Slot, Job]], starts: Sequence[int]) -> None:
        """Give every slot of the batch just the blocks it needs; others may lose theirs."""
        counts = [num_blocks_for(len(job.tokens)) for _, job in batch]
        try:
            for (slot, _), count, start in zip(batch, counts, starts, strict=True):
                self._least_recent.pop(slot, None)  # not to be evicted
                kept = min(count, self._num_writable(slot, start))
                given, slot.blocks = slot.blocks[kept:], slot.blocks[:kept]
                self._now += 1
                self._free.give_back(self._shared.release(given, self._now))
            self._make_room(sum(counts) - sum(len(slot.blocks) for slot, _ in batch))
            for (slot, _), count in zip(batch, counts, strict=True):
                slot.blocks += self._free.take(count - len(slot.blocks))
        finally:
            for slot, _ in batch:
                self._used(slot)

    def _make_room(self, num_blocks: int) -> None:
        """Free so many blocks: of what was used longest ago, be it a slot's or idle."""
        while len(self._free) < num_blocks:
            slot, used = next(iter(self._least_recent.items()), (None, self._now + 1))
            idle_since = self._shared.idle_since
            if idle_since is not None and idle_since < used:
                self._free.give_back(self._shared.forget_oldest())
            elif slot is not None:
                self._empty(slot, None)
                self._num_evictions += 1
            else:
                raise CacheFullError(num_blocks, len(self._free))

    def _num_writable(self, slot: Slot, start: int) -> int:
        """Up to which of its blocks a slot may write from `start` on: others read the rest, too."""
        for index in range(start // BLOCK_LEN, len(slot.blocks)):
            if self._shared.num_holders(slot.blocks[index]) > 1:
                return index
            self._free.give_back(self._shared.withdraw(slot.blocks[index]))
        return len(slot.blocks)


def common_prefix_len(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first items are equal. Slices are compared, because that loop runs in C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    nearly = max(0, high - _OFTEN_UNLIKE)
    if a[:nearly] == b[:nearly]:
        low = nearly
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
