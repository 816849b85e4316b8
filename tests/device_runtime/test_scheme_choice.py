"""`auto`'s formula, against tables, exact fractions, the papers' own forms and what must not happen."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.analytic import DssdLink
from benchmarks.analytic import tokens_per_round as papers_tokens_per_round
from device_runtime.scheme_choice import (
    Candidate,
    Path,
    choose,
    seconds_per_round,
    seconds_per_token,
    tokens_per_round,
)

THINNED = Candidate("dssd-thinned", 0.80, 0.02, 32, 10, 45, more_share=0.01)
PACKED = Candidate("dssd-packed", 0.798, 0.02, 34, 10, 800)
COUPLED = Candidate("coupled", 0.75, 0.02, 26, 10, 10)
GREEDY = Candidate("greedy-draft", 0.25, 0.02, 26, 10, 10)
ALL = [THINNED, PACKED, COUPLED, GREEDY]


def path(round_trip_s: float, up_bps: float, down_bps: float, verify_s: float = 0.03) -> Path:
    return Path(round_trip_s, verify_s, 8 / up_bps, 8 / down_bps)


@pytest.mark.parametrize(
    ("link", "scheme"),
    [
        # The request for more draws costs 1 % of a round trip; a packed row needs none.
        ("long and fat", "dssd-packed"),
        ("long and thin", "dssd-thinned"),
        ("Wi-Fi", "dssd-thinned"),
        ("LTE-M", "dssd-thinned"),
        # Nothing but bytes counts here: ids both ways.
        ("short and very thin", "coupled"),
    ],
)
def test_links_and_their_schemes(link: str, scheme: str) -> None:
    links = {
        "long and fat": path(0.6, 20e6, 100e6),
        "long and thin": path(0.8, 62e3, 26e3),
        "Wi-Fi": path(0.004, 35e6, 35e6),
        "LTE-M": path(0.075, 180e3, 375e3),
        "short and very thin": path(0.002, 2e3, 2e3, verify_s=0.001),
    }
    drafted = [replace(c, draft_s=0.001) for c in ALL] if link == "short and very thin" else ALL
    assert choose(drafted, links[link], 4).scheme == scheme


def test_one_hot_laws_leave_bytes_alone_to_decide() -> None:
    """Greedy decoding: the same acceptance for all."""
    alike = [replace(c, alpha=0.7) for c in ALL]
    alike[0] = replace(alike[0], rejected_bytes=15, more_share=0.0)
    assert choose(alike, path(0.05, 1e6, 1e6), 4).scheme == "coupled"
    assert choose(alike[::-1], path(0.05, 1e6, 1e6), 4).scheme == "greedy-draft"


def test_the_earlier_of_equals_is_taken() -> None:
    twins = [replace(COUPLED, scheme=name) for name in ("b", "a", "c")]
    assert choose(twins, path(0.05, 1e6, 1e6), 4).scheme == "b"


def test_the_report_ranks_all_candidates() -> None:
    choice = choose(ALL, path(0.05, 1e6, 1e6), 4, ("a rate",))
    figures = choice.expected_s_per_token
    assert set(figures) == {c.scheme for c in ALL}
    assert list(figures.values()) == sorted(figures.values())
    assert next(iter(figures)) == choice.scheme
    assert choice.assumed == ("a rate",)


def exact_s_per_token(candidate: Candidate, link: Path, gamma: int) -> Fraction:
    """By walking every way a round can end, in fractions: i drafts stand, then one does not."""
    alpha, total_s, total_tokens = Fraction(candidate.alpha), Fraction(0), Fraction(0)
    fixed_s = (
        gamma * Fraction(candidate.draft_s)
        + Fraction(link.round_trip_s)
        + Fraction(link.verify_s)
        + Fraction(link.up_s_per_byte) * Fraction(candidate.up_bytes)
    )
    reject_s = Fraction(link.down_s_per_byte) * Fraction(candidate.rejected_bytes)
    more_s = (
        Fraction(link.round_trip_s)
        + Fraction(link.up_s_per_byte) * Fraction(candidate.more_up_bytes)
        + reject_s
    ) * Fraction(candidate.more_share)
    for standing in range(gamma + 1):
        if standing == gamma:
            chance = alpha**gamma
            end_s = Fraction(link.down_s_per_byte) * Fraction(candidate.accepted_bytes)
        else:
            chance, end_s = alpha**standing * (1 - alpha), reject_s + more_s
        total_s += chance * (fixed_s + end_s)
        total_tokens += chance * (standing + 1)
    return total_s / total_tokens


# Subnormal numbers are left out: a drafter opened by another test makes this thread flush them.
shares = st.floats(0.0, 1.0, allow_subnormal=False)
sizes = st.floats(0.0, 1e5, allow_subnormal=False)
times = st.floats(0.0, 10.0, allow_subnormal=False)
rates = st.floats(0.0, 0.1, allow_subnormal=False)
paths = st.builds(Path, times, times.map(lambda s: s + 1e-4), rates, rates)
gammas = st.integers(0, 16)
candidates = st.builds(Candidate, st.just(""), shares, times, sizes, sizes, sizes, shares, sizes)
several = st.lists(candidates, min_size=1, max_size=5).map(
    lambda cs: [replace(c, scheme=str(i)) for i, c in enumerate(cs)]
)


@given(several, paths, gammas)
def test_the_choice_is_the_best_of_an_exhaustive_evaluation(
    cs: list[Candidate], link: Path, gamma: int
) -> None:
    exact = {c.scheme: exact_s_per_token(c, link, gamma) for c in cs}
    choice = choose(cs, link, gamma)
    for name, figure in choice.expected_s_per_token.items():
        assert figure == pytest.approx(float(exact[name]), rel=1e-9)
    assert exact[choice.scheme] <= min(exact.values()) * (1 + Fraction(1, 10**9))


def down_bytes_per_token(candidate: Candidate, gamma: int) -> float:
    """What c_down is multiplied with: the same formula on a link where all else is free."""
    only_down = Path(0.0, 0.0, 0.0, 1.0)
    return seconds_per_token(replace(candidate, draft_s=0.0), only_down, gamma)


def up_bytes_per_token(candidate: Candidate, gamma: int) -> float:
    only_up = Path(0.0, 0.0, 1.0, 0.0)
    return seconds_per_token(replace(candidate, draft_s=0.0), only_up, gamma)


def trips_per_token(candidate: Candidate, gamma: int) -> float:
    only_trips = Path(1.0, 0.0, 0.0, 0.0)
    return seconds_per_token(replace(candidate, draft_s=0.0), only_trips, gamma)


SLOWER = {
    "down_s_per_byte": down_bytes_per_token,
    "up_s_per_byte": up_bytes_per_token,
    "round_trip_s": trips_per_token,
}


@pytest.mark.parametrize("what", SLOWER)
@given(cs=several, link=paths, gamma=gammas, factor=st.floats(1.0, 1e6))
def test_what_gets_dearer_is_never_used_more(
    what: str, cs: list[Candidate], link: Path, gamma: int, factor: float
) -> None:
    """A slower downlink never moves the choice toward more bytes down per token; and so on."""
    use = SLOWER[what]
    slower = replace(link, **{what: getattr(link, what) * factor})
    by_name = {c.scheme: c for c in cs}
    before = by_name[choose(cs, link, gamma).scheme]
    after = by_name[choose(cs, slower, gamma).scheme]
    # Where the two cost the same but for rounding, either may be taken.
    rounding = 1e-9 * seconds_per_token(before, slower, gamma)
    gap_s = seconds_per_token(before, slower, gamma) - seconds_per_token(after, slower, gamma)
    assert use(after, gamma) <= use(before, gamma) * (1 + 1e-9) or gap_s <= rounding


@given(candidates, paths, gammas)
def test_a_higher_acceptance_never_costs_where_a_rejection_is_no_cheaper(
    candidate: Candidate, link: Path, gamma: int
) -> None:
    fair = replace(
        candidate, accepted_bytes=min(candidate.accepted_bytes, candidate.rejected_bytes)
    )
    better = replace(fair, alpha=min(1.0, fair.alpha + 0.05))
    cost = seconds_per_token(fair, link, gamma)
    assert seconds_per_token(better, link, gamma) <= cost * (1 + 1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("gamma", [0, 1, 8])
def test_tokens_per_round_are_the_papers(alpha: float, gamma: int) -> None:
    assert tokens_per_round(alpha, gamma) == papers_tokens_per_round(alpha, gamma)


@pytest.mark.parametrize(
    ("alpha", "gamma", "table_1_ms"), [(0.5, 2, 26.00), (0.7, 4, 26.08), (0.9, 8, 24.56)]
)
def test_with_a_whole_row_the_formula_is_dssds(alpha: float, gamma: int, table_1_ms: float) -> None:
    """Its equation 9 and Table 1: 20 ms, and 50,272 probabilities of 16 bits at 100 Mbit/s."""
    paper = DssdLink(50_272, 16, 100e6, 0.020)
    row = Candidate("dssd", alpha, 0.0, 0.0, 0.0, rejected_bytes=50_272 * 2)
    seconds = seconds_per_round(row, Path(0.020, 0.0, 0.0, 8 / 100e6), gamma)
    assert seconds == pytest.approx(paper.comm_s(alpha, gamma), rel=1e-12)
    # The table was computed with 8 ms for the row, which takes 8.04.
    assert 1e3 * seconds == pytest.approx(table_1_ms, abs=0.045)
