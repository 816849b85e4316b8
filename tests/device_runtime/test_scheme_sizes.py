"""Sizes that `auto` expects, against messages that the two sessions exchange."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.scheme_choice import CANDIDATES, MORE_UP_BYTES
from device_runtime.scheme_sizes import accepted_bytes, padded, rejected_bytes, up_bytes
from device_runtime.turn import Counts, Turn
from tests.table_model import TableDrafter, TableEdge, open_session, random_table

VOCAB = 600
LLM = random_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=0.3)).astype(np.float32)
GREEDY = Sampling(temperature=0.0)


def sizes(
    scheme: str, sampling: Sampling, gamma: int = 4, rounds: int = 60, num_draws: int | None = None
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Bytes up, down where all stood, down after a rejection, up to ask for more."""
    edge = TableEdge(LLM)
    session = open_session(edge)
    session.append([3, 1, 4])
    generation = Generation(scheme_named(scheme), sampling, 77, ())
    session.receive_begun(edge.answer(session.begin(generation)))
    draws = None if num_draws is None else (lambda: num_draws)
    turn = Turn(session, TableDrafter(SLM), generation, device_coins(5), Counts(), draws)
    up: list[int] = []
    stood: list[int] = []
    fell: list[int] = []
    more: list[int] = []
    for _ in range(rounds):
        rejected_before = turn.counts.rejected
        data = turn.draft(gamma)
        answer = edge.answer(data)
        step = turn.receive(answer)
        up.append(len(data))
        (fell if turn.counts.rejected > rejected_before else stood).append(len(answer))
        while step.send is not None:
            more.append(len(step.send))
            step = turn.receive(edge.answer(step.send))
    return up, stood, fell, more


@pytest.mark.parametrize("scheme", CANDIDATES)
@pytest.mark.parametrize("gamma", [1, 4, 8])
def test_the_way_up_and_the_bonus_are_known(scheme: str, gamma: int) -> None:
    up, stood, _, _ = sizes(scheme, Sampling(top_k=2), gamma, rounds=80)
    assert np.mean(up) == pytest.approx(up_bytes(scheme, VOCAB, gamma), abs=2)
    assert np.mean(stood) == pytest.approx(accepted_bytes(VOCAB), abs=1)


def test_a_request_for_more_has_the_size_that_is_counted() -> None:
    more = sizes("dssd-thinned", Sampling(), num_draws=1)[3]
    assert np.mean(more) == pytest.approx(MORE_UP_BYTES, abs=2)


@pytest.mark.parametrize("scheme", CANDIDATES)
def test_greedy_rejections_are_near_what_is_expected(scheme: str) -> None:
    fell = sizes(scheme, GREEDY)[2]
    assert np.mean(fell) == pytest.approx(rejected_bytes(scheme, VOCAB, GREEDY), rel=0.25)


@pytest.mark.parametrize("scheme", CANDIDATES)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=40)])
def test_sampled_rejections_are_of_the_expected_size(scheme: str, sampling: Sampling) -> None:
    """A guess that is replaced once measured: it must only not mislead the first choice."""
    fell = sizes(scheme, sampling)[2]
    ratio = rejected_bytes(scheme, VOCAB, sampling) / np.mean(fell)
    assert 1 / 3 < ratio < 3


def test_candidates_are_told_apart_in_the_right_order() -> None:
    for sampling in (Sampling(), Sampling(temperature=0.8)):
        by_size = sorted(CANDIDATES, key=lambda s: rejected_bytes(s, 32_000, sampling))
        assert by_size[-2:] == ["dssd-thinned", "dssd-packed"]
    largest = max(CANDIDATES, key=lambda s: rejected_bytes(s, 32_000, GREEDY))
    assert largest == "dssd-thinned"


@pytest.mark.parametrize(("size", "pad", "wanted"), [(10, 0, 10), (10, 256, 256), (257, 256, 512)])
def test_padding_rounds_up(size: float, pad: int, wanted: float) -> None:
    assert padded(size, pad) == wanted
