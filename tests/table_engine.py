"""A TargetEngine over a table of logits: the server's tests run without torch or waiting.

`gate` holds a batch back for as long as a test likes; `batches` tells what was run.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from device_runtime.protocol.edge_states import EdgeFacts, Job, Result
from edge_server.engine import common_prefix_len
from edge_server.runner import LostRunnerError
from tests.table_model import Table, TableRows, vocabulary_hash


class TableSlot:
    """The tokens of one session."""

    def __init__(self) -> None:
        self.tokens: tuple[int, ...] = ()


class TableEngine:
    """Runs jobs over a table; as strict as the real engine about who calls when."""

    def __init__(self, table: Table, context_len: int = 512, max_cached: int = 1 << 16) -> None:
        self.table = table
        self.context_len = context_len
        self.max_cached = max_cached
        self.num_evictions = 0
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[Job]] = []
        self.slots: list[TableSlot] = []
        self.dropped: list[TableSlot] = []
        self.fail: Exception | None = None
        """Raised by every batch that holds a job with the token `poison`."""
        self.poison = -1
        self.closed = False
        self.lost = False
        self._running = False

    def open(self, tenant: bytes = b"") -> TableSlot:
        slot = TableSlot()
        self.slots.append(slot)
        return slot

    def drop(self, slot: TableSlot) -> None:
        assert not self._running
        slot.tokens = ()
        self.dropped.append(slot)

    def num_new(self, slot: TableSlot, job: Job) -> int:
        assert not self._running
        kept = common_prefix_len(slot.tokens, tuple(job.tokens))
        return len(job.tokens) - min(kept, len(job.tokens) - job.num_rows)

    def run(self, batch: Sequence[tuple[TableSlot, Job]]) -> list[Result]:
        assert not self._running
        assert len({id(slot) for slot, _ in batch}) == len(batch)
        self._running = True
        try:
            self.batches.append([job for _, job in batch])
            assert self.gate.wait(10), "the test forgot to open the gate"
            if self.fail is not None and any(self.poison in job.tokens for _, job in batch):
                raise self.fail
            for slot, job in batch:
                slot.tokens = tuple(job.tokens)
            num_ids = self.table.shape[1]
            return [partial(job.read, TableRows(self.table, job, num_ids)) for _, job in batch]
        finally:
            self._running = False

    def check(self) -> None:
        if self.lost:
            raise LostRunnerError("gone")

    def close(self) -> None:
        self.closed = True

    def facts(self, end_ids: tuple[int, ...] = ()) -> EdgeFacts:
        """Facts that fit the table."""
        return EdgeFacts("table", self.table.shape[1], vocabulary_hash, self.context_len, end_ids)
