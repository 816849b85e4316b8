"""The keyed generator of `device_runtime.protocol.randomness` on tensors: the same bits.

Torch has no arithmetic on unsigned 64-bit integers, so words are int64 with the same bits: products
and sums wrap around alike, and a right shift must clear the copies of the sign that it shifts in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from device_runtime.protocol.randomness import (
    BELOW_ONE,
    GOLDEN_GAMMA,
    MIX_1,
    MIX_2,
    Purpose,
    stream_key,
)


def stream_bits(keys: Tensor, counters: Tensor) -> Tensor:
    """64 bits (n, …) as int64 of n streams: keys (n, 1) and counters (…), int64 both."""
    z = (counters + 1) * _signed(GOLDEN_GAMMA) + keys
    z = (z ^ _shifted(z, 30)) * _signed(MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(MIX_2)
    return z ^ _shifted(z, 31)


def shared_gumbel(places: Sequence[tuple[int, int]], ids: Tensor) -> Tensor:
    """Gumbel noise (places, ids), float64, at places (seed, absolute position): the device's own."""
    keys = [_signed(stream_key(*place, Purpose.SHARED_NOISE)) for place in places]
    bits = _shifted(stream_bits(torch.tensor(keys, device=ids.device)[:, None], ids), 11)
    # In place from here on: a batch of large vocabularies is some hundred megabytes each time.
    uniforms = bits.to(torch.float64).add_(0.5).mul_(2.0**-53).clamp_(max=BELOW_ONE)
    return uniforms.log_().neg_().log_().neg_()


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(words: Tensor, num_bits: int) -> Tensor:
    return (words >> num_bits) & ((1 << (64 - num_bits)) - 1)
