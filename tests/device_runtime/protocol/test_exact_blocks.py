"""Whole rounds emit the joint law of p exactly: blocks, bonus, end tokens, draft-ahead, real sessions.

The models are tables over two ids, so that all ways the coins can fall can be enumerated. Every block
is judged by `judge_block`; the last tests go through sessions, messages and `Turn`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from device_runtime import turn as turn_module
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.grid import GRID, Grid
from device_runtime.protocol.law import Law, prob_of
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme, Vocabulary
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.sqs import Lattice
from device_runtime.protocol.verify import RoundKey, judge_block
from device_runtime.turn import Counts, Turn
from tests.exact_law import (
    EnumeratedCoins,
    EnumeratedStreams,
    enumerate_law,
    evidence_sent,
    rejection_sent,
)
from tests.table_model import Table, TableDrafter, TableRows, vocabulary_hash

TOLERANCE = 1e-12
PLAIN = Sampling()
LLM = np.array([[0.2, 1.0], [1.0, 0.2]], np.float32)  # the same two probabilities: fewer cuts
SLM = np.array([[1.1, 0.3], [0.1, 0.6]], np.float32)
VOCAB = Vocabulary(2)
START = 0

Text = tuple[int, ...]
SUBJECTS: dict[str, Scheme] = {
    "greedy-draft": SCHEMES["greedy-draft"],
    "dssd-packed": SCHEMES["dssd-packed"],
    "dsd": SCHEMES["dsd"],
    "tk-slt": SCHEMES["tk-slt"],
    "qsv, l = 3": KnownDraft("qsv", 14, Lattice(3)),
}


def law_after(table: Table, text: Text, sampling: Sampling = PLAIN) -> Law:
    return to_law(table[text[-1]], sampling, text[1:])


def cuts(scheme: Scheme, sampling: Sampling = PLAIN) -> tuple[int, ...]:
    """The grid indices that drafted ones are compared with, for laws without memory."""
    probs = [to_law(row, sampling, ()).prob(np.arange(2)) for row in LLM]
    grid: Grid = getattr(scheme, "grid", GRID)
    return tuple(sorted({*grid.floor(np.concatenate(probs)).tolist()}))


def joint_law(
    num_tokens: int, sampling: Sampling = PLAIN, end_id: int | None = None
) -> dict[Text, float]:
    """What the LLM alone writes after START; a text stops at the end token."""
    law: dict[Text, float] = {(START,): 1.0}
    for _ in range(num_tokens):
        longer: dict[Text, float] = {}
        for text, chance in law.items():
            if len(text) > 1 and text[-1] == end_id:
                longer[text] = chance
                continue
            p = law_after(LLM, text, sampling)
            longer.update({(*text, i): chance * prob_of(p, i) for i in p.support().tolist()})
        law = longer
    return {text[1:]: chance for text, chance in law.items()}


def distance(law: dict[Text, float], target: dict[Text, float]) -> float:
    return max(abs(law.get(text, 0) - target.get(text, 0)) for text in law.keys() | target.keys())


# Blocks


@dataclass
class Play:
    """Rounds on one path of the coins, without messages; subclasses are the mutants."""

    scheme: Scheme
    gamma: int
    num_tokens: int
    coins: EnumeratedCoins
    streams: EnumeratedStreams
    bonus: bool = True

    def __post_init__(self) -> None:
        self.text: Text = (START,)
        self.num_rounds = 0

    def __call__(self) -> Text:
        while len(self.text) <= self.num_tokens:
            self.round()
        return self.text[1 : self.num_tokens + 1]

    def round(self) -> None:
        laws, block = self.draft()
        received = [evidence_sent(self.scheme, drafted, VOCAB) for drafted in block]
        ids = [drafted.token_id for drafted in received]
        judgement = judge_block(
            self.scheme, lambda i: law_after(LLM, (*self.text, *ids[:i])), received,
            len(self.text), RoundKey(0, self.num_rounds, 0), Ask(1, whole_row=True), frozenset(),
            self.bonus, self.streams.at,
        )  # fmt: skip
        self.num_rounds += 1
        at = judgement.num_accepted
        self.text += tuple(ids[:at])
        if judgement.rejection is not None:
            rejection = rejection_sent(self.scheme, judgement.rejection, VOCAB)
            token_id = self.scheme.settle(laws[at], block[at], rejection, self.coins)
            assert token_id is not None
            self.text += (token_id,)
        else:
            self.whole(judgement.next_token)

    def draft(self) -> tuple[list[Law], list[Drafted]]:
        laws: list[Law] = []
        block: list[Drafted] = []
        while len(block) < self.gamma:
            text = (*self.text, *(drafted.token_id for drafted in block))
            q = law_after(SLM, text)
            if not self.goes_on(q):
                break
            laws.append(q)
            block.append(self.scheme.draft(q, Place(0, len(text)), self.coins))
        return laws, block

    def goes_on(self, q: Law) -> bool:
        """Whether the next token is drafted; may depend on its row, never on the token."""
        return True

    def whole(self, next_token: int | None) -> None:
        """The block stands as a whole."""
        assert (next_token is not None) == self.bonus
        self.text += () if next_token is None else (next_token,)


class StopsOnFlatRows(Play):
    """Draft control that looks at rows only."""

    def goes_on(self, q: Law) -> bool:
        return bool(q.prob(q.support()).max() > 0.65)


class DropsAfterALook(Play):
    """A drafted token is not sent if it came out improbable."""

    def draft(self) -> tuple[list[Law], list[Drafted]]:
        laws, block = super().draft()
        likely = [
            prob_of(q, drafted.token_id) > 0.5 for q, drafted in zip(laws, block, strict=True)
        ]
        sent = (*likely, False).index(False)
        return laws[:sent], block[:sent]


class KeepsTheContinuation(Play):
    """Missing bonus: the token after a whole block is the device's own next draft, unjudged."""

    def whole(self, next_token: int | None) -> None:
        continuation = self.coins.draw(law_after(SLM, self.text), 1)
        self.text += (int(continuation[0]),)


class JudgesBonusAndContinuation(Play):
    """The bonus has been drawn, and the continuation in flight is judged for the same place."""

    def whole(self, next_token: int | None) -> None:
        assert next_token is not None
        place = Place(0, len(self.text))
        p = law_after(LLM, self.text)
        continuation = self.scheme.draft(law_after(SLM, self.text), place, self.coins)
        received = evidence_sent(self.scheme, continuation, VOCAB)
        streams = self.streams.at(0, 100 + self.num_rounds, 0, len(self.text))
        accepted = self.scheme.accepts(p, received, place, streams)
        self.text += (received.token_id if accepted else next_token,)


def played(
    kind: type[Play], scheme: Scheme, gamma: int, num_tokens: int, bonus: bool = True
) -> float:
    """The distance of what `kind` writes from what the LLM alone writes."""
    law = enumerate_law(
        lambda coins, streams: kind(scheme, gamma, num_tokens, coins, streams, bonus)(),
        cuts(scheme),
    )
    return distance(law, joint_law(num_tokens))


@pytest.mark.parametrize("gamma", [1, 2])
@pytest.mark.parametrize("name", SUBJECTS)
def test_blocks_follow_the_joint_law(name: str, gamma: int) -> None:
    num_tokens = 2 if name == "dssd-packed" else 3
    assert played(Play, SUBJECTS[name], gamma, num_tokens) < TOLERANCE


@pytest.mark.parametrize("name", SUBJECTS)
def test_draft_ahead_without_a_bonus_follows_the_joint_law(name: str) -> None:
    """The block after a whole one is the continuation; no token stands between them."""
    assert played(Play, SUBJECTS[name], 1, 2, bonus=False) < TOLERANCE


@pytest.mark.parametrize("name", SUBJECTS)
def test_draft_control_by_rows_follows_the_joint_law(name: str) -> None:
    assert played(StopsOnFlatRows, SUBJECTS[name], 2, 2) < TOLERANCE


@pytest.mark.parametrize(
    "kind", [DropsAfterALook, KeepsTheContinuation, JudgesBonusAndContinuation]
)
@pytest.mark.parametrize("scheme", [SCHEMES["dsd"], SCHEMES["dssd-packed"]])
def test_the_check_fails_when(kind: type[Play], scheme: Scheme) -> None:
    assert played(kind, scheme, 1, 2) > 1e-2


# Sessions


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
