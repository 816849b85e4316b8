"""Policies that keep tokens on the device: who is asked when, and that the law is not p any more."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from device_runtime.generate import write_lossy
from device_runtime.lossy import (
    METHODS,
    Improbable,
    LossyTurn,
    Policy,
    Route,
    Router,
    Uncertainty,
    method_named,
    probs_at,
)
from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.law import ArrayLaw, prob_of
from device_runtime.protocol.messages import Flags, Round, decode
from device_runtime.protocol.randomness import Coins, device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask
from device_runtime.transcript import Transcript
from device_runtime.turn import Committed, Counts, Origin
from tests.exact_law import enumerate_law
from tests.table_model import Table, TableDrafter, TableEdge, open_session, random_table

VOCAB = 12
LLM = random_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4]
PLAIN = Sampling()
LOSSY = ("u-hlm", "threshold", "router")


class Run:
    """A lossy generation between two sessions in memory."""

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling = PLAIN,
        tables: tuple[Table, Table] = (LLM, SLM),
        coins: Coins | None = None,
    ) -> None:
        llm, slm = tables
        self.edge = TableEdge(llm)
        self.session: DeviceSession = open_session(self.edge)
        self.session.append(PROMPT if len(llm) == VOCAB else [0])
        self.drafter = TableDrafter(slm)
        self.generation = Generation(SCHEMES["dsd"], sampling, seed=77, end_ids=())
        self.session.receive_begun(self.edge.answer(self.session.begin(self.generation)))
        self.counts = Counts()
        self.turn = LossyTurn(
            self.session,
            self.drafter,
            self.generation,
            coins or device_coins(5),
            self.counts,
            policy,
        )
        self.sent: list[Round] = []
        self.committed: list[Committed] = []

    def write(self, num_tokens: int) -> list[Committed]:
        while len(self.committed) < num_tokens:
            step = self.turn.next()
            self.committed += step.committed
            while step.send is not None:
                message = decode(step.send)
                assert isinstance(message, Round)
                self.sent.append(message)
                step = self.turn.receive(self.edge.answer(step.send))
                self.committed += step.committed
        return self.committed


def ids(committed: list[Committed]) -> list[int]:
    return [token.token_id for token in committed]


# The registry


def test_every_scheme_and_every_lossy_method_is_registered() -> None:
    assert set(METHODS) == {*SCHEMES, *LOSSY}
    assert {name for name, method in METHODS.items() if not method.lossless} == set(LOSSY)


@pytest.mark.parametrize("name", LOSSY)
def test_a_lossy_method_needs_consent(name: str) -> None:
    with pytest.raises(ConfigError, match="--lossy"):
        method_named(name)
    assert method_named(name, allow_lossy=True) is METHODS[name]


def test_consent_changes_nothing_for_a_lossless_scheme() -> None:
    assert method_named("dsd") is method_named("dsd", allow_lossy=True)


def test_a_threshold_replaces_the_default_where_there_is_one() -> None:
    for name in LOSSY:
        policy = method_named(name, allow_lossy=True, threshold=0.25).policy
        assert policy is not None
        assert policy.threshold == 0.25  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no threshold"):
        method_named("dsd", threshold=0.25)


def test_an_unknown_method_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="u-hlm"):
        method_named("uhlm")


# Policies


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_probabilities_at_a_temperature_are_the_laws(temperature: float) -> None:
    row = SLM[3].copy()
    row[5] = -np.inf
    law = to_law(row, Sampling(temperature), ())
    for token_id in range(VOCAB):
        (prob,) = probs_at(row, token_id, np.array([temperature]))
        assert prob == pytest.approx(prob_of(law, token_id), abs=1e-12)


def test_u_hlm_counts_the_re_samples_that_disagree() -> None:
    """Twenty re-samples; at 0.08 at most one of them may disagree."""
    kept = 0
    row = np.array([2.0, 0.0, 0.0])
    q = to_law(row, Sampling(), ())
    for seed in range(400):
        kept += Uncertainty().keeps(row, q, 0, device_coins(seed))
    rng = np.random.default_rng(0)
    disagreeing = [1 - probs_at(row, 0, 2.0 * (1.0 - rng.random(20))) for _ in range(4_000)]
    chance = np.mean([(rng.random(20) < chances).sum() <= 1 for chances in disagreeing])
    assert abs(kept / 400 - chance) < 4 * math.sqrt(chance * (1 - chance) / 400)


def test_u_hlm_keeps_the_certain_and_asks_about_the_uncertain() -> None:
    q = ArrayLaw.dense(np.ones(VOCAB))
    certain = np.full(VOCAB, -np.inf)
    certain[4] = 1.0
    assert Uncertainty().keeps(certain, q, 4, device_coins(0))
    assert not Uncertainty().keeps(np.zeros(VOCAB), q, 4, device_coins(0))


def test_threshold_looks_at_the_drawn_tokens_probability() -> None:
    q = ArrayLaw.dense(np.array([0.5, 0.3, 0.2]))
    kept = [
        Improbable(0.3).keeps(np.zeros(3), q, token_id, device_coins(0)) for token_id in range(3)
    ]
    assert kept == [True, True, False]


# Turns


def test_u_hlm_sends_what_is_in_doubt_as_a_block_of_one_without_a_bonus() -> None:
    run = Run(Uncertainty(threshold=0.5))
    committed = run.write(300)
    origins = [token.origin for token in committed]
    counts = run.counts
    assert origins.count(Origin.UNVERIFIED) == counts.unverified > 30
    assert origins.count(Origin.ACCEPTED) == counts.accepted > 30
    assert origins.count(Origin.CORRECTED) == counts.rejected > 10
    assert counts.bonus == 0
    assert all(message.gamma == 1 and message.flags == Flags.NO_BONUS for message in run.sent)
    assert ids(committed) == list(run.session.tokens.ids[len(PROMPT) :])
    assert run.drafter.num_run <= len(PROMPT) + len(committed)


def test_kept_tokens_ride_up_with_the_next_round() -> None:
    run = Run(Uncertainty(threshold=0.5))
    committed = run.write(300)
    assert max(len(message.appended) for message in run.sent) > 2
    shared = len(run.edge.session.tokens)
    assert list(run.edge.session.tokens.ids) == list(run.session.tokens.ids[:shared])
    assert shared > len(committed) // 2


def test_threshold_asks_the_edge_for_a_token_of_its_own() -> None:
    run = Run(Improbable(0.4))
    origins = [token.origin for token in run.write(200)]
    assert set(origins) == {Origin.UNVERIFIED, Origin.BONUS}
    assert all(message.gamma == 0 and not message.flags for message in run.sent)


def test_nothing_is_sent_where_every_token_is_kept() -> None:
    run = Run(Improbable(0.0), Sampling(temperature=0.0))
    text = [PROMPT[-1]]
    for _ in range(20):
        text.append(int(SLM[text[-1]].argmax()))
    assert ids(run.write(20)) == text[1:]
    assert not run.sent


def test_the_llm_writes_where_no_token_is_kept() -> None:
    run = Run(Improbable(2.0), Sampling(temperature=0.0))
    text = [PROMPT[-1]]
    for _ in range(20):
        text.append(int(LLM[text[-1]].argmax()))
    assert ids(run.write(20)) == text[1:]


@pytest.mark.parametrize(
    ("threshold", "sends_draft", "lossless"),
    [(0.5, True, False), (0.5, False, False), (2.0, True, True), (2.0, False, True)],
)
def test_the_law_is_p_only_where_no_token_is_kept(
    threshold: float, sends_draft: bool, lossless: bool
) -> None:
    llm = np.array([[0.2, 1.0], [0.2, 1.0]], np.float32)
    slm = np.array([[1.1, 0.3], [1.1, 0.3]], np.float32)

    class Keeping(Improbable):
        pass

    Keeping.sends_draft = sends_draft

    def run(coins: Coins, streams: object) -> int:
        one = Run(Keeping(threshold), tables=(llm, slm), coins=coins)
        one.edge.session._streams_at = streams.at  # type: ignore[attr-defined]
        return one.write(1)[0].token_id

    law = enumerate_law(run)
    p, q = (to_law(table[0], Sampling(), ()) for table in (llm, slm))
    error = abs(law[0] - prob_of(p, 0))
    if lossless:
        assert error < 1e-12
    else:
        # The improbable id 1 is the only one that the edge decides about.
        assert error > 0.1
        assert law[0] > prob_of(q, 0)


# Log probabilities


class Link:
    """As much of a link as writing uses, to an edge in memory."""

    def __init__(self, run: Run) -> None:
        self.session = run.session
        self._edge = run.edge

    async def exchange(self, data: bytes) -> bytes:
        return self._edge.answer(data)


async def written(policy: Policy, num_tokens: int) -> Transcript:
    run = Run(policy)
    link: Any = Link(run)
    generation = replace(run.generation, logprobs=True)
    detokenizer = Detokenizer(lambda token_id: bytes([65 + token_id]))
    transcript = Transcript(detokenizer, frozenset(), num_tokens)
    pieces = write_lossy(
        link, run.drafter, generation, policy, device_coins(5), transcript, run.counts
    )
    async for _ in pieces:
        pass
    return transcript


@pytest.mark.parametrize("policy", [Uncertainty(), Improbable(0.4)])
async def test_every_token_that_a_round_carried_has_its_log_probability(policy: Policy) -> None:
    transcript = await written(policy, 60)
    text = [PROMPT[-1], *transcript.token_ids]
    last_sent = max(transcript.logprobs)
    assert sorted(transcript.logprobs) == list(range(last_sent + 1))
    # What was kept or drawn after the last round, no edge has seen.
    assert all(origin is not Origin.BONUS for origin in transcript.origins[last_sent + 1 :])
    for index, (before, after) in enumerate(itertools.pairwise(text[: last_sent + 2])):
        row = LLM[before].astype(np.float64)
        wanted = row[after] - np.log(np.exp(row).sum())
        assert transcript.logprobs[index] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("num_own", "is_asked"), [(126, True), (127, True), (128, False)])
def test_more_tokens_than_an_edge_gives_rows_for_go_without(num_own: int, is_asked: bool) -> None:
    """The edge would refuse the round."""
    run = Run(Improbable(2.0))
    generation = replace(run.generation, logprobs=True)
    run.session.receive_begun(run.edge.answer(run.session.begin(generation)))
    run.session.append([i % VOCAB for i in range(num_own)])
    message = run.session.round([], Ask())
    answer = run.session.receive_verdict(run.edge.answer(message), [])
    assert len(answer.logprobs) == (num_own + 1 if is_asked else 0)


# The router


def test_the_router_scores_the_end_of_the_prompt() -> None:
    drafter = TableDrafter(SLM)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    surprises = [
        -math.log(prob_of(to_law(SLM[before], Sampling(), ()), after))
        for before, after in itertools.pairwise(prompt)
    ]
    assert Router(num_scored=3).surprise(drafter, prompt, VOCAB) == pytest.approx(
        sum(surprises[-3:]) / 3
    )
    assert list(drafter.tokens) == prompt[:-1]
    drafter.truncate(0)
    assert Router().surprise(drafter, prompt, VOCAB) == pytest.approx(sum(surprises) / 7)


def test_the_router_sends_what_surprises_the_slm_to_the_edge() -> None:
    router = Router()
    probable, improbable = [PROMPT[0]], [PROMPT[0]]
    for _ in range(10):
        probable.append(int(SLM[probable[-1]].argmax()))
        improbable.append(int(SLM[improbable[-1]].argmin()))
    assert router.route(TableDrafter(SLM), probable, VOCAB) is Route.DEVICE
    assert router.route(TableDrafter(SLM), improbable, VOCAB) is Route.EDGE
    assert (
        replace(router, threshold=1e9).route(TableDrafter(SLM), improbable, VOCAB) is Route.DEVICE
    )


def test_a_prompt_of_one_token_goes_to_the_edge() -> None:
    drafter = TableDrafter(SLM)
    assert Router().route(drafter, [3], VOCAB) is Route.EDGE
    assert drafter.num_tokens == 0
