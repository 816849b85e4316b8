"""Speculation wholly on the edge: a draft model beside the target, on the same kind of engine.

A stream's job tells how its next tokens may be drafted and will be judged. Before each batch the
draft model adds a block to every such job, all of them together, one token after the other; then one
pass of the target judges the blocks beside the rounds of devices. It is the fair rival of drafting
on the device: same engine, same cache, same schemes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from device_runtime.protocol.edge_states import Job, Result, Rows
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.judging import DraftedRows, Judging
from device_runtime.protocol.sampling import LogitsError
from device_runtime.protocol.schemes.on_edge import OnEdge
from device_runtime.protocol.vocabulary import Entry
from edge_server.checkpoint import Checkpoint
from edge_server.engine import Slot, TorchEngine
from edge_server.facts import read_tokens
from edge_server.residual import OnEdgeHere

CATCH_UP_TOKENS = 256
"""So many tokens of prompts the draft model reads beside a batch, over all sessions together; those
that are further behind draft nothing yet."""


@dataclass(slots=True, eq=False)
class TwoSlots:
    """One session's text in the caches of both models."""

    target: Slot
    draft: Slot


class DraftingEngine:
    """A `TargetEngine` that drafts for streams before it judges."""

    def __init__(self, target: TorchEngine, draft: TorchEngine) -> None:
        """The draft model must know a prefix of the target's ids, and no others."""
        self.target = target
        self.draft = draft
        self.num_passes = 0
        """Of the draft model."""

    @property
    def context_len(self) -> int:
        return self.target.context_len

    @property
    def max_cached(self) -> int:
        return min(self.target.max_cached, self.draft.max_cached)

    @property
    def num_evictions(self) -> int:
        return self.target.num_evictions

    @property
    def num_free_blocks(self) -> int:
        """Of the target's cache."""
        return self.target.num_free_blocks

    def open(self, tenant: bytes = b"") -> TwoSlots:
        return TwoSlots(self.target.open(tenant), self.draft.open(tenant))

    def check(self) -> None:
        self.target.check()
        self.draft.check()

    def close(self) -> None:
        self.target.close()
        self.draft.close()

    def drop(self, slot: TwoSlots) -> None:
        self.target.drop(slot.target)
        self.draft.drop(slot.draft)

    def num_new(self, slot: TwoSlots, job: Job) -> int:
        drafts = max(0, job.judging.gamma) if job.judging else 0
        return self.target.num_new(slot.target, job) + drafts

    def run(self, batch: Sequence[tuple[TwoSlots, Job]]) -> list[Result]:
        blocks = self._draft([(slot.draft, job.judging) for slot, job in batch if job.judging])
        return self.target.run(
            [(slot.target, _with_block(job, blocks.get(slot.draft))) for slot, job in batch]
        )

    def _draft(self, wishes: Sequence[tuple[Slot, Judging]]) -> dict[Slot, Judging]:
        """A block for every stream whose text the draft model has read and has room for."""
        blocks: dict[Slot, Judging] = {}
        texts: dict[Slot, tuple[int, ...]] = {}
        behind: list[tuple[Slot, Job]] = []
        budget = CATCH_UP_TOKENS
        for slot, judging in wishes:
            if judging.gamma <= 0 or len(judging.tokens) + judging.gamma > self.draft.context_len:
                continue
            tokens = self._known(judging.tokens)
            num_new = self.draft.num_new(slot, Job(tokens, 1))
            is_read = num_new <= judging.gamma + 1  # but for what the last round added
            if is_read or num_new <= budget:
                blocks[slot], texts[slot] = _judged_here(judging), tokens
                budget -= 0 if is_read else num_new
            elif budget > 0:
                behind.append((slot, Job(tokens[: len(tokens) - num_new + budget], 0)))
                budget = 0
        if behind:
            self._run_draft(behind)
        while going := [slot for slot, own in blocks.items() if not own.is_full]:
            jobs = [(slot, Job(texts[slot], 1, partial(_drafted, blocks[slot]))) for slot in going]
            for slot, result in zip(going, self._run_draft(jobs), strict=True):
                try:
                    blocks[slot] = result()
                except LogitsError:  # of the draft model: its stream goes on without drafts
                    del blocks[slot]
                else:
                    texts[slot] = (*texts[slot], blocks[slot].tokens[-1])
        return blocks

    def _run_draft(self, jobs: Sequence[tuple[Slot, Job]]) -> list[Result]:
        self.num_passes += 1
        return self.draft.run(jobs)

    def _known(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """An id that only the target knows becomes 0: the draft is worse, the text is not."""
        num_ids = self.draft.num_ids
        if num_ids >= self.target.num_ids or max(tokens) < num_ids:
            return tokens
        return tuple(token_id if token_id < num_ids else 0 for token_id in tokens)


def _judged_here(judging: Judging) -> Judging:
    """Its replacements are drawn where the laws are."""
    is_textbook = isinstance(judging.scheme, OnEdge)
    return replace(judging, scheme=_ON_EDGE) if is_textbook else judging


_ON_EDGE = OnEdgeHere()


def _drafted(judging: Judging, rows: Rows) -> Judging:
    """With a token from the draft model's law after the text."""
    return judging.drafted(rows.law(0, judging.sampling, judging.generated()))


def _with_block(job: Job, judging: Judging | None) -> Job:
    """The job over a text that ends with the block, which its `read` is told of."""
    if judging is None:
        return job

    def read(rows: Rows) -> object:
        return job.read(DraftedRows(rows, judging))

    return Job(judging.tokens, judging.num_rows, read, judging)


def num_shared_ids(checkpoint: Checkpoint, target_tokens: Sequence[Entry]) -> int:
    """How many ids this draft model shares with the target: all that both define, or ConfigError."""
    tokens = read_tokens(checkpoint.folder)
    count = min(len(tokens), len(target_tokens))
    if list(tokens[:count]) != list(target_tokens[:count]):
        raise ConfigError(
            f"the first {count} tokens of {checkpoint.name} and of the target differ; draft with a "
            "model of the target's family (--edge-draft)"
        )
    return count
