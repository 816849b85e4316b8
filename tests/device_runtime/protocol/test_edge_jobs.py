"""What a session asks of the engine, and how little it copies of a long text on the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, Job, State
from device_runtime.protocol.errors import ErrorCode
from device_runtime.protocol.law import Law
from device_runtime.protocol.messages import Flags, Message, Stream, encode
from device_runtime.protocol.messages.fields import MAX_ROWS
from device_runtime.protocol.randomness import stream_key
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.wire import MAX_VARINT, Reader
from tests.edge_examples import (
    BEGIN,
    FACTS,
    HELLO,
    LLM,
    RESUME_TOKEN,
    VOCAB,
    a_round,
    answer,
    prefix_hash,
    refused,
)
from tests.table_model import TableRows

LONG = tuple(int(i) for i in np.random.default_rng(0).integers(0, VOCAB, 3000))
WIDE = replace(FACTS, context_len=10_000)
PENALISED = Sampling(0.0, repetition_penalty=1.3)


class Watched(TableRows):
    """Rows that note which generated tokens they were given."""

    def __init__(self, job: Job, given: list[Sequence[int]]) -> None:
        super().__init__(LLM, job, VOCAB)
        self._given = given

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        self._given.append(generated)
        return super().law(row, sampling, generated)


class CountedCopies(TokenList):
    """Counts copies of whole texts."""

    num_copies = 0

    def followed_by(self, num_tokens: int, more: Iterable[int] = ()) -> tuple[int, ...]:
        self.num_copies += 1
        return super().followed_by(num_tokens, more)

    @property
    def ids(self) -> Sequence[int]:
        return Unsliced(self._ids)


class Unsliced(list[int]):
    """A text of which only a few tokens may be taken at a time."""

    def __getitem__(self, index: Any) -> Any:
        taken = super().__getitem__(index)
        assert not isinstance(index, slice) or len(taken) < 10
        return taken


def a_session(sampling: Sampling, facts: EdgeFacts = WIDE) -> EdgeSession:
    """READY after a long text, all but the first token of which was generated."""
    session = EdgeSession(facts, RESUME_TOKEN)
    answer(session, HELLO)
    answer(session, replace(BEGIN, appended=LONG, boundary=1, sampling=sampling))
    return session


def given_to_rows(session: EdgeSession, message: Message) -> list[Sequence[int]]:
    """The generated tokens of each row that was asked for a law."""
    given: list[Sequence[int]] = []
    step = session.receive(encode(message))
    while step.job is not None:
        step = session.commit(step.job.read(Watched(step.job, given)))
    return given


def a_long_round(sampling: Sampling, num_drafted: int = 4) -> Message:
    """A round after LONG whose drafts all stand."""
    session, ids = a_session(sampling), []
    for _ in range(num_drafted):
        answer(session, Stream(1))
        ids.append(session.tokens.ids[-1])
        session.state = State.READY
    return a_round(*ids, base=len(LONG), prefix_hash=prefix_hash(LONG))


@pytest.mark.parametrize(
    "message", [a_long_round(Sampling(0.0)), Stream(5)], ids=["round", "stream"]
)
def test_without_penalties_a_text_is_copied_once_per_job_and_never_per_row(
    message: Message,
) -> None:
    session = a_session(Sampling(0.0))
    session.tokens = tokens = CountedCopies(LONG)
    given = given_to_rows(session, message)
    assert given == [()] * 5
    num_jobs = 5 if isinstance(message, Stream) else 1
    assert tokens.num_copies == num_jobs


def test_with_penalties_all_rows_of_a_round_share_one_copy() -> None:
    message = a_long_round(PENALISED)
    session = a_session(PENALISED)
    session.tokens = tokens = CountedCopies(LONG)
    given = given_to_rows(session, message)
    drafted = session.tokens.ids[len(LONG) :]
    assert [list(generated) for generated in given] == [[*LONG[1:], *drafted[:i]] for i in range(5)]
    arrays = [np.asarray(generated, np.int64) for generated in given]
    assert all(np.shares_memory(arrays[0], array) for array in arrays)
    assert tokens.num_copies == 1


def test_penalties_count_every_token_of_a_stream() -> None:
    given = given_to_rows(session := a_session(PENALISED), Stream(3))
    assert [list(generated) for generated in given] == [
        session.tokens.ids[1 : len(LONG) + i] for i in range(3)
    ]


def test_a_job_keeps_its_tokens_whatever_happens_to_the_session() -> None:
    """A batch may still run for a client that has come back over another connection."""
    session = a_session(Sampling(0.0))
    step = session.receive(encode(Stream(3)))
    assert step.job is not None
    session.tokens.truncate(5)
    session.tokens.append([1])
    assert tuple(step.job.tokens) == LONG


# limits


def test_log_probabilities_of_a_whole_text_are_refused_before_anything_is_planned() -> None:
    session = a_session(Sampling(0.0), replace(WIDE, max_gamma=64))
    where = {"base": len(LONG), "prefix_hash": prefix_hash(LONG), "flags": Flags.LOGPROBS}
    many = a_round(1, 1, appended=(1,) * (MAX_ROWS - 2), **where)
    assert refused(session, many) is ErrorCode.TOO_LARGE
    step = session.receive(encode(replace(many, appended=(1,) * (MAX_ROWS - 3))))
    assert step.job is not None
    assert step.job.num_rows == MAX_ROWS
    step = session.receive(encode(replace(many, flags=Flags(0))))
    assert step.job is not None  # without log probabilities their number does not matter
    assert step.job.num_rows == 3


def test_a_long_prompt_costs_no_step_of_python_per_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are read together, and hashes made later, when there is time."""
    num_steps = 0
    read_one = Reader.varint

    def counted_read(reader: Reader, limit: int = MAX_VARINT) -> int:
        nonlocal num_steps
        num_steps += 1
        return read_one(reader, limit)

    def counted_hash(*words: int) -> int:
        nonlocal num_steps
        num_steps += 1
        return stream_key(*words)

    begin = encode(replace(BEGIN, appended=LONG, boundary=len(LONG)))
    session = EdgeSession(WIDE, RESUME_TOKEN)
    answer(session, HELLO)
    monkeypatch.setattr(Reader, "varint", counted_read)
    monkeypatch.setattr("device_runtime.protocol.tokens.stream_key", counted_hash)
    step = session.receive(begin)
    assert step.job == Job(LONG, 0)
    assert num_steps < 50
    assert session.tokens.hash_some(1000)
    assert 1000 <= num_steps < 1050
    assert session.tokens.hash_some(1999)
    assert not session.tokens.hash_some(1)
    assert num_steps < 3100
    assert session.tokens.holds(len(LONG), prefix_hash(LONG))
