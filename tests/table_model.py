"""A language model that is a table: the logits after a token depend on that token alone.

It stands for the SLM (`TableDrafter`) and for the LLM (`TableRows`) where a test wants two sessions,
their messages and nothing else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.device_session import DeviceSession
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import Sampling, to_law

Table = NDArray[np.float32]

_resume_tokens = (count.to_bytes(16, "little") for count in itertools.count(1))


def random_table(vocab_size: int, seed: int, spread: float = 2.0) -> Table:
    """Logits (vocab, vocab): row t is what follows token t."""
    rng = np.random.default_rng(seed)
    return (spread * rng.standard_normal((vocab_size, vocab_size))).astype(np.float32)


def wandering_table(vocab_size: int, seed: int, step: int = 5) -> Table:
    """A random table whose greedy text visits every id before one comes again.

    A random table's own soon settles on one token, and then a text shows nothing about places.
    """
    assert math.gcd(step, vocab_size) == 1
    table = random_table(vocab_size, seed)
    following = (np.arange(vocab_size) + step) % vocab_size
    table[np.arange(vocab_size), following] = table.max(axis=1) + 1.5
    return table


class TableDrafter:
    """A Drafter over a table; counts the tokens it ran."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._tokens: list[int] = []
        self.num_run = 0

    @property
    def vocab_size(self) -> int:
        return int(self._table.shape[1])

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    @property
    def tokens(self) -> tuple[int, ...]:
        """What the cache stands for."""
        return tuple(self._tokens)

    def truncate(self, num_tokens: int) -> None:
        assert num_tokens <= len(self._tokens)
        del self._tokens[num_tokens:]

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        assert len(token_ids)
        self._tokens += token_ids.tolist()
        self.num_run += len(token_ids)
        row: NDArray[np.float32] = self._table[min(self._tokens[-1], len(self._table) - 1)]
        return row


class TableRows:
    """Rows of a job over a table."""

    def __init__(self, table: Table, job: Job, num_ids: int) -> None:
        self._last = job.tokens[len(job.tokens) - job.num_rows :]
        self._table = table
        self._num_ids = num_ids

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        return to_law(self._table[self._last[row]], sampling, generated, self._num_ids)


class TableEdge:
    """An edge in memory: `answer(bytes)` gives the bytes of every message it sends back."""

    def __init__(
        self, table: Table, end_ids: tuple[int, ...] = (), num_ids: int | None = None
    ) -> None:
        self.table = table
        self.num_ids = num_ids or table.shape[1]
        facts = EdgeFacts("table", self.num_ids, vocabulary_hash, 512, end_ids)
        self.session = EdgeSession(facts, resume_token=next(_resume_tokens))

    def answers(self, data: bytes) -> list[bytes]:
        step = self.session.receive(data)
        replies = [step.reply]
        while step.job is not None:
            step = self.session.commit(step.job.read(TableRows(self.table, step.job, self.num_ids)))
            replies.append(step.reply)
        return [reply for reply in replies if reply is not None]

    def answer(self, data: bytes) -> bytes:
        (reply,) = self.answers(data)
        return reply


def vocabulary_hash(count: int) -> bytes:
    """Both ends of a test share their ids."""
    return count.to_bytes(16, "little")


def open_session(edge: TableEdge, num_ids: int | None = None) -> DeviceSession:
    """A device session that has shaken hands with the edge."""
    session = DeviceSession(num_ids or edge.num_ids, vocabulary_hash, "test")
    session.receive_welcome(edge.answer(session.hello()))
    return session
