"""The edge's half of a session: every pair of state and message, and what a refusal leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import ALLOWED, Job, State, Step
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.law import Law
from device_runtime.protocol.messages import (
    Begin,
    Begun,
    Cancel,
    Close,
    Ending,
    Flags,
    Hello,
    Message,
    More,
    Stream,
    Tokens,
    Verdict,
    Welcome,
    encode,
)
from device_runtime.protocol.randomness import Streams, edge_streams
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.wire import BitWriter
from tests.edge_examples import (
    BEGIN,
    CONTEXT_LEN,
    END_ID,
    EXAMPLES,
    FACTS,
    GREEDY,
    HELLO,
    LLM,
    PROMPT,
    RESUME_TOKEN,
    RIGHT,
    VOCAB,
    WRONG,
    a_round,
    answer,
    greedy,
    in_state,
    more_draws,
    prefix_hash,
    refused,
    snapshot,
)
from tests.table_model import TableRows, vocabulary_hash

PAIRS = [(state, kind) for state in State for kind in EXAMPLES]


@pytest.mark.parametrize(("state", "kind"), PAIRS, ids=lambda x: getattr(x, "__name__", str(x)))
def test_every_pair_of_state_and_message_is_allowed_or_refused(
    state: State, kind: type[Message]
) -> None:
    session = in_state(state)
    if kind not in ALLOWED[state]:
        assert refused(session, EXAMPLES[kind]) is ErrorCode.UNEXPECTED_MESSAGE
    elif kind is More:  # allowed here, but only after a rejection
        assert refused(session, EXAMPLES[kind]) in (
            ErrorCode.UNEXPECTED_MESSAGE,
            ErrorCode.WRONG_ROUND,
        )
    else:
        assert isinstance(session.receive(encode(EXAMPLES[kind])), Step)


def test_the_documented_table_is_the_one_in_force() -> None:
    """docs/protocol.md: a change here is a change there."""
    table = {
        state.name: {kind.__name__ for kind in kinds if kind is not Close}
        for state, kinds in ALLOWED.items()
    }
    assert table == {
        "NEW": {"Hello"},
        "OPEN": {"Begin", "Cancel"},
        "READY": {"Begin", "Round", "More", "Stream", "Cancel"},
        "STREAMING": {"Cancel"},
        "CLOSED": set(),
    }
    assert all(Close in kinds for state, kinds in ALLOWED.items() if state is not State.CLOSED)


TRANSITIONS = [
    (State.NEW, HELLO, State.OPEN),
    (State.NEW, Close(), State.CLOSED),
    (State.OPEN, BEGIN, State.READY),
    (State.OPEN, Cancel(), State.OPEN),
    (State.OPEN, Close(), State.CLOSED),
    (State.READY, BEGIN, State.READY),
    (State.READY, Cancel(), State.READY),
    (State.READY, a_round(RIGHT), State.READY),
    (State.READY, Close(), State.CLOSED),
    (State.STREAMING, Close(), State.CLOSED),
]


@pytest.mark.parametrize(("state", "message", "then"), TRANSITIONS)
def test_an_allowed_message_leads_where_the_table_says(
    state: State, message: Message, then: State
) -> None:
    session = in_state(state)
    answer(session, message)
    assert session.state is then


@pytest.mark.parametrize("state", State)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_a_message_or_a_refusal_that_changes_nothing(
    state: State, data: bytes
) -> None:
    session = in_state(state)
    before = snapshot(session)
    try:
        session.receive(data)
    except RemoteError:
        assert snapshot(session) == before


@pytest.mark.parametrize("kind", [k for k in EXAMPLES if k not in (Cancel, Close)])
def test_a_message_cut_short_or_too_long_is_refused(kind: type[Message]) -> None:
    session = in_state(State.READY)
    data = encode(EXAMPLES[kind])
    for wrong in [*(data[:n] for n in range(len(data))), data + b"\1"]:
        refused(session, wrong)


# what each message gives


def test_a_hello_is_answered_with_the_facts() -> None:
    session = EdgeSession(FACTS, RESUME_TOKEN)
    assert answer(session, Hello("test", 7)) == [
        Welcome(
            model="table", resume_token=RESUME_TOKEN, resumed=False, num_ids=VOCAB,
            vocabulary_hash=vocabulary_hash(7), context_len=CONTEXT_LEN, max_gamma=8,
            end_ids=(END_ID,),
        )
    ]  # fmt: skip


def test_a_begin_asks_for_the_prompt_in_the_cache_and_no_rows() -> None:
    session = in_state(State.OPEN)
    step = session.receive(encode(BEGIN))
    assert step == Step(job=Job(PROMPT, 0))
    reply = session.commit(None).reply
    assert reply == encode(Begun(3))


def test_a_round_asks_for_one_row_per_draft_and_one_more() -> None:
    session = in_state(State.READY)
    step = session.receive(encode(a_round(RIGHT, WRONG)))
    assert step.job == Job((*PROMPT, RIGHT, WRONG), 3)
    logprobs = session.receive(encode(a_round(RIGHT, appended=(2, 5), flags=Flags.LOGPROBS)))
    assert logprobs.job == Job((*PROMPT, 2, 5, RIGHT), 4)


def test_a_block_that_stands_gets_the_bonus() -> None:
    session = in_state(State.READY)
    (verdict,) = answer(session, a_round(RIGHT))
    assert isinstance(verdict, Verdict)
    assert (verdict.num_accepted, verdict.ending) == (1, Ending.TOKEN)
    assert tuple(session.tokens.ids) == (*PROMPT, RIGHT, greedy(RIGHT))


def test_without_a_bonus_nothing_follows() -> None:
    session = in_state(State.READY)
    (verdict,) = answer(session, a_round(RIGHT, flags=Flags.NO_BONUS))
    assert isinstance(verdict, Verdict)
    assert (verdict.num_accepted, verdict.ending) == (1, Ending.NOTHING)
    assert tuple(session.tokens.ids) == (*PROMPT, RIGHT)


class FailingRows(TableRows):
    """The model's own laws cannot be had; those of the generation can."""

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        if sampling == Sampling():
            raise ArithmeticError("not a number")
        return super().law(row, sampling, generated)


def test_a_round_whose_answer_fails_may_come_again() -> None:
    session, undisturbed = in_state(State.READY), in_state(State.READY)
    data = encode(a_round(RIGHT, WRONG, flags=Flags.LOGPROBS))
    before = list(session.tokens.ids)
    job = session.receive(data).job
    assert job is not None
    with pytest.raises(ArithmeticError):
        job.read(FailingRows(LLM, job, VOCAB))
    assert list(session.tokens.ids) == before
    again = session.receive(data).job
    assert again == job
    undisturbed.receive(data)
    result = job.read(TableRows(LLM, job, VOCAB))
    assert session.commit(result).reply == undisturbed.commit(result).reply


def test_a_rejection_begins_a_new_epoch() -> None:
    session = in_state(State.READY)
    (verdict,) = answer(session, a_round(WRONG))
    assert isinstance(verdict, Verdict)
    assert (verdict.num_accepted, verdict.ending) == (0, Ending.REJECTION)
    assert refused(session, a_round(RIGHT, number=1)) is ErrorCode.WRONG_ROUND
    assert answer(session, a_round(epoch=1, appended=(RIGHT,)))
    assert tuple(session.tokens.ids) == (*PROMPT, RIGHT, greedy(RIGHT))


def test_a_round_without_drafts_gives_one_token_of_the_llm() -> None:
    session = in_state(State.READY)
    answer(session, a_round())
    assert tuple(session.tokens.ids) == (*PROMPT, RIGHT)


def test_a_stream_writes_until_its_count_the_end_or_the_context() -> None:
    session = in_state(State.READY)
    replies = answer(session, Stream(4))
    tokens = [i for reply in replies if isinstance(reply, Tokens) for i in reply.ids]
    assert len(tokens) == 4
    assert [reply.last for reply in replies if isinstance(reply, Tokens)] == [False] * 3 + [True]
    assert session.state is State.OPEN
    tail = tuple(session.tokens.ids)
    long = Begin(len(tail), prefix_hash(tail), (2,), 3, BEGIN.scheme_code, GREEDY, 5, ())
    answer(session, long)
    replies = answer(session, Stream(10_000))
    assert len(session.tokens) == CONTEXT_LEN
    assert isinstance(replies[-1], Tokens)
    assert replies[-1].last


def test_a_stream_of_nothing_is_over_at_once() -> None:
    session = in_state(State.READY)
    assert answer(session, Stream(0)) == [Tokens((), last=True)]


def test_a_cancelled_stream_ends_with_the_token_in_hand() -> None:
    session = in_state(State.READY)
    step = session.receive(encode(Stream(100)))
    assert step.job is not None
    assert session.receive(encode(Cancel())) == Step()
    step = session.commit(step.job.read(TableRows(LLM, step.job, VOCAB)))
    assert step == Step(encode(Tokens((RIGHT,), last=True)))
    assert session.state is State.OPEN


@pytest.mark.parametrize("state", [State.OPEN, State.READY])
def test_a_cancel_that_comes_after_the_stream_ended_changes_nothing(state: State) -> None:
    """It crossed the last tokens on the way; no answer to it may be taken for another's."""
    session = in_state(state)
    before = snapshot(session)
    assert session.receive(encode(Cancel())) == Step()
    assert snapshot(session) == before


def test_a_cancel_that_crossed_the_last_tokens_leaves_the_next_stream_whole() -> None:
    session = in_state(State.READY)
    answer(session, Stream(2))
    assert answer(session, Cancel()) == []
    tail = tuple(session.tokens.ids)
    answer(session, Begin(len(tail), prefix_hash(tail), (), 3, BEGIN.scheme_code, GREEDY, 5, ()))
    assert len(answer(session, Stream(4))) == 4


# repeated, altered, misplaced


def test_a_repeated_round_gets_the_same_verdict_without_a_job() -> None:
    session = in_state(State.READY)
    message = encode(a_round(RIGHT))
    step = session.receive(message)
    assert step.job is not None
    reply = session.commit(step.job.read(TableRows(LLM, step.job, VOCAB))).reply
    before = snapshot(session)
    assert session.receive(message) == Step(reply)
    assert snapshot(session) == before


def test_a_round_of_this_number_with_other_bytes_gets_no_verdict_on_the_first() -> None:
    """Else drafts would stand that nobody judged."""
    session = in_state(State.READY)
    answer(session, a_round(RIGHT))
    for other in (a_round(WRONG), a_round(), a_round(RIGHT, num_draws=1)):
        assert refused(session, other) is ErrorCode.WRONG_ROUND


def test_a_round_whose_verdict_was_lost_is_judged_again_after_resuming() -> None:
    session, undisturbed = in_state(State.READY), in_state(State.READY)
    message = a_round(RIGHT)
    session.receive(encode(message))  # its job is never committed
    session.resume()
    (welcome,) = answer(session, Hello("test", VOCAB, RESUME_TOKEN))
    assert isinstance(welcome, Welcome)
    assert welcome.resumed
    assert session.state is State.READY
    assert answer(session, message) == answer(undisturbed, message)


def test_another_resume_token_does_not_resume() -> None:
    session = in_state(State.READY)
    session.resume()
    (welcome,) = answer(session, Hello("test", VOCAB, bytes(16)))
    assert isinstance(welcome, Welcome)
    assert not welcome.resumed
    assert session.state is State.OPEN


MISPLACED: list[tuple[Message, ErrorCode]] = [
    (a_round(RIGHT, number=1), ErrorCode.WRONG_ROUND),
    (a_round(RIGHT, epoch=1), ErrorCode.WRONG_ROUND),
    (a_round(RIGHT, prefix_hash=prefix_hash(PROMPT) ^ 1), ErrorCode.WRONG_PREFIX),
    (a_round(RIGHT, base=4), ErrorCode.WRONG_PREFIX),
    (a_round(RIGHT, base=2, prefix_hash=prefix_hash(PROMPT[:2])), ErrorCode.WRONG_PREFIX),
    (a_round(RIGHT, appended=(VOCAB,)), ErrorCode.BAD_TOKEN_ID),
    (a_round(VOCAB), ErrorCode.BAD_TOKEN_ID),
    (a_round(15), ErrorCode.BAD_TOKEN_ID),
    (a_round(*[RIGHT] * 9), ErrorCode.TOO_LARGE),
    (a_round(RIGHT, appended=(1,) * CONTEXT_LEN), ErrorCode.CONTEXT_FULL),
    (a_round(RIGHT, gamma=3), ErrorCode.MALFORMED),
    (a_round(RIGHT, block=b"\xff\xff"), ErrorCode.BAD_TOKEN_ID),
    (a_round(gamma=0, block=b"\1"), ErrorCode.MALFORMED),
    (more_draws(), ErrorCode.UNEXPECTED_MESSAGE),
    (Begin(1, 7, (), 1, 1, GREEDY, 5, ()), ErrorCode.WRONG_PREFIX),
    (Begin(9, 0, (), 1, 1, GREEDY, 5, ()), ErrorCode.WRONG_PREFIX),
    (Begin(0, 0, (), 1, 1, GREEDY, 5, ()), ErrorCode.MALFORMED),
    (Begin(0, 0, PROMPT, 0, 1, GREEDY, 5, ()), ErrorCode.MALFORMED),
    (Begin(0, 0, PROMPT, 4, 1, GREEDY, 5, ()), ErrorCode.MALFORMED),
    (Begin(0, 0, (VOCAB,), 1, 1, GREEDY, 5, ()), ErrorCode.BAD_TOKEN_ID),
    (Begin(0, 0, (1,) * CONTEXT_LEN, 1, 1, GREEDY, 5, ()), ErrorCode.CONTEXT_FULL),
    (Begin(0, 0, PROMPT, 3, 250, GREEDY, 5, ()), ErrorCode.UNSUPPORTED_PARAMETER),
]


@pytest.mark.parametrize(("message", "code"), MISPLACED, ids=lambda x: type(x).__name__)
def test_what_does_not_fit_is_refused_with_its_code(message: Message, code: ErrorCode) -> None:
    session = in_state(State.READY)
    assert refused(session, message) is code
    answer(session, a_round(RIGHT))
    assert tuple(session.tokens.ids) == (*PROMPT, RIGHT, greedy(RIGHT))


def test_an_older_round_is_refused_once_its_verdict_is_forgotten() -> None:
    session = in_state(State.READY)
    messages = []
    for number in range(6):
        tokens = tuple(session.tokens.ids)
        messages.append(
            encode(a_round(number=number, base=len(tokens), prefix_hash=prefix_hash(tokens)))
        )
        answer(session, messages[-1])
    assert [refused(session, message) for message in messages[:2]] == [ErrorCode.WRONG_ROUND] * 2
    for message in messages[2:]:
        assert session.receive(message).job is None


def test_a_generation_at_its_full_gamma_and_context_is_served() -> None:
    session = in_state(State.OPEN)
    appended = tuple(1 for _ in range(CONTEXT_LEN - 8))
    answer(session, Begin(0, 0, appended, 1, 1, GREEDY, 5, ()))
    full = a_round(*[1] * 8, base=len(appended), prefix_hash=prefix_hash(appended))
    step = session.receive(encode(full))
    assert step.job is not None
    assert len(step.job.tokens) == CONTEXT_LEN


def test_more_draws_follow_a_rejection_only() -> None:
    session = in_state(State.OPEN)
    thinned = SCHEMES["dssd-thinned"]
    assert isinstance(thinned, DssdThinned)
    answer(session, Begin(0, 0, PROMPT, 3, thinned.code, Sampling(), 5, ()))
    assert refused(session, more_draws()) is ErrorCode.WRONG_ROUND
    bits = BitWriter()
    bits.put(WRONG, Vocabulary(VOCAB).id_bits)
    # The index of u · q = 1 lies above that of every p̃: certainly rejected.
    bits.put(thinned.grid.num_levels - 1, thinned.grid.index_bits)
    (verdict,) = answer(session, a_round(gamma=1, block=bits.getvalue(), num_draws=3))
    assert isinstance(verdict, Verdict)
    assert verdict.ending is Ending.REJECTION
    (again,) = answer(session, more_draws(first=3, num_draws=3))
    assert isinstance(again, Verdict)
    assert again.body != verdict.body
    (same,) = answer(session, more_draws(first=0, num_draws=3))
    assert isinstance(same, Verdict)
    assert same.body == verdict.body
    assert refused(session, more_draws(base=4)) is ErrorCode.WRONG_PREFIX
    assert refused(session, more_draws(epoch=1)) is ErrorCode.WRONG_ROUND


def test_coins_are_those_of_the_generation_the_round_and_the_place() -> None:
    """So another edge, of another version even, gives the same verdicts and further draws."""
    asked: list[tuple[int, ...]] = []

    def spied(*place: int) -> Streams:
        asked.append(place)
        return edge_streams(*place)

    session = EdgeSession(FACTS, RESUME_TOKEN, spied)
    thinned = SCHEMES["dssd-thinned"]
    assert isinstance(thinned, DssdThinned)
    answer(session, HELLO)
    answer(session, replace(BEGIN, scheme_code=thinned.code, epoch=4, round_number=6))
    answer(session, a_round(epoch=4, number=6))
    assert asked == [(5, 4, 6, 3)]
    text = tuple(session.tokens.ids)
    here = {"base": 4, "prefix_hash": prefix_hash(text)}
    bits = BitWriter()
    bits.put(WRONG, Vocabulary(VOCAB).id_bits)
    bits.put(thinned.grid.num_levels - 1, thinned.grid.index_bits)
    answer(session, a_round(epoch=4, number=7, gamma=1, block=bits.getvalue(), **here))
    answer(session, more_draws(epoch=4, round_number=7, **here))
    assert asked[1:] == [(5, 4, 7, 4)] * 2
    answer(session, Stream(2))
    assert asked[3:] == [(5, 5, 0, 4), (5, 5, 0, 5)]
