"""A whole generation between two sessions in memory, over table models."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES, scheme_named
from device_runtime.protocol.schemes.base import Ask, Place
from device_runtime.protocol.schemes.coupled import coupled_token
from device_runtime.turn import Committed, Counts, Origin, Turn
from tests.table_model import (
    Table,
    TableDrafter,
    TableEdge,
    open_session,
    random_table,
    wandering_table,
)

VOCAB = 12
LLM = wandering_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4]
PLAIN = Sampling()
GREEDY = Sampling(temperature=0.0)
LOSSLESS = [name for name, scheme in SCHEMES.items() if scheme.lossless]


def generate(
    edge: TableEdge,
    session: DeviceSession,
    drafter: TableDrafter,
    generation: Generation,
    gamma: int,
    num_tokens: int,
    num_draws: int | None = None,
) -> tuple[list[Committed], Turn]:
    """Commit at least num_tokens tokens after the session's tokens."""
    draws = None if num_draws is None else (lambda: num_draws)
    session.receive_begun(edge.answer(session.begin(generation)))
    turn = Turn(session, drafter, generation, device_coins(5), Counts(), draws)
    committed: list[Committed] = []
    while len(committed) < num_tokens:
        data: bytes | None = turn.draft(gamma)
        while data is not None:
            step = turn.receive(edge.answer(data))
            committed += step.committed
            data = step.send
        assert list(session.tokens.ids[session.boundary :]) == [c.token_id for c in committed]
        if committed[-1].token_id in generation.end_ids:
            break
    return committed, turn


def begin(scheme: str, sampling: Sampling = PLAIN, **more: object) -> Generation:
    generation = Generation(scheme_named(scheme), sampling, seed=77, end_ids=())
    return replace(generation, **more)  # type: ignore[arg-type]


def start(llm: Table = LLM, slm: Table = SLM) -> tuple[TableEdge, DeviceSession, TableDrafter]:
    edge = TableEdge(llm)
    session = open_session(edge)
    session.append(PROMPT)
    return edge, session, TableDrafter(slm)


def greedy_text(num_tokens: int) -> list[int]:
    """What the LLM alone writes; every one of its first VOCAB tokens is another."""
    text = [PROMPT[-1]]
    for _ in range(num_tokens):
        text.append(int(np.argmax(LLM[text[-1]])))
    return text[1:]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("gamma", [0, 1, 4, 8])
def test_greedy_text_is_the_llms(scheme: str, gamma: int) -> None:
    committed, _ = generate(*start(), begin(scheme, GREEDY), gamma, 40)
    assert [c.token_id for c in committed][:40] == greedy_text(40)


@pytest.mark.parametrize("gamma", [0, 1, 3, 8])
@pytest.mark.parametrize("slm", [SLM, LLM, random_table(VOCAB, seed=9)])
def test_coupled_text_depends_on_the_seed_alone(gamma: int, slm: Table) -> None:
    committed, _ = generate(*start(slm=slm), begin("coupled"), gamma, 30)
    alone = list(PROMPT)
    for _ in range(30):
        p = to_law(LLM[alone[-1]], Sampling(), ())
        alone.append(coupled_token(p, Place(77, len(alone))))
    assert [c.token_id for c in committed][:30] == alone[len(PROMPT) :]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_drafter_never_runs_a_token_twice_without_need(scheme: str) -> None:
    edge, session, drafter = start()
    committed, turn = generate(edge, session, drafter, begin(scheme), 4, 60)
    wasted = turn.counts.drafted - turn.counts.accepted
    assert drafter.num_run <= len(PROMPT) + len(committed) + wasted


def test_the_counts_add_up() -> None:
    committed, turn = generate(*start(), begin("dssd-thinned"), 4, 200)
    counts = turn.counts
    origins = [c.origin for c in committed]
    assert origins.count(Origin.ACCEPTED) == counts.accepted
    assert origins.count(Origin.CORRECTED) == counts.rejected
    assert origins.count(Origin.BONUS) == counts.bonus
    assert counts.rounds == counts.rejected + counts.bonus
    assert min(counts.accepted, counts.rejected, counts.bonus) > 10
    assert counts.alpha == counts.accepted / (counts.accepted + counts.rejected)


def test_one_draw_at_a_time_ends_in_the_whole_row() -> None:
    """With k = 1 most rejections need more draws, and some the row; the text goes on."""
    committed, turn = generate(*start(), begin("dssd-thinned"), 4, 300, num_draws=1)
    assert turn.counts.more_requests > turn.counts.rejected
    assert len(committed) >= 300


@pytest.mark.parametrize("slm", [LLM, SLM], ids=["same", "other"])
@pytest.mark.parametrize("gamma", [1, 4, 8])
@pytest.mark.parametrize("scheme", LOSSLESS)
def test_an_end_token_stops_the_text_wherever_it_stands(
    scheme: str, gamma: int, slm: Table
) -> None:
    """With an SLM like the LLM, at every place of a block and as its bonus; else corrected, too."""
    for where in range(VOCAB - 1):
        text = greedy_text(VOCAB)
        end = text[where]
        assert text.index(end) == where
        edge, session, drafter = start(slm=slm)
        generation = begin(scheme, GREEDY, end_ids=(end,))
        committed, _ = generate(edge, session, drafter, generation, gamma, VOCAB)
        assert [c.token_id for c in committed] == text[: where + 1]
        ids = list(session.tokens.ids)
        assert list(drafter.tokens) == ids[: drafter.num_tokens]
        # A corrected token goes up with the message that comes next.
        is_corrected = committed[-1].origin is Origin.CORRECTED
        assert list(edge.session.tokens.ids) == ids[: len(ids) - is_corrected]


@pytest.mark.parametrize("scheme", LOSSLESS)
@pytest.mark.parametrize("where", range(5))
def test_drafts_behind_an_end_token_are_not_judged(scheme: str, where: int) -> None:
    """This device sends none; another program may."""
    text = greedy_text(6)
    edge, session, _ = start()
    generation = begin(scheme, GREEDY, end_ids=(text[where],))
    session.receive_begun(edge.answer(session.begin(generation)))
    block = [
        generation.scheme.draft(ArrayLaw.one_hot(id_), Place(77, len(PROMPT) + i), device_coins(5))
        for i, id_ in enumerate(text)
    ]
    answer = session.receive_verdict(edge.answer(session.round(block, Ask(4))), block)
    assert (answer.num_accepted, answer.next_token, answer.rejection) == (where + 1, None, None)
    assert list(session.tokens.ids) == [*PROMPT, *text[: where + 1]]
    assert list(edge.session.tokens.ids) == list(session.tokens.ids)


def test_a_second_generation_reuses_both_caches() -> None:
    edge, session, drafter = start()
    generate(edge, session, drafter, begin("dssd-thinned"), 4, 20)
    session.truncate(len(PROMPT) + 7)
    drafter.truncate(min(drafter.num_tokens, len(PROMPT) + 7))
    session.append([2, 5])
    run_before = drafter.num_run
    generate(edge, session, drafter, begin("dssd-thinned"), 0, 1)
    generate(edge, session, drafter, begin("dssd-thinned"), 1, 1)
    assert drafter.num_run - run_before <= 6
    assert list(edge.session.tokens.ids) == list(session.tokens.ids[: len(edge.session.tokens)])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_edge_that_lost_everything_goes_on_after_begin_again(scheme: str) -> None:
    """The device's tokens, the generation and the numbers of the next round rebuild a session."""
    texts = []
    for restart in (False, True):
        edge, session, drafter = start()
        generation = begin(scheme)
        session.receive_begun(edge.answer(session.begin(generation)))
        turn = Turn(session, drafter, generation, device_coins(5), Counts(), lambda: 2)
        while len(session.tokens) < 60:
            data: bytes | None = turn.draft(4)
            while data is not None:
                if restart:
                    edge = TableEdge(LLM)
                    session.receive_welcome(edge.answer(session.hello()))
                    session.receive_begun(edge.answer(session.begin_again()))
                data = turn.receive(edge.answer(data)).send
        texts.append(list(session.tokens.ids[:60]))
    assert texts[0] == texts[1]


def test_logprobs_are_the_llms_own_at_temperature_1() -> None:
    generation = begin("dssd-thinned", Sampling(temperature=0.7), logprobs=True)
    committed, turn = generate(*start(), generation, 4, 60)
    text = [PROMPT[-1], *(token.token_id for token in committed)]
    known = 0
    for index, (before, token_id) in enumerate(pairwise(text)):
        if index not in turn.logprobs:
            assert index == len(committed) - 1
            assert committed[-1].origin is Origin.CORRECTED
            continue
        row = LLM[before].astype(np.float64)
        wanted = row[token_id] - np.log(np.exp(row).sum())
        assert turn.logprobs[index] == pytest.approx(wanted, abs=1e-5)
        known += 1
    assert known >= len(committed) - 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_text_with_logprobs_is_that_without_them(scheme: str) -> None:
    """Their rows come before those that judge the block."""
    texts = [
        generate(*start(), begin(scheme, logprobs=logprobs), 4, 60)[0] for logprobs in (False, True)
    ]
    assert texts[0] == texts[1]


def test_the_laws_of_a_block_lie_in_rooms_of_their_own_that_the_next_block_uses_again() -> None:
    """Otherwise a replacement would be drawn against another token's q, or every token allocate."""
    _, session, drafter = start(slm=random_table(400, 3), llm=random_table(400, 4))
    session.begin(begin("dssd-thinned"))
    turn = Turn(session, drafter, begin("dssd-thinned"), device_coins(5), Counts())
    turn.draft(4)
    first = [law._weights for law in turn._laws if isinstance(law, ArrayLaw)]
    assert len(first) == 4
    assert {weights.dtype for weights in first} == {np.dtype(np.float32)}
    wanted = [
        to_law(row, PLAIN, (), room=np.empty(400, np.float32)).probs
        for row in _drafted_rows(turn, drafter)
    ]
    for law, probs in zip(turn._laws, wanted, strict=True):
        np.testing.assert_array_equal(law.prob(np.arange(400)), probs)
    drafter.truncate(len(PROMPT) - 1)
    turn.draft(4)
    again = [law._weights for law in turn._laws if isinstance(law, ArrayLaw)]
    for old, new in zip(first, again, strict=True):
        assert np.shares_memory(old, new)


def _drafted_rows(turn: Turn, drafter: TableDrafter) -> list[Table]:
    """The rows that the block's laws came from."""
    before = [PROMPT[-1], *(drafted.token_id for drafted in turn._block[:-1])]
    return [drafter._table[token_id] for token_id in before]


def test_penalties_see_the_drafted_tokens_too() -> None:
    sampling = Sampling(presence_penalty=100.0)
    _, session, drafter = start()
    session.begin(begin("dssd-thinned", sampling))
    turn = Turn(session, drafter, begin("dssd-thinned", sampling), device_coins(5), Counts())
    turn.draft(8)
    ids = [drafted.token_id for drafted in turn._block]
    assert len(set(ids)) == len(ids)
