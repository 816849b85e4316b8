"""Rounds through two sessions, their messages and `Turn` emit the joint law of p exactly."""

from __future__ import annotations

import pytest

from device_runtime import turn as turn_module
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
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


def written(
    coins: EnumeratedCoins,
    streams: EnumeratedStreams,
    generation: Generation,
    num_tokens: int,
    gamma: int,
) -> Text:
    """A generation through two sessions and their bytes, on one path of the coins."""
    facts = EdgeFacts("table", 2, vocabulary_hash, context_len=64, end_ids=generation.end_ids)
    edge = EdgeSession(facts, b"token", streams.at)

    def exchange(data: bytes) -> bytes:
        step = edge.receive(data)
        if step.job is not None:
            step = edge.commit(TableRows(LLM, step.job, 2))
        assert step.reply is not None
        return step.reply

    session = DeviceSession(2, vocabulary_hash, "test")
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


def session_law(
    scheme: str, num_tokens: int, gamma: int, sampling: Sampling = PLAIN, end_ids: Text = ()
) -> dict[Text, float]:
    generation = Generation(SCHEMES[scheme], sampling, seed=0, end_ids=end_ids)
    return enumerate_law(
        lambda coins, streams: written(coins, streams, generation, num_tokens, gamma),
        cuts(SCHEMES[scheme], sampling),
    )


LOSSLESS = [name for name in SCHEMES if name not in {"coupled", "dssd", "dssd-fp32"}]


@pytest.mark.parametrize("gamma", [0, 1, 2])
@pytest.mark.parametrize("scheme", LOSSLESS)
def test_sessions_follow_the_joint_law(
    scheme: str, gamma: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", 1)
    num_tokens = 1 if scheme.startswith("dssd") and gamma == 2 else 2
    assert distance(session_law(scheme, num_tokens, gamma), joint_law(num_tokens)) < TOLERANCE


@pytest.mark.parametrize("scheme", LOSSLESS)
def test_sessions_follow_the_joint_law_up_to_an_end_token(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", 1)
    law = session_law(scheme, 2, 1, end_ids=(1,))
    assert distance(law, joint_law(2, end_id=1)) < TOLERANCE


@pytest.mark.parametrize("scheme", ["greedy-draft", "dsd", "tk-slt", "sqs"])
def test_sessions_follow_penalised_laws(scheme: str) -> None:
    """Penalties change from position to position inside a block."""
    sampling = Sampling(0.8, repetition_penalty=1.5, presence_penalty=0.3)
    law = session_law(scheme, 2, 2, sampling)
    assert distance(law, joint_law(2, sampling)) < TOLERANCE
