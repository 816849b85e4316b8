"""Rounds through two sessions, their messages and `Turn` emit the joint law of p exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from device_runtime import turn as turn_module
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask
from device_runtime.turn import Counts, Turn
from tests.exact_law import EnumeratedCoins, EnumeratedStreams, enumerate_law
from tests.joint_law import (
    LLM,
    PLAIN,
    SLM,
    START,
    TOLERANCE,
    Text,
    cuts,
    distance,
    joint_law,
)
from tests.table_model import TableDrafter, TableRows, vocabulary_hash

PENALISED = Sampling(0.8, repetition_penalty=1.5, presence_penalty=0.3)
LOSSLESS = [name for name in SCHEMES if name not in {"coupled", "dssd", "dssd-fp32"}]


@dataclass(frozen=True)
class Parts:
    """What a generation is made of; mutants take another class for one of them."""

    session: type[DeviceSession] = DeviceSession
    rows: type[TableRows] = TableRows
    is_keyed: bool = True
    """Whether every place and round has coins of its own."""


def written(
    coins: EnumeratedCoins,
    streams: EnumeratedStreams,
    generation: Generation,
    num_tokens: int,
    gamma: int,
    parts: Parts,
) -> Text:
    """A generation through two sessions and their bytes, on one path of the coins."""
    facts = EdgeFacts("table", 2, vocabulary_hash, context_len=64, end_ids=generation.end_ids)
    edge = EdgeSession(facts, b"token", streams.at if parts.is_keyed else lambda *_: streams.at(0))

    def exchange(data: bytes) -> bytes:
        step = edge.receive(data)
        if step.job is not None:
            step = edge.commit(step.job.read(parts.rows(LLM, step.job, 2)))
        assert step.reply is not None
        return step.reply

    session = parts.session(2, vocabulary_hash, "test")
    session.receive_welcome(exchange(session.hello()))
    session.append([START])
    session.receive_begun(exchange(session.begin(generation)))
    turn = Turn(session, TableDrafter(SLM), generation, coins, Counts(), lambda: 1)
    written_ids: list[int] = []
    while len(written_ids) < num_tokens:
        data: bytes | None = turn.draft(gamma)
        while data is not None:
            step = turn.receive(exchange(data))
            written_ids += [committed.token_id for committed in step.committed]
            data = step.send
        if written_ids[-1] in generation.end_ids:
            break
    return tuple(written_ids[:num_tokens])


def error(
    scheme: str, num_tokens: int, gamma: int, sampling: Sampling = PLAIN,
    end_id: int | None = None, parts: Parts = Parts(),
) -> float:  # fmt: skip
    """The distance of what is written from what the LLM alone writes."""
    end_ids = () if end_id is None else (end_id,)
    generation = Generation(SCHEMES[scheme], sampling, seed=0, end_ids=end_ids)
    law = enumerate_law(
        lambda coins, streams: written(coins, streams, generation, num_tokens, gamma, parts),
        cuts(SCHEMES[scheme], sampling, num_tokens + gamma - 1),
    )
    return distance(law, joint_law(num_tokens, sampling, end_id))


@pytest.fixture
def one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request for more asks for the whole row: fewer paths where blocks are the point."""
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", 1)


@pytest.mark.parametrize("gamma", [0, 1, 2])
@pytest.mark.parametrize("scheme", LOSSLESS)
def test_sessions_follow_the_joint_law(scheme: str, gamma: int, one_request: None) -> None:
    num_tokens = 1 if scheme.startswith("dssd") and gamma == 2 else 2
    assert error(scheme, num_tokens, gamma) < TOLERANCE


@pytest.mark.slow
def test_the_default_scheme_follows_the_joint_law_of_a_block(one_request: None) -> None:
    assert error("dssd-thinned", 2, 2) < TOLERANCE


@pytest.mark.parametrize("scheme", LOSSLESS)
def test_sessions_follow_the_joint_law_up_to_an_end_token(scheme: str, one_request: None) -> None:
    assert error(scheme, 2, 1, end_id=1) < TOLERANCE


@pytest.mark.parametrize("scheme", ["greedy-draft", "dsd", "dssd-packed", "dssd-thinned"])
def test_the_check_fails_when_places_share_the_edges_coins(scheme: str, one_request: None) -> None:
    """Each token alone still follows its law: only the joint one shows it."""
    assert error(scheme, 1, 1, parts=Parts(is_keyed=False)) < TOLERANCE
    assert error(scheme, 2, 1, parts=Parts(is_keyed=False)) > 1e-4


# More draws: one is sent at a time, so about every third path asks for a second one.


@pytest.mark.parametrize("max_requests", [2, turn_module.MAX_DRAW_REQUESTS])
@pytest.mark.parametrize("gamma", [1, 2])
def test_sessions_follow_the_law_through_requests_for_more(
    max_requests: int, gamma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", max_requests)
    assert error("dssd-thinned", 1, gamma) < TOLERANCE


class NeverAdvances(DeviceSession):
    """Asks for the first draws of the stream again."""

    def more(self, ask: Ask) -> bytes:
        return super().more(ask._replace(first=0))


class SkipsADraw(DeviceSession):
    """Asks for later draws than the next: harmless, so the check must not fail either."""

    def more(self, ask: Ask) -> bytes:
        return super().more(ask._replace(first=ask.first + 5))


@pytest.mark.parametrize("max_requests", [2, 3])
def test_the_check_fails_when_draws_are_asked_for_again(
    max_requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", max_requests)
    assert error("dssd-thinned", 1, 1, parts=Parts(NeverAdvances)) > 1e-4
    assert error("dssd-thinned", 1, 1, parts=Parts(SkipsADraw)) < TOLERANCE


# Penalties change from position to position inside a block.

PENALISED_CASES = [
    *((scheme, 2, 2) for scheme in ("greedy-draft", "dsd", "tk-slt", "sqs")),
    ("dssd-packed", 2, 1),
    ("dssd-packed", 1, 2),
    ("dssd-thinned", 2, 1),
    ("dssd-thinned", 1, 2),
    pytest.param("dssd-packed", 2, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("scheme", "num_tokens", "gamma"), PENALISED_CASES)
def test_sessions_follow_penalised_laws(
    scheme: str, num_tokens: int, gamma: int, one_request: None
) -> None:
    assert error(scheme, num_tokens, gamma, PENALISED) < TOLERANCE


class ForgetsTheLastToken(TableRows):
    """Penalties as if the token before had not been written yet."""

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        return super().law(row, sampling, generated[:-1])


class ForgetsTheBlock(TableRows):
    """Penalties of a block's later tokens as for its first one."""

    _first: Sequence[int] | None = None

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        if self._first is None:
            self._first = tuple(generated)
        return super().law(row, sampling, self._first)


@pytest.mark.parametrize("rows", [ForgetsTheLastToken, ForgetsTheBlock])
@pytest.mark.parametrize("scheme", ["dsd", "dssd-packed", "dssd-thinned"])
def test_the_check_fails_when_penalties_stand_still(
    scheme: str, rows: type[TableRows], one_request: None
) -> None:
    assert error(scheme, 2, 1, PENALISED, parts=Parts(rows=rows)) > 1e-3
