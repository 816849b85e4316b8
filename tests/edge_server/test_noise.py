from __future__ import annotations

import numpy as np
import pytest
import torch

from device_runtime.protocol import randomness
from edge_server import noise

IDS = np.arange(200_001)
KEYS = [0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1] + [
    int(key) for key in np.random.default_rng(0).integers(0, 1 << 64, 10, dtype=np.uint64)
]


@pytest.mark.parametrize("key", KEYS)
def test_streams_have_the_bits_and_uniforms_of_the_device(key: int) -> None:
    ids = torch.from_numpy(IDS)
    bits = noise.stream_bits(key, ids).numpy().view(np.uint64)
    np.testing.assert_array_equal(bits, randomness.stream_bits(key, IDS))
    uniforms = noise.stream_uniforms(key, ids).numpy()
    np.testing.assert_array_equal(uniforms, randomness.stream_uniforms(key, IDS))


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (7, 123_456), ((1 << 64) - 1, 1 << 40)])
def test_gumbel_noise_is_that_of_the_device(seed: int, position: int) -> None:
    ours = noise.shared_gumbel(seed, position, torch.from_numpy(IDS)).numpy()
    theirs = randomness.shared_gumbel(seed, position, IDS)
    assert np.isfinite(ours).all()
    # Two logarithms, each within a unit in the last place; the inner one is amplified near 0.
    np.testing.assert_allclose(ours, theirs, rtol=1e-15, atol=1e-15)


def test_a_signed_shift_would_give_other_bits() -> None:
    words = torch.tensor([-1, -(1 << 63), 5])
    assert noise._shifted(words, 11).tolist() == [(1 << 53) - 1, 1 << 52, 0]
    assert noise._shifted(words, 11).tolist() != (words >> 11).tolist()
