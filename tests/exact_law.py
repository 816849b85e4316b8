"""Exact enumeration: run a function once for every way its coins can fall, with the exact chance.

`enumerate_law(run)` calls `run(coins)` again and again. Each decision the coins are asked for is a
branch; the first run takes the first outcome everywhere, the next ones walk the tree depth first. The
sum of the chances of all runs is 1, and the emitted law is exact up to rounding.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Hashable
from functools import cache, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import Floats, Ids, Law
from device_runtime.protocol.randomness import Purpose, Streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme, Vocabulary
from device_runtime.protocol.schemes.packed import DssdPacked
from device_runtime.protocol.wire import BitReader, BitWriter, Reader, Writer

Outcome = TypeVar("Outcome", bound=Hashable)


class Tree:
    """The path through the tree of decisions: which outcome of how many is taken at each depth."""

    def __init__(self, cuts: tuple[int, ...] = ()) -> None:
        self.cuts = cuts
        self.path: list[list[int]] = []
        self.depth = 0
        self.chance = 1.0

    def decide(self, chances: list[float]) -> int:
        """The index of the outcome taken on this run; outcomes of chance 0 are never taken."""
        possible = [i for i, chance in enumerate(chances) if chance > 0]
        if self.depth == len(self.path):
            self.path.append([0, len(possible)])
        taken = possible[self.path[self.depth][0]]
        self.depth += 1
        self.chance *= chances[taken]
        return taken

    def advance(self) -> bool:
        """Go to the next path; False when all have been walked."""
        self.depth, self.chance = 0, 1.0
        while self.path and self.path[-1][0] + 1 == self.path[-1][1]:
            self.path.pop()
        if not self.path:
            return False
        self.path[-1][0] += 1
        return True


class EnumeratedCoins:
    """Coins whose every decision is a branch of the tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        return np.array([self.one_flip(chance) for chance in chances.tolist()], bool)

    def one_flip(self, chance: float) -> bool:
        """True with the chance, clipped to [0, 1]."""
        chance = min(1.0, max(0.0, chance))
        return self._tree.decide([1 - chance, chance]) == 1

    def draw(self, law: Law, count: int) -> Ids:
        return np.array([self._draw(law) for _ in range(count)], np.int64)

    def _draw(self, law: Law) -> int:
        ids = law.support()
        probs = law.prob(ids)
        taken = self._tree.decide(probs.tolist())
        # The law's own draw must agree: the middle of the outcome's share of the unit interval.
        middle = probs[:taken].sum() + probs[taken] / 2
        assert law.draw(np.array([middle]))[0] == ids[taken] or probs[taken] < 1e-12
        return int(ids[taken])

    def choose(self, count: int) -> int:
        return self._tree.decide([1 / count] * count)

    def scaled(self, value: float, grid: Grid) -> int:
        """u · value lies between neighbouring levels with a chance of their distance / value."""
        indices, chances = _scaled(value, grid, self._tree.cuts)
        return indices[self._tree.decide(chances)]


@cache
def _scaled(value: float, grid: Grid, cuts: tuple[int, ...]) -> tuple[list[int], list[float]]:
    """Indices that u · value may be rounded up to, and their chances; see `enumerate_law` on cuts."""
    reached = np.minimum(grid.level(np.arange(grid.num_levels)), value)
    chances = np.diff(reached) / value  # of indices 1, 2, …
    indices = 1 + np.flatnonzero(chances)
    chances = chances[indices - 1]
    if not cuts:
        return indices.tolist(), chances.tolist()
    group = np.searchsorted(cuts, indices)
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    # The last of a group stands for it: it lies on the cut, where a test is most easily wrong.
    ends = np.append(starts[1:], len(indices)) - 1
    return indices[ends].tolist(), np.add.reduceat(chances, starts).tolist()


class EnumeratedStreams:
    """The edge's coins: value i of a stream is decided once, however often it is read."""

    def __init__(self, tree: Tree) -> None:
        self._coins = EnumeratedCoins(tree)
        self._decided: dict[tuple[object, ...], object] = {}

    def at(self, *place: int) -> Streams:
        """The streams of one (epoch, round, position)."""
        return lambda purpose, first: _Remembered(
            self._coins, self._decided, (place, purpose), first
        )


class _Remembered:
    def __init__(
        self,
        coins: EnumeratedCoins,
        decided: dict[tuple[object, ...], object],
        stream: tuple[tuple[int, ...], Purpose],
        first: int,
    ) -> None:
        self._coins, self._decided, self._stream, self._next = coins, decided, stream, first

    def _once(self, decide: Callable[[], object]) -> object:
        key = (*self._stream, self._next)
        self._next += 1
        if key not in self._decided:
            self._decided[key] = decide()
        return self._decided[key]

    def flip(self, chances: Floats) -> NDArray[np.bool_]:
        flipped = [self._once(partial(self._coins.one_flip, chance)) for chance in chances.tolist()]
        return np.array(flipped, bool)

    def draw(self, law: Law, count: int) -> Ids:
        drawn = [self._once(lambda: int(self._coins.draw(law, 1)[0])) for _ in range(count)]
        return np.array(drawn, np.int64)

    def choose(self, count: int) -> int:
        raise AssertionError("the edge never chooses")

    def scaled(self, value: float, grid: Grid) -> int:
        raise AssertionError("the edge never scales")


def enumerate_law(
    run: Callable[[EnumeratedCoins, EnumeratedStreams], Outcome], cuts: tuple[int, ...] = ()
) -> dict[Outcome, float]:
    """The chance of every outcome of `run`.

    `cuts` are grid indices, ascending: a scaled index counts only for the first cut that it does not
    exceed. That makes fine grids feasible where indices are only ever compared with these cuts.
    """
    law: dict[Outcome, float] = defaultdict(float)
    tree = Tree(cuts)
    total = 0.0
    while True:
        outcome = run(EnumeratedCoins(tree), EnumeratedStreams(tree))
        total += tree.chance
        law[outcome] += tree.chance
        if not tree.advance():
            break
    assert abs(total - 1) < 1e-9, total
    return dict(law)


def emitted_law(
    scheme: Scheme,
    p: Law,
    q: Law,
    num_ids: int,
    num_shared: int | None = None,
    num_draws: int = 1,
    patience: int = 2,
    grid: Grid | None = None,
) -> Floats:
    """Law (num_ids,) of the token that stands at one place, through all four codecs.

    The device knows ids below num_shared. It asks for num_draws draws at a time, after `patience`
    answers in vain for the whole row. With a grid, scaled indices are cut at the levels of p̃.
    """
    vocab, shared = Vocabulary(num_ids), Vocabulary(num_shared or num_ids)
    place = Place(seed=0, position=0)

    def run(coins: EnumeratedCoins, streams: EnumeratedStreams) -> int:
        edge_streams = streams.at(0, 0, 0, 0)
        drafted = scheme.draft(q, place, coins)
        received = evidence_sent(scheme, drafted, shared)
        if scheme.accepts(p, received, place, edge_streams):
            return received.token_id
        for request in itertools.count():
            ask = Ask(num_draws, request * num_draws, whole_row=request >= patience)
            rejection = scheme.reject(p, received, place, edge_streams, ask)
            token_id = scheme.settle(q, drafted, rejection_sent(scheme, rejection, vocab), coins)
            if token_id is not None:
                return token_id
            received = Drafted(-1)  # what a request for more draws knows of it
        raise AssertionError

    law = enumerate_law(run, () if grid is None else cuts_of(scheme, p, grid))
    return np.array([law.get(token_id, 0.0) for token_id in range(num_ids)])


def cuts_of(scheme: Scheme, p: Law, grid: Grid) -> tuple[int, ...]:
    """The indices of p̃: scaled ones are only ever compared with these."""
    probs = p.prob(p.support())
    if isinstance(scheme, DssdPacked):
        rounding = scheme.rounding(p)
        probs = rounding.level(rounding.number(probs))
    return tuple(sorted({*grid.floor(probs).tolist()}))


def deviation(
    scheme: Scheme,
    p: Law,
    q: Law,
    num_ids: int,
    num_draws: int = 1,
    patience: int = 1,
    grid: Grid | None = None,
) -> float:
    """The largest error of the emitted law; arguments as of `emitted_law`."""
    emitted = emitted_law(
        scheme, p, q, num_ids, num_draws=num_draws, patience=patience, grid=grid
    )  # fmt: skip
    return float(np.abs(emitted - p.prob(np.arange(num_ids))).max())


def evidence_sent(scheme: Scheme, drafted: Drafted, vocab: Vocabulary) -> Drafted:
    """What the edge reads of a drafted token."""
    bits = BitWriter()
    scheme.write_evidence(bits, [drafted], vocab)
    reader = BitReader(bits.getvalue())
    (received,) = scheme.read_evidence(reader, [drafted.token_id], vocab)
    reader.finish()
    return received


def rejection_sent(scheme: Scheme, rejection: Any, vocab: Vocabulary) -> Any:
    """What the device reads of a rejection."""
    out = Writer()
    scheme.write_rejection(out, rejection, vocab)
    reader = Reader(out.getvalue())
    received = scheme.read_rejection(reader, vocab)
    reader.finish()
    return received
