"""Where random decisions come from.

Schemes never see uniforms: they ask `Coins` to flip, draw or choose. That lets a test enumerate
every decision with its exact chance. The edge's coins are keyed, so that a round judged again gives
the same verdict; the device's coins come from a source that shares nothing with the generation's
seed.

The keyed generator is SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) used as a counter: the words
of the key are absorbed one by one, then value i is mix(key + (i + 1)·γ). Integers only, so numpy
and torch give identical bits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import Floats, Ids, Law

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
BELOW_ONE = 1.0 - 2.0**-53
"""The largest double below 1."""
_WORD = (1 << 64) - 1

_ONE, _GAMMA = np.uint64(1), np.uint64(GOLDEN_GAMMA)
_FACTOR_1, _FACTOR_2 = np.uint64(MIX_1), np.uint64(MIX_2)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_TO_53 = np.uint64(11)


class Purpose(IntEnum):
    """What a keyed stream of uniforms decides."""

    ACCEPT = 1
    NEXT_TOKEN = 2
    DRAW = 3
    RESIDUAL = 5
    SHARED_NOISE = 6
    EDGE_DRAFT = 7


def stream_key(*words: int, onto: int = 0) -> int:
    """One 64-bit key of a stream from the words that name it; onto: the key of those before them."""
    key = onto
    for word in words:
        z = ((key ^ (word & _WORD)) + GOLDEN_GAMMA) & _WORD
        z = ((z ^ (z >> 30)) * MIX_1) & _WORD
        z = ((z ^ (z >> 27)) * MIX_2) & _WORD
        key = z ^ (z >> 31)
    return key


_place_key = lru_cache(maxsize=64)(stream_key)
"""A place that is judged is mostly asked for several streams, one after the other."""


def stream_bits(key: int, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 bits (n,) at the counters (n,) of the stream."""
    return _mixed(key, _steps(counters))


def _steps(counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """How far from the key the counters are: (n,)."""
    return (counters.astype(np.uint64) + _ONE) * _GAMMA


_FIRST_STEPS = _steps(np.arange(1024))
"""A stream's first values are most of what is ever asked for."""
_READ_AHEAD = 64
"""So many values cost about what two cost: the calls."""
_NONE = np.empty(0)


def _mixed(key: int, steps: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = steps + np.uint64(key)  # and then in place: a few dozen values cost what the calls cost
    z ^= z >> _SHIFT_1
    z *= _FACTOR_1
    z ^= z >> _SHIFT_2
    z *= _FACTOR_2
    z ^= z >> _SHIFT_3
    return z


def stream_uniforms(key: int, first: int, count: int) -> Floats:
    """Uniforms (count,) in [0, 1) with 53 bits at the counters from `first` on of the stream."""
    last = first + count
    near = last <= len(_FIRST_STEPS)
    bits = _mixed(key, _FIRST_STEPS[first:last] if near else _steps(np.arange(first, last)))
    bits >>= _SHIFT_TO_53
    uniforms: Floats = np.multiply(bits, 2.0**-53, dtype=np.float64)
    return uniforms


def stream_uniform(key: int, counter: int) -> float:
    """The uniform at one counter: the same as by `stream_uniforms`, at a tenth of the time."""
    return (stream_key(key + counter * GOLDEN_GAMMA) >> 11) * 2.0**-53


class Coins(Protocol):
    """Independent random decisions."""

    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        """True (n,) with the chances (n,)."""
        ...

    def draw(self, law: Law, count: int) -> Ids:
        """Independent ids (count,) from the law."""
        ...

    def choose(self, count: int) -> int:
        """One of 0 … count − 1, all equally likely."""
        ...

    def scaled(self, value: float, grid: Grid) -> int:
        """Index of u · value rounded up to the grid, u ~ U(0, 1)."""
        ...


class UniformCoins:
    """Coins from a source of uniforms in [0, 1): `source(n)` gives the next n of them."""

    def __init__(self, source: Callable[[int], Floats]) -> None:
        self._source = source

    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        flipped: NDArray[np.bool_] = self._source(len(chances)) < chances
        return flipped

    def draw(self, law: Law, count: int) -> Ids:
        return law.draw(self._source(count))

    def choose(self, count: int) -> int:
        return int(self._source(1)[0] * count)

    def scaled(self, value: float, grid: Grid) -> int:
        # 1 − u is in (0, 1]: u · value = 0 would be accepted even where p is 0.
        return grid.ceil_of((1.0 - float(self._source(1)[0])) * value)


Streams = Callable[[Purpose, int], Coins]
"""(purpose, index of the first value) → the edge's coins for one position of one round."""


def keyed_coins(key: int, first: int = 0) -> UniformCoins:
    """Coins that read the stream `key` from value `first` on."""
    position = first
    ahead: Floats = _NONE

    def source(count: int) -> Floats:
        nonlocal position, ahead
        start, position = position, position + count
        if count == 1 and not len(ahead):  # a coin, as most are
            return np.array([stream_uniform(key, start)])
        if count > len(ahead):
            ahead = stream_uniforms(key, start, max(count, _READ_AHEAD))
        taken, ahead = ahead[:count], ahead[count:]
        return taken

    return UniformCoins(source)


def edge_streams(seed: int, epoch: int, round_number: int, position: int) -> Streams:
    """The edge's coins at a position, keyed by (seed, epoch, round, position, purpose)."""

    def stream(purpose: Purpose, first: int) -> Coins:
        place = _place_key(seed, epoch, round_number, position)
        return keyed_coins(stream_key(purpose, onto=place), first)

    return stream


def device_coins(seed: int) -> UniformCoins:
    """The device's own coins; the seed is fresh entropy (`writer.fresh_coins`), or a bench's."""
    return UniformCoins(np.random.Generator(np.random.Philox(seed)).random)


def shared_gumbel(seed: int, position: int, ids: Ids) -> Floats:
    """Gumbel noise (n,) of the ids at an absolute position: the same on both ends.

    Bits are keyed by (seed, position, id); 53 of them, because 24 tie at 150,000 tokens. The largest
    number of 53 bits and a half would round to a uniform of 1, and that to noise without end, beside
    which nothing of the law is left.
    """
    key = stream_key(seed, position, Purpose.SHARED_NOISE)
    bits = stream_bits(key, ids) >> _SHIFT_TO_53
    uniforms = np.minimum((bits.astype(np.float64) + 0.5) * 2.0**-53, BELOW_ONE)
    noise: Floats = -np.log(-np.log(uniforms))
    return noise
