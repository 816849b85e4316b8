"""The engine: jobs of many sessions in, rows of logits out, one forward pass per batch.

A slot is what the engine remembers of a session: the tokens whose keys and values are in the
cache, and the blocks that hold them. A job names all its tokens; the engine keeps the common
prefix, forgets the rest and runs what is new. So a slot may be emptied at any time: its next job
just runs more.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from device_runtime.protocol.edge_states import Job, Rows
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import Sampling, to_law
from edge_server.attention import forward_pass
from edge_server.batch import Packed, Piece, pack
from edge_server.cache import BLOCK_LEN, PagedCache, num_blocks_for
from edge_server.law import to_laws

S = TypeVar("S")


class CacheFullError(TandemError):
    """The jobs of a batch do not fit into the cache together."""

    def __init__(self, num_wanted: int, num_there: int) -> None:
        super().__init__(
            f"a batch needs {num_wanted} cache blocks of {BLOCK_LEN} tokens, but there are "
            f"{num_there}; run fewer jobs at a time, or give the cache more memory"
        )


class TargetEngine(Protocol[S]):
    """What the scheduler drives. Calls do not overlap, except for `open`."""

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

    def open(self) -> S:
        """A slot for a new session; it costs nothing before its first job."""
        ...

    def drop(self, slot: S) -> None:
        """Give the slot's memory back; a later job runs all its tokens again."""
        ...

    def num_new(self, slot: S, job: Job) -> int:
        """Tokens the model must run for this job as things stand."""
        ...

    def run(self, batch: Sequence[tuple[S, Job]]) -> list[Rows]:
        """Do jobs of different slots in one forward pass."""
        ...


class Slot:
    """The part of one session's text that is in the cache."""

    __slots__ = ("blocks", "tokens")

    def __init__(self) -> None:
        self.tokens: tuple[int, ...] = ()
        self.blocks: list[int] = []


class LogitRows:
    """Logits (rows, vocab) of a job's last positions; a law is made when it is asked for."""

    def __init__(self, logits: Tensor, num_ids: int) -> None:
        self._logits = logits
        self._num_ids = num_ids

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        if self._logits.is_cuda:
            rows = self._logits[row : row + 1]
            return to_laws(rows, [sampling], [generated], self._num_ids)[0]
        # Row by row numpy is faster than torch, and rows after a rejection are never asked for.
        return to_law(self._logits[row].numpy(), sampling, generated, self._num_ids)


class TorchEngine:
    """A causal language model of `transformers` with a paged cache."""

    def __init__(
        self, model: PreTrainedModel, *, num_ids: int, context_len: int, max_blocks: int
    ) -> None:
        """The model must have been loaded with the attention function `attention.NAME`.

        num_ids: ids the tokenizer defines; logits beyond are padding.
        """
        self.model = model
        self._num_ids = num_ids
        self._max_blocks = max_blocks
        self._context_len = min(context_len, self.max_cached)
        self._cache = PagedCache(model.config.get_text_config().num_hidden_layers, max_blocks)
        self._selects_rows = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._least_recent: dict[Slot, None] = {}
        """Slots that hold blocks, the one used longest ago first."""
        self._num_evictions = 0

    @property
    def context_len(self) -> int:
        return self._context_len

    @property
    def max_cached(self) -> int:
        return (self._max_blocks - 1) * BLOCK_LEN

    @property
    def num_evictions(self) -> int:
        return self._num_evictions

    @property
    def block_bytes(self) -> int:
        """Bytes of one cache block, once the model has run."""
        return self._cache.block_bytes

    @property
    def num_free_blocks(self) -> int:
        """Blocks that no slot holds."""
        return self._cache.num_free

    def open(self) -> Slot:
        return Slot()

    def drop(self, slot: Slot) -> None:
        self._cache.give_back(slot.blocks)
        slot.tokens, slot.blocks = (), []
        self._least_recent.pop(slot, None)

    def num_new(self, slot: Slot, job: Job) -> int:
        return len(job.tokens) - self._start(slot, job)

    @staticmethod
    def _start(slot: Slot, job: Job) -> int:
        """The first position to run: what is cached is kept, but wanted rows must be computed."""
        tokens = tuple(job.tokens)
        return min(common_prefix_len(slot.tokens, tokens), len(tokens) - job.num_rows)

    def run(self, batch: Sequence[tuple[Slot, Job]]) -> list[Rows]:
        return [LogitRows(logits, self._num_ids) for logits in self.logits(batch)]

    @torch.inference_mode()
    def logits(self, batch: Sequence[tuple[Slot, Job]]) -> list[Tensor]:
        """Logits (num_rows, vocab) for each job; float32, or float64 if the model is."""
        assert len({id(slot) for slot, _ in batch}) == len(batch), "one job per slot"
        starts = [self._start(slot, job) for slot, job in batch]
        self._reserve(batch)
        pieces = []
        for (slot, job), start in zip(batch, starts, strict=True):
            slot.tokens = slot.tokens[:start]  # true also if the pass fails half way
            if start < len(job.tokens):
                pieces.append(Piece(job.tokens[start:], start, slot.blocks, job.num_rows))
        rows = self._forward(pack(pieces, self.model.device)) if pieces else torch.empty(0)
        for slot, job in batch:
            slot.tokens = tuple(job.tokens)
        return list(torch.split(rows, [job.num_rows for _, job in batch]))

    def _forward(self, packed: Packed) -> Tensor:
        """Logits (wanted, vocab) of one pass over packed tokens."""
        selection = {"logits_to_keep": packed.wanted} if self._selects_rows else {}
        with forward_pass(packed, self._cache):
            output = self.model(
                input_ids=packed.token_ids,
                position_ids=packed.positions,
                past_key_values=self._cache,
                use_cache=True,
                **selection,
            )
        logits: Tensor = output.logits[0]
        if not self._selects_rows:
            logits = logits[packed.wanted]
        return logits if logits.dtype == torch.float64 else logits.float()

    def _reserve(self, batch: Sequence[tuple[Slot, Job]]) -> None:
        """Give every slot of the batch just the blocks it needs; others may lose theirs."""
        counts = [num_blocks_for(len(job.tokens)) for _, job in batch]
        if sum(counts) > self._max_blocks - 1:
            raise CacheFullError(sum(counts), self._max_blocks - 1)
        for (slot, _), count in zip(batch, counts, strict=True):
            self._cache.give_back(slot.blocks[count:])
            del slot.blocks[count:]
            self._least_recent.pop(slot, None)
        num_missing = sum(counts) - sum(len(slot.blocks) for slot, _ in batch)
        while self._cache.num_free < num_missing:
            self.drop(next(iter(self._least_recent)))
            self._num_evictions += 1
        for (slot, _), count in zip(batch, counts, strict=True):
            slot.blocks += self._cache.take(count - len(slot.blocks))
            self._least_recent[slot] = None


def common_prefix_len(a: Sequence[int], b: Sequence[int]) -> int:
    """How many first items are equal. Slices are compared, because that loop runs in C."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
