"""The exact-law check fails for every mistake that schemes like these have been made with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.protocol.errors import RemoteError
from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import ArrayLaw, Floats, Ids, Law, prob_of
from device_runtime.protocol.randomness import Coins, Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme, Vocabulary
from device_runtime.protocol.schemes.dsd import WholeRow
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.packed import DssdPacked, PackedRow
from device_runtime.protocol.schemes.sqs import Lattice
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.wire import Writer
from tests.exact_cases import COARSE, FINER, sampled_cases
from tests.exact_law import deviation


class RatioUpsideDown(KnownDraft):
    """Accepts with chance q/p, as printed."""

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        q = drafted.evidence.law()
        chance = prob_of(q, drafted.token_id) / max(prob_of(p, drafted.token_id), 1e-300)
        return bool(streams(Purpose.ACCEPT, 0).flip(np.array([min(1.0, chance)]))[0])


class IndexUpsideDown(DssdThinned):
    """Accepts iff u · q(x) ≥ p̃(x)."""

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        floor = self.grid.floor(np.array([prob_of(p, drafted.token_id)]))[0]
        return bool(drafted.evidence >= floor)


class RoundedUpInTheTest(DssdPacked):
    """The test takes p rounded up, the residual p rounded down."""

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        return bool(drafted.evidence <= self.grid.ceil_of(prob_of(p, drafted.token_id)))


class JudgedOnAFinerRow(DssdPacked):
    """The row is rounded to a step, the test compares with p on the finer grid."""

    def accepts(self, p: Law, drafted: Drafted, place: Place, streams: Streams) -> bool:
        floor = self.grid.floor(np.array([prob_of(p, drafted.token_id)]))[0]
        return bool(drafted.evidence <= floor)


class NothingUnconditional(DssdThinned):
    """The draws are thinned as if p̃ were p: p on the edge's side, p̃ on the device's."""

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> object:
        def silenced(purpose: Purpose, first: int) -> Coins:
            coins = streams(purpose, first)
            return NeverTrue(coins) if purpose is Purpose.DRAW else coins

        return super().reject(p, drafted, place, silenced, ask)


class FirstInIdOrder(DssdThinned):
    """Takes the first draw that passes; the draws are sorted by id."""

    def settle(self, q: Law, drafted: Drafted, rejection: object, coins: Coins) -> int | None:
        return super().settle(q, drafted, rejection, AlwaysFirst(coins))


class ResentDraws(DssdThinned):
    """A request for more is answered with the same draws; the device flips fresh coins."""

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> object:
        return super().reject(p, drafted, place, streams, Ask(ask.num_draws, 0, ask.whole_row))


class DroppedDraws(DssdThinned):
    """Sends only the ids that fit: here one."""

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> object:
        rejection = super().reject(p, drafted, place, streams, ask)
        return rejection[:1] if isinstance(rejection, tuple) else rejection


class DropsWhatLiesBelowTheGrid(DssdThinned):
    """p̃ = 0 is taken for p = 0."""

    def settle(self, q: Law, drafted: Drafted, rejection: object, coins: Coins) -> int | None:
        if isinstance(rejection, tuple):
            rejection = tuple(draws for draws in rejection if draws.prob_index)
        return super().settle(q, drafted, rejection, coins) if rejection else None


class ForgetsWhatIsLeft(DssdPacked):
    """The short form stands for every row that keeps one id, as if that one were all of p."""

    def write_rejection(self, out: Writer, rejection: Any, vocab: Vocabulary) -> None:
        if len(rejection.ids) == 1:
            rejection = PackedRow.one_hot(int(rejection.ids[0]), self.grid)
        super().write_rejection(out, rejection, vocab)


class UnwarpedDraws(DssdThinned):
    """Tests with the warped p and draws from the LLM's own law: here √p, normalised."""

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> object:
        raw = ArrayLaw(p.support(), np.sqrt(p.prob(p.support())))
        return super().reject(raw, drafted, place, streams, ask)


class UnwarpedDraft(DssdThinned):
    """Drafts from the SLM's own law and tests with the warped one: here √q, normalised."""

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        raw = ArrayLaw(q.support(), np.sqrt(q.prob(q.support())))
        token_id = int(coins.draw(raw, 1)[0])
        return Drafted(token_id, coins.scaled(prob_of(q, token_id), self.grid))


class SettledInSinglePrecision(DssdThinned):
    """Drafts from q and tests it; takes away what is left of q in single precision."""

    def settle(self, q: Law, drafted: Drafted, rejection: Any, coins: Coins) -> int | None:
        rounded = ArrayLaw(q.support(), q.prob(q.support()).astype(np.float32))
        return super().settle(rounded, drafted, rejection, coins)


class DraftedBeforeRounding(KnownDraft):
    """Drafts from q and sends q̂."""

    def draft(self, q: Law, place: Place, coins: Coins) -> Drafted:
        return Drafted(int(coins.draw(q, 1)[0]), self.codec.rounded(q))


class WrappedCoins:
    """Coins of which a mutant bends one kind."""

    def __init__(self, coins: Coins) -> None:
        self._coins = coins

    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        return self._coins.flip(chances)

    def draw(self, law: Law, count: int) -> Ids:
        return self._coins.draw(law, count)

    def choose(self, count: int) -> int:
        return self._coins.choose(count)

    def scaled(self, value: float, grid: Grid) -> int:
        return self._coins.scaled(value, grid)


class AlwaysFirst(WrappedCoins):
    def choose(self, count: int) -> int:
        return 0


class NeverTrue(WrappedCoins):
    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        return np.zeros(len(chances), bool)


MUTANTS: dict[str, tuple[Scheme, Scheme]] = {
    "the ratio is q/p": (
        RatioUpsideDown("dsd", 10, WholeRow()),
        KnownDraft("dsd", 10, WholeRow()),
    ),
    "the index test is the wrong way round": (IndexUpsideDown(COARSE), DssdThinned(COARSE)),
    "p is rounded up in the test only": (RoundedUpInTheTest(COARSE), DssdPacked(COARSE)),
    "p is rounded to a step in the row only": (
        JudgedOnAFinerRow(FINER, 0.3),
        DssdPacked(FINER, 0.3),
    ),
    "p stands for p-tilde on one side": (NothingUnconditional(COARSE), DssdThinned(COARSE)),
    "the first passing draw in id order is taken": (FirstInIdOrder(COARSE), DssdThinned(COARSE)),
    "draws are re-sent to fresh coins": (ResentDraws(COARSE), DssdThinned(COARSE)),
    "draws are dropped to fit a size": (DroppedDraws(COARSE), DssdThinned(COARSE)),
    "q is not warped where it is drawn from": (UnwarpedDraft(COARSE), DssdThinned(COARSE)),
    "p is not warped where it is drawn from": (UnwarpedDraws(COARSE), DssdThinned(COARSE)),
    "the draft is sampled before rounding": (
        DraftedBeforeRounding("qsv", 14, Lattice(5)),
        KnownDraft("qsv", 14, Lattice(5)),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_check_fails_when(name: str) -> None:
    p, q = ArrayLaw.dense(np.array([0.3, 0.7])), ArrayLaw.dense(np.array([0.75, 0.25]))
    # Draws sent again show where few are sent at once, the others where more are.
    num_draws, patience = (1, 2) if name == "draws are re-sent to fresh coins" else (2, 1)
    wrong, right = (deviation(scheme, p, q, 2, num_draws, patience) for scheme in MUTANTS[name])
    assert right < 1e-12
    assert wrong > 1e-3


def test_the_check_fails_where_q_is_of_another_precision_when_it_is_subtracted() -> None:
    p = ArrayLaw.dense(np.array([0.3, 0.7]))
    as_drafted = ArrayLaw.dense(np.array([0.7, 0.3], np.float32))
    in_double = ArrayLaw.dense(np.array([0.7, 0.3]))
    assert deviation(SettledInSinglePrecision(COARSE), p, in_double, 2) > 1e-9
    assert deviation(DssdThinned(COARSE), p, in_double, 2) < 1e-12
    assert deviation(DssdThinned(COARSE), p, as_drafted, 2) < 1e-12


ONLY_ON_DEGENERATE_LAWS: dict[str, Scheme] = {
    "what lies below the grid is dropped": DropsWhatLiesBelowTheGrid(COARSE),
    "one id in the row stands for one id in p": ForgetsWhatIsLeft(COARSE),
}


@pytest.mark.parametrize("name", [*MUTANTS, *ONLY_ON_DEGENERATE_LAWS])
def test_the_product_of_laws_and_parameters_fails_when(name: str) -> None:
    """As the exact-law test takes it: whatever is wrong must show somewhere in the quick part."""
    wrong = ONLY_ON_DEGENERATE_LAWS[name] if name in ONLY_ON_DEGENERATE_LAWS else MUTANTS[name][0]
    # Among draws sent at once a wrong one can be taken; draws sent again need a second request.
    num_draws, patience = (2, 1) if "fit a size" in name or "first passing" in name else (1, 2)

    def shows(p: Law, q: Law, num_ids: int) -> bool:
        try:
            return deviation(wrong, p, q, num_ids, num_draws, patience) > 1e-3
        except RemoteError:  # the other side refuses what no honest one sends
            return True

    assert any(shows(p, q, num_ids) for _, p, q, num_ids in sampled_cases(0))
