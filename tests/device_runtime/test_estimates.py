"""From measurements to expectations: what is taken, what is derived, what is assumed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime import estimates
from device_runtime.estimates import (
    ASSUMED_OVERLAP,
    MIN_JUDGED,
    ROUNDING_COST,
    Situation,
    choose_scheme,
    coupled_bound,
    estimate_alphas,
    estimate_candidates,
    estimate_path,
)
from device_runtime.measured import Handshake, Measured, sampling_label
from device_runtime.protocol.sampling import Sampling
from device_runtime.scheme_choice import CANDIDATES, Candidate
from device_runtime.scheme_sizes import rejected_bytes, up_bytes

LAW = Sampling(temperature=0.8)
DELAY_S, UP_S, DOWN_S, VERIFY_S = 0.05, 8e-6, 2e-6, 0.020
HANDSHAKE = Handshake(DELAY_S + 50 * UP_S + 200 * DOWN_S, 50, 200)
NOW = Situation(num_ids=32_000, gamma=4, sampling=LAW, pad_to_bytes=0, handshake=HANDSHAKE)
MANY = 1_000_000


def generation(scheme: str = "dssd-thinned", **changed: object) -> Measured:
    """On a link of 1 Mbit/s up and 4 Mbit/s down, an edge that takes 20 ms, a drafter of 15 ms."""
    measured = Measured(
        scheme=scheme, sampling=sampling_label(LAW), accepted=800, rejected=200, more_requests=2,
        rejected_bytes=45.0, draft_s=0.015,
        round_s=DELAY_S + VERIFY_S + 30 * UP_S + 25 * DOWN_S,
        handshake_s=HANDSHAKE.seconds, hello_bytes=50, welcome_bytes=200,
        up_bytes=30.0, down_bytes=25.0, up_s_per_byte=UP_S, down_s_per_byte=DOWN_S,
    )  # fmt: skip
    return replace(measured, **changed)  # type: ignore[arg-type]


def judged(scheme: str, accepted: int, rejected: int) -> Measured:
    return generation(scheme, accepted=accepted, rejected=rejected)


def named(candidates: list[Candidate], scheme: str) -> Candidate:
    (found,) = [c for c in candidates if c.scheme == scheme]
    return found


@pytest.mark.parametrize("gamma", [1, 2, 4, 8, 16])
def test_nothing_known_takes_the_default_scheme_and_names_every_assumption(gamma: int) -> None:
    for seconds in (0.001, 0.02, 0.1, 1.0, 5.0):
        now = replace(NOW, handshake=Handshake(seconds, 40, 110), gamma=gamma)
        choice = choose_scheme([], now)
        assert choice.scheme == "dssd-thinned"
        assert set(choice.expected_s_per_token) == {*CANDIDATES} - {"greedy-draft"}
        assert len(choice.assumed) == 4


def test_before_any_rate_is_known_half_of_the_handshake_was_its_bytes() -> None:
    path, assumed = estimate_path([], replace(NOW, handshake=Handshake(0.05, 50, 200)))
    assert path.up_s_per_byte == path.down_s_per_byte == 0.025 / 250
    assert path.round_trip_s == pytest.approx(0.025) and path.verify_s == estimates.ASSUMED_VERIFY_S
    assert [name.split()[0] for name in assumed] == ["uplink", "downlink", "verify", "draft"]


def test_a_downlink_that_no_answer_has_measured_is_taken_for_as_fast_as_the_uplink() -> None:
    """`coupled` sends answers of one size alone, so it would never learn otherwise."""
    history = [generation("coupled", up_s_per_byte=1e-5, down_s_per_byte=None)]
    path, assumed = estimate_path(history, NOW)
    assert path.down_s_per_byte == path.up_s_per_byte == 1e-5
    assert assumed == ("downlink rate (as the uplink's)",)


def test_what_was_measured_is_found_again() -> None:
    path, assumed = estimate_path([generation()], NOW)
    assert assumed == ()
    assert path.up_s_per_byte == UP_S and path.down_s_per_byte == DOWN_S
    assert path.round_trip_s == pytest.approx(DELAY_S)
    assert path.verify_s == pytest.approx(VERIFY_S)
    candidates = estimate_candidates([generation()], NOW)
    assert all(c.draft_s == 0.015 for c in candidates)


def test_the_round_trip_is_this_connections_own() -> None:
    """The link may be another one than last time."""
    far = Handshake(0.4 + HANDSHAKE.seconds, 50, 200)
    path, _ = estimate_path([generation()], replace(NOW, handshake=far))
    assert path.round_trip_s == pytest.approx(0.4 + DELAY_S)
    assert path.verify_s == pytest.approx(VERIFY_S)


def test_the_upload_that_the_edge_read_quickest_bounds_the_uplink() -> None:
    history = [generation(up_s_per_byte=s) for s in (5e-4, 1e-5, 3e-3, None)]
    assert estimate_path(history, NOW)[0].up_s_per_byte == 1e-5


def test_recent_times_outweigh_old_ones() -> None:
    history = [generation(draft_s=0.1)] * 20 + [generation(draft_s=0.01)] * 3
    assert estimate_candidates(history, NOW)[0].draft_s == 0.01


def test_times_below_the_links_own_leave_no_negative_verify_time() -> None:
    assert estimate_path([generation(round_s=0.001)], NOW)[0].verify_s == 0.0


def test_a_rate_too_fast_to_measure_is_not_taken_for_infinite() -> None:
    path, _ = estimate_path([generation(up_s_per_byte=0.0, down_s_per_byte=0.0)], NOW)
    assert path.up_s_per_byte == path.down_s_per_byte == estimates.FASTEST_S_PER_BYTE


def test_draft_time_is_the_schemes_own_where_it_was_measured() -> None:
    """Noise over a wide vocabulary costs `coupled` time that the others do not spend."""
    history = [generation("coupled", draft_s=0.03), generation(draft_s=0.015)]
    candidates = estimate_candidates(history, NOW)
    assert named(candidates, "coupled").draft_s == 0.03
    assert named(candidates, "dssd-thinned").draft_s == 0.015


def test_without_measurements_acceptance_follows_from_one_overlap() -> None:
    alphas = estimate_alphas([], greedy=False)
    assert alphas == {
        "dssd-thinned": pytest.approx(ASSUMED_OVERLAP - ROUNDING_COST["dssd-thinned"]),
        "dssd-packed": pytest.approx(ASSUMED_OVERLAP - ROUNDING_COST["dssd-packed"]),
        "coupled": pytest.approx(ASSUMED_OVERLAP / (2 - ASSUMED_OVERLAP)),
    }


def test_coupled_is_bounded_by_what_the_default_scheme_accepted() -> None:
    history = [judged("dssd-thinned", 8 * MANY, 2 * MANY)]
    alphas = estimate_alphas(history, greedy=False)
    assert alphas["dssd-thinned"] == pytest.approx(0.8, abs=1e-4)
    overlap = 0.8 + ROUNDING_COST["dssd-thinned"]  # 1 − D
    assert alphas["coupled"] == pytest.approx(overlap / (2 - overlap), abs=1e-4)


def test_what_coupled_itself_accepted_outweighs_its_bound() -> None:
    history = [judged("dssd-thinned", 8 * MANY, 2 * MANY), judged("coupled", 75, 25)]
    bound = coupled_bound(0.802)
    wanted = (75 + 20 * bound) / 120
    assert estimate_alphas(history, greedy=False)["coupled"] == pytest.approx(wanted, abs=1e-4)


def test_from_coupled_alone_the_bound_is_turned_round() -> None:
    alphas = estimate_alphas([judged("coupled", 6 * MANY, 4 * MANY)], greedy=False)
    assert alphas["coupled"] == pytest.approx(0.6, abs=1e-4)
    assert alphas["dssd-thinned"] == pytest.approx(0.75 - ROUNDING_COST["dssd-thinned"], abs=1e-4)


def test_greedy_draft_stays_out_until_it_was_measured() -> None:
    few = judged("greedy-draft", MIN_JUDGED - 1, 0)
    assert "greedy-draft" not in estimate_alphas([few], greedy=False)
    enough = judged("greedy-draft", 10, MIN_JUDGED - 10)
    assert estimate_alphas([enough], greedy=False)["greedy-draft"] == 10 / MIN_JUDGED


def test_greedy_laws_are_accepted_alike_by_all() -> None:
    """What any scheme measured counts for each."""
    alphas = estimate_alphas([judged("coupled", 4, 1), judged("dssd-thinned", 5, 2)], greedy=True)
    assert len(set(alphas.values())) == 1 and set(alphas) == set(CANDIDATES)
    assert alphas["coupled"] == (9 + 20 * ASSUMED_OVERLAP) / 32


@given(
    st.lists(
        st.builds(
            judged, st.sampled_from([*CANDIDATES, "dsd"]), st.integers(0, 99), st.integers(0, 99)
        )
    ),
    st.booleans(),
)
def test_acceptance_is_always_a_probability(history: list[Measured], greedy: bool) -> None:
    assert all(0 <= alpha <= 1 for alpha in estimate_alphas(history, greedy=greedy).values())


def test_other_sampling_says_nothing_of_acceptance_and_sizes_but_much_of_times() -> None:
    other = generation(sampling="greedy", accepted=999, rejected=1, rejected_bytes=15.0)
    candidate = named(estimate_candidates([other], NOW), "dssd-thinned")
    assert candidate.alpha == pytest.approx(ASSUMED_OVERLAP - ROUNDING_COST["dssd-thinned"])
    assert candidate.rejected_bytes == rejected_bytes("dssd-thinned", 32_000, LAW)
    assert candidate.draft_s == 0.015


def test_measured_sizes_and_requests_replace_the_expected_ones() -> None:
    history = [
        generation(rejected_bytes=50.0, rejected=100, more_requests=9),
        generation(rejected_bytes=80.0, rejected=50, more_requests=0),
        generation(rejected_bytes=None, rejected=0, more_requests=0),
    ]
    candidate = named(estimate_candidates(history, NOW), "dssd-thinned")
    assert candidate.rejected_bytes == 60.0
    assert candidate.more_share == (9 + 1) / (150 + 100)
    assert candidate.up_bytes == up_bytes("dssd-thinned", 32_000, 4)
    coupled = named(estimate_candidates(history, NOW), "coupled")
    assert coupled.more_share == 0.0


def test_padding_makes_small_messages_alike() -> None:
    """Then `coupled` saves nothing and its acceptance decides."""
    now = replace(NOW, pad_to_bytes=256)
    for candidate in estimate_candidates([], now):
        if candidate.scheme != "dssd-packed":
            sizes = (candidate.up_bytes, candidate.accepted_bytes, candidate.rejected_bytes)
            assert {*sizes, candidate.more_up_bytes} == {256}
    thin = replace(now, handshake=Handshake(0.5, 1, 1))
    assert choose_scheme([], thin).scheme == "dssd-thinned"


def test_on_greedy_text_the_fewest_bytes_win() -> None:
    now = replace(NOW, sampling=Sampling(temperature=0.0))
    assert choose_scheme([], now).scheme == "coupled"
    assert choose_scheme([generation(sampling="greedy")], now).scheme == "coupled"


def thin(scheme: str, accepted: int, rejected: int) -> Measured:
    """A serial line of 2.4 kbit/s with hardly any delay, beside which nothing else takes time."""
    return generation(
        scheme, accepted=accepted, rejected=rejected, draft_s=1e-3, round_s=0.2,
        handshake_s=0.005 + 100 * 8 / 2400, hello_bytes=40, welcome_bytes=60,
        up_s_per_byte=8 / 2400, down_s_per_byte=8 / 2400,
    )  # fmt: skip


def test_a_choice_that_was_measured_to_be_worse_is_given_up() -> None:
    now = replace(NOW, handshake=Handshake(0.005 + 100 * 8 / 2400, 40, 60))
    first = choose_scheme([thin("dssd-thinned", 600, 400)], now)
    assert first.scheme == "coupled"
    disappointed = [thin("dssd-thinned", 600, 400), thin("coupled", 10, 9990)]
    assert choose_scheme(disappointed, now).scheme != "coupled"


def test_the_same_numbers_give_the_same_choice() -> None:
    history = [generation(), generation("coupled", accepted=70, rejected=30)]
    assert choose_scheme(history, NOW) == choose_scheme(list(history), NOW)
