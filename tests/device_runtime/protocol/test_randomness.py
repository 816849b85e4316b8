"""Keyed streams: pinned values, independence of keys, and the shape of the noise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.grid import GRID
from device_runtime.protocol.law import ArrayLaw, Floats, Ids
from device_runtime.protocol.randomness import (
    BELOW_ONE,
    Purpose,
    UniformCoins,
    device_coins,
    edge_streams,
    keyed_coins,
    shared_gumbel,
    stream_bits,
    stream_key,
    stream_uniform,
    stream_uniforms,
)


def test_the_integers_are_splitmix64s() -> None:
    """The published outputs of SplitMix64 for the seed 1234567."""
    wanted = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert stream_bits(1234567, np.arange(3)).tolist() == wanted


def test_every_word_of_a_key_counts_and_so_does_its_place() -> None:
    keys = {
        stream_key(*words)
        for words in [(1, 2, 3), (1, 2, 4), (1, 3, 2), (2, 1, 3), (1, 2), (0,), ()]
    }
    assert len(keys) == 7


def test_reading_later_values_needs_no_earlier_ones() -> None:
    law = ArrayLaw.dense(np.ones(1000))
    whole = keyed_coins(5).draw(law, 30)
    assert keyed_coins(5, first=20).draw(law, 10).tolist() == whole[20:].tolist()


def test_streams_of_other_purposes_positions_and_rounds_differ() -> None:
    law = ArrayLaw.dense(np.ones(10**6))
    drawn = {
        int(edge_streams(7, epoch, number, position)(purpose, 0).draw(law, 1)[0])
        for epoch in (0, 1) for number in (0, 1) for position in (0, 1) for purpose in Purpose
    }  # fmt: skip
    assert len(drawn) == 8 * len(Purpose)


def test_uniforms_are_uniform() -> None:
    uniforms = stream_uniforms(3, 0, 100_000)
    counts = np.histogram(uniforms, 100, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 149  # chi-square, 99 degrees, p = 0.001
    assert abs(np.corrcoef(uniforms[1:], uniforms[:-1])[0, 1]) < 0.01


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_one_uniform_is_that_of_the_whole_stream(key: int, counter: int) -> None:
    assert stream_uniform(key, counter) == stream_uniforms(key, counter, 1)[0]


def test_coins_flipped_one_by_one_are_those_flipped_together() -> None:
    one_by_one, together = keyed_coins(9), keyed_coins(9)
    chances = np.full(64, 0.5)
    flips = [bool(one_by_one.flip(chances[:1])[0]) for _ in chances]
    assert flips == together.flip(chances).tolist()


def test_a_stream_is_the_same_however_it_is_read() -> None:
    """One value, a few, more than are read ahead: each is that of its place."""
    sizes = (1, 1, 5, 60, 1, 200, 3, 1)
    for first in (0, 7, 1020):
        law = Uniforms()
        coins = edge_streams(1, 2, 3, 4)(Purpose.DRAW, first)
        for size in sizes:
            coins.draw(law, size)
        key = stream_key(1, 2, 3, 4, Purpose.DRAW)
        expected = stream_uniforms(key, first, sum(sizes))
        np.testing.assert_array_equal(np.concatenate(law.asked), expected)


class Uniforms(ArrayLaw):
    """Remembers the uniforms it was given."""

    def __init__(self) -> None:
        super().__init__(np.arange(2), np.ones(2))
        self.asked: list[Floats] = []

    def draw(self, uniforms: Floats) -> Ids:
        self.asked.append(uniforms)
        return super().draw(uniforms)


def test_gumbel_noise_has_no_ties_at_a_large_vocabulary() -> None:
    noise = shared_gumbel(1, 2, np.arange(151_936))
    assert len(np.unique(noise)) == 151_936
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.std() == pytest.approx(np.pi / np.sqrt(6), abs=0.01)


def test_noise_of_an_id_does_not_depend_on_its_neighbours() -> None:
    assert shared_gumbel(1, 2, np.array([7, 9]))[1] == shared_gumbel(1, 2, np.array([9]))[0]


@pytest.mark.parametrize(("uniform", "wanted"), [(0.0, 0.5), (0.5, 0.25), (BELOW_ONE, 2.0**-54)])
def test_a_scaled_uniform_is_never_index_0(uniform: float, wanted: float) -> None:
    """Index 0 would be accepted where p is 0, so the end of the unit interval that counts is 1."""
    coins = UniformCoins(lambda count: np.full(count, uniform))
    assert coins.scaled(0.5, GRID) == GRID.ceil_of(wanted) > 0


def test_the_devices_coins_follow_from_their_seed() -> None:
    law = ArrayLaw.dense(np.ones(10**6))
    assert device_coins(3).draw(law, 4).tolist() == device_coins(3).draw(law, 4).tolist()
    assert device_coins(3).draw(law, 4).tolist() != device_coins(4).draw(law, 4).tolist()
