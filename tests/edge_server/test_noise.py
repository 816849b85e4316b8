from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol import randomness
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.schemes.base import Place
from device_runtime.protocol.schemes.coupled import coupled_token
from edge_server import law, noise
from edge_server.law import LawBatch

IDS = np.arange(200_001)
KEYS = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1] + [
    int(key) for key in np.random.default_rng(0).integers(0, 1 << 64, 10, dtype=np.uint64)
]


@pytest.mark.parametrize("key", KEYS)
def test_streams_have_the_bits_of_the_device(key: int) -> None:
    keys = torch.from_numpy(np.array([key], np.uint64).view(np.int64))
    bits = noise.stream_bits(keys, torch.from_numpy(IDS)).numpy().view(np.uint64)
    np.testing.assert_array_equal(bits, randomness.stream_bits(key, IDS))


def test_gumbel_noise_of_many_places_at_once_is_that_of_the_device() -> None:
    places = [(0, 0), (7, 123_456), ((1 << 64) - 1, 1 << 40)]
    ours = noise.shared_gumbel(places, torch.from_numpy(IDS)).numpy()
    assert np.isfinite(ours).all()
    for row, (seed, position) in zip(ours, places, strict=True):
        theirs = randomness.shared_gumbel(seed, position, IDS)
        # Two logarithms, each within a unit in the last place; the inner one is amplified near 0.
        np.testing.assert_allclose(row, theirs, rtol=1e-15, atol=1e-15)


LAST_BITS = (1 << 64) - 1


@pytest.fixture(params=[(3,), (0, 3), (3, 5)])
def forged(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[int, ...]:
    """Some ids have the largest bits there are, the others those of their stream."""
    ids: tuple[int, ...] = request.param
    in_numpy, in_torch = randomness.stream_bits, noise.stream_bits

    def numpy_bits(key: int, counters: Any) -> Any:
        return np.where(np.isin(counters, ids), np.uint64(LAST_BITS), in_numpy(key, counters))

    def torch_bits(key: Any, counters: torch.Tensor) -> torch.Tensor:
        is_forged = torch.isin(counters, torch.tensor(ids))
        return torch.where(is_forged, -1, in_torch(key, counters))

    monkeypatch.setattr(randomness, "stream_bits", numpy_bits)
    monkeypatch.setattr(noise, "stream_bits", torch_bits)
    return ids


def test_the_largest_bits_give_finite_noise_the_same_on_both_sides(forged: tuple[int, ...]) -> None:
    ids = np.arange(8)
    theirs = randomness.shared_gumbel(1, 2, ids)
    ours = noise.shared_gumbel([(1, 2)], torch.from_numpy(ids))[0].numpy()
    assert np.isfinite(ours).all()
    np.testing.assert_array_equal(ours[list(forged)], theirs[list(forged)])
    assert ours[forged[0]] == pytest.approx(53 * np.log(2))  # −ln(2^-53)


def test_the_largest_bits_never_bring_a_token_that_the_law_excludes(
    forged: tuple[int, ...],
) -> None:
    """With noise of +inf, −inf + inf was no number, and argmax takes that for the largest."""
    weights = np.array([[0.5, 0.3, 0.2, 0, 0, 0, 0, 0], [0.1, 0.2, 0.3, 1e-12, 0, 0.2, 0.1, 0.1]])
    places = [(1, 2), (1, 2)]
    ours = LawBatch(torch.tensor(weights)).coupled([0, 1], places)
    theirs = [coupled_token(ArrayLaw.dense(row), Place(1, 2)) for row in weights]
    assert ours.tolist() == theirs
    assert weights[[0, 1], theirs].all()


def test_noise_without_end_never_brings_one_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(_: object, ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids == 2, torch.inf, 0.0).double()[None]

    monkeypatch.setattr(law, "shared_gumbel", endless)
    batch = LawBatch(torch.tensor([[0.4, 0.6, 0.0]], dtype=torch.float64))
    assert batch.coupled([0], [(0, 0)]).tolist() == [1]


def test_a_signed_shift_would_give_other_bits() -> None:
    words = torch.tensor([-1, -(1 << 63), 5])
    assert noise._shifted(words, 11).tolist() == [(1 << 53) - 1, 1 << 52, 0]
    assert noise._shifted(words, 11).tolist() != (words >> 11).tolist()
