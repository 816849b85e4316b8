"""Messages and sessions from which the tests of the edge's half set out, over a table of logits."""

from __future__ import annotations

from typing import Any

import pytest

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts, State
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.messages import (
    Begin,
    Begun,
    Cancel,
    Close,
    Ending,
    Hello,
    Message,
    More,
    Round,
    Stream,
    Tokens,
    Verdict,
    Welcome,
    decode,
    encode,
)
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.tokens import TokenList
from device_runtime.protocol.wire import BitWriter
from tests.table_model import TableRows, random_table, vocabulary_hash

VOCAB = 12
LLM = random_table(VOCAB, seed=1)
CONTEXT_LEN = 64
END_ID = 11
FACTS = EdgeFacts("table", VOCAB, vocabulary_hash, CONTEXT_LEN, (END_ID,), max_gamma=8)
RESUME_TOKEN = bytes(range(16))
PROMPT = (3, 1, 4)
GREEDY = Sampling(temperature=0.0)


def greedy(token_id: int) -> int:
    """What the LLM writes after a token."""
    return int(LLM[token_id].argmax())


def prefix_hash(tokens: tuple[int, ...]) -> int:
    return TokenList(tokens).prefix_hash(len(tokens))


HELLO = Hello("test", VOCAB)
BEGIN = Begin(
    base=0, prefix_hash=0, appended=PROMPT, boundary=3, scheme_code=SCHEMES["greedy-draft"].code,
    sampling=GREEDY, seed=5, end_ids=(END_ID,),
)  # fmt: skip


def a_round(*ids: int, epoch: int = 0, number: int = 0, **more: Any) -> Round:
    """A round of greedy drafts after the prompt."""
    bits = BitWriter()
    for token_id in ids:
        bits.put(token_id, Vocabulary(VOCAB).id_bits)
    fields: dict[str, Any] = {
        "base": 3, "prefix_hash": prefix_hash(PROMPT), "appended": (), "gamma": len(ids),
        "num_draws": 0, "block": bits.getvalue(),
    }  # fmt: skip
    return Round(epoch, number, **(fields | more))


RIGHT = greedy(PROMPT[-1])
WRONG = (RIGHT + 1) % (VOCAB - 1)


def more_draws(**changes: Any) -> More:
    fields: dict[str, Any] = {
        "epoch": 0, "round_number": 0, "base": 3, "prefix_hash": prefix_hash(PROMPT),
        "first": 5, "num_draws": 5, "whole_row": False,
    }  # fmt: skip
    return More(**(fields | changes))


EXAMPLES: dict[type[Message], Message] = {
    Hello: HELLO,
    Begin: BEGIN,
    Round: a_round(RIGHT),
    More: more_draws(),
    Stream: Stream(4),
    Cancel: Cancel(),
    Close: Close(),
    Welcome: Welcome("m", b"", False, 1, b"", 1, 1, ()),
    Begun: Begun(3),
    Verdict: Verdict(0, 0, 0, Ending.NOTHING, b""),
    Tokens: Tokens((), last=True),
}
"""One of every kind that makes sense after the prompt; those that only an edge sends, too."""


def answer(session: EdgeSession, message: Message | bytes) -> list[Message]:
    """Everything the edge sends back, run to the end over the table."""
    step = session.receive(message if isinstance(message, bytes) else encode(message))
    replies = [step.reply]
    while step.job is not None:
        step = session.commit(step.job.read(TableRows(LLM, step.job, VOCAB)))
        replies.append(step.reply)
    return [decode(reply) for reply in replies if reply is not None]


def in_state(state: State) -> EdgeSession:
    """A session that was led there by messages alone."""
    session = EdgeSession(FACTS, RESUME_TOKEN)
    path: dict[State, list[Message]] = {
        State.NEW: [],
        State.OPEN: [HELLO],
        State.READY: [HELLO, BEGIN],
        State.STREAMING: [HELLO, BEGIN],
        State.CLOSED: [HELLO, Close()],
    }
    for message in path[state]:
        answer(session, message)
    if state is State.STREAMING:
        session.receive(encode(Stream(10)))
    assert session.state is state
    return session


def snapshot(session: EdgeSession) -> dict[str, Any]:
    """All that a session holds, comparable."""
    tokens, verdicts = tuple(session.tokens.ids), dict(session._verdicts)
    return {**vars(session), "tokens": tokens, "_verdicts": verdicts}


def refused(session: EdgeSession, message: Message | bytes) -> ErrorCode:
    """The code of the refusal; the session must be as it was."""
    before = snapshot(session)
    with pytest.raises(RemoteError) as error:
        session.receive(message if isinstance(message, bytes) else encode(message))
    assert snapshot(session) == before
    return error.value.code
