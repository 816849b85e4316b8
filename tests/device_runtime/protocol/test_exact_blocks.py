"""Whole rounds emit the joint law of p exactly: blocks, bonus, draft-ahead, draft control.

Every block is judged by `judge_block`; `test_exact_sessions.py` does the same through sessions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from device_runtime.protocol.law import Law, prob_of
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.sqs import Lattice
from device_runtime.protocol.verify import RoundKey, judge_block, reject_again
from tests.exact_law import (
    EnumeratedCoins,
    EnumeratedStreams,
    enumerate_law,
    evidence_sent,
    rejection_sent,
)
from tests.joint_law import (
    LLM,
    SLM,
    START,
    TOLERANCE,
    VOCAB,
    Text,
    cuts,
    distance,
    joint_law,
    law_after,
)

SUBJECTS: dict[str, Scheme] = {
    "greedy-draft": SCHEMES["greedy-draft"],
    "dssd-packed": SCHEMES["dssd-packed"],
    "dssd-thinned": SCHEMES["dssd-thinned"],
    "dsd": SCHEMES["dsd"],
    "tk-slt": SCHEMES["tk-slt"],
    "qsv, l = 3": KnownDraft("qsv", 14, Lattice(3)),
}


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
        key = RoundKey(0, self.num_rounds, 0)
        judgement = judge_block(
            self.scheme, lambda i: law_after(LLM, (*self.text, *ids[:i])), received,
            len(self.text), key, Ask(1), frozenset(), self.bonus, self.streams.at,
        )  # fmt: skip
        self.num_rounds += 1
        at = judgement.num_accepted
        self.text += tuple(ids[:at])
        if judgement.rejection is not None:
            self.text += (self.settle(laws[at], block[at], judgement.rejection, key),)
        else:
            self.whole(judgement.next_token)

    def settle(self, q: Law, drafted: Drafted, rejection: Any, key: RoundKey) -> int:
        """The replacement; the whole row is asked for where the draw did not pass."""
        for _ in range(2):
            sent = rejection_sent(self.scheme, rejection, VOCAB)
            token_id = self.scheme.settle(q, drafted, sent, self.coins)
            if token_id is not None:
                return token_id
            p, ask = law_after(LLM, self.text), Ask(1, first=1, whole_row=True)
            rejection = reject_again(
                self.scheme, p, len(self.text), key, ask, self.streams.at
            )  # fmt: skip
        raise AssertionError

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


def blocks() -> Iterator[Any]:
    for name in SUBJECTS:
        for gamma in (1, 2):
            num_tokens = 2 if name.startswith("dssd") else 3
            is_slow = (name, gamma) == ("dssd-thinned", 2)
            yield pytest.param(name, gamma, num_tokens, marks=[pytest.mark.slow] * is_slow)
    yield "dssd-thinned", 2, 1


@pytest.mark.parametrize(("name", "gamma", "num_tokens"), [*blocks()])
def test_blocks_follow_the_joint_law(name: str, gamma: int, num_tokens: int) -> None:
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
@pytest.mark.parametrize("scheme", ["dsd", "dssd-packed", "dssd-thinned"])
def test_the_check_fails_when(kind: type[Play], scheme: str) -> None:
    assert played(kind, SUBJECTS[scheme], 1, 2) > 1e-2
