"""The keyed generator of `device_runtime.protocol.randomness` on tensors: the same bits.

Torch has no arithmetic on unsigned 64-bit integers, so words are int64 with the same bits: products
and sums wrap around alike, and a right shift must clear the copies of the sign that it shifts in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from device_runtime.protocol.randomness import GOLDEN_GAMMA, MIX_1, MIX_2, Purpose, stream_key


def stream_bits(key: int, counters: Tensor) -> Tensor:
    """64 bits (…) as int64 at the counters (…), int64, of the stream."""
    z = (counters + 1) * _signed(GOLDEN_GAMMA) + _signed(key)
    z = (z ^ _shifted(z, 30)) * _signed(MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(MIX_2)
    return z ^ _shifted(z, 31)


def stream_uniforms(key: int, counters: Tensor) -> Tensor:
    """Uniforms (…) in [0, 1), float64 with 53 bits, at the counters (…) of the stream."""
    return _shifted(stream_bits(key, counters), 11).to(torch.float64) * 2.0**-53


def shared_gumbel(seed: int, position: int, ids: Tensor) -> Tensor:
    """Gumbel noise (n,), float64, of the ids (n,) at an absolute position: the device's own."""
    key = stream_key(seed, position, Purpose.SHARED_NOISE)
    bits = _shifted(stream_bits(key, ids), 11)
    uniforms = (bits.to(torch.float64) + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniforms))


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(words: Tensor, num_bits: int) -> Tensor:
    return (words >> num_bits) & ((1 << (64 - num_bits)) - 1)
