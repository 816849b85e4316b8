"""Which grid: acceptance lost and bytes over the bits of an index and the range it covers.

A grid of so many octaves with so many levels an octave: of indices of equal width, some reach further
down and others are finer. Acceptance lost is 1 − D less Σ min(p̃, q), exactly, meaned over places of
the pair's text; bytes are those of rejections of rejected places. At temperature 1 without truncation,
where laws are flat and their tails long: nothing loses more, and nothing needs more bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.acceptance import rounded
from device_runtime.protocol.grid import GRID, Grid
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import edge_streams
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.packed import PACKED_GRID, ROUNDED_OFF, DssdPacked
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.wire import Writer

NUM_DRAWS = 20
"""Sent at once: what a generation begins with (`turn.DrawCount`)."""
VOCABULARIES = (8_192, 151_936)
SAMPLING = "T=1"


@dataclass(frozen=True, slots=True)
class Point:
    """One way to round p."""

    grid: Grid
    rounded_off: float | None = None
    """Of `dssd-packed`; None: the point is one of `dssd-thinned`."""

    @property
    def scheme(self) -> DssdPacked | DssdThinned:
        """With this grid."""
        if self.rounded_off is None:
            return DssdThinned(self.grid)
        return DssdPacked(self.grid, self.rounded_off)


def _grids(widths: Iterable[int], ranges: Iterable[int]) -> list[Grid]:
    """All splits of an index's bits between octaves and levels an octave; ranges: their log2."""
    ranges = tuple(ranges)
    return [Grid(width - log2, (1 << log2) - 1) for width in widths for log2 in ranges]


POINTS = (
    *(Point(grid) for grid in _grids((10, 11, 12), (3, 4, 5, 6))),
    *(Point(grid, ROUNDED_OFF) for grid in _grids((12, 13, 14, 15), (4, 5, 6))),
    *(Point(PACKED_GRID, budget) for budget in (0.0025, 0.01, 0.02)),
)
CHOSEN = (Point(GRID), Point(PACKED_GRID, ROUNDED_OFF))


@dataclass(frozen=True, slots=True)
class Swept:
    """What a point costs over one vocabulary."""

    point: Point
    num_ids: int
    widened: bool
    lost: float
    """Of acceptance."""
    rejection_bytes: float

    def values(self) -> dict[str, Any]:
        """By the keys of the registry."""
        grid = self.point.grid
        return {
            "scheme": self.point.scheme.name,
            "sampling": SAMPLING,
            "num_ids": self.num_ids,
            "widened": self.widened,
            "mantissa_bits": grid.mantissa_bits,
            "octaves": grid.num_octaves,
            "index_bits": grid.index_bits,
            "rounded_off": self.point.rounded_off,
            "overlap_lost": self.lost,
            "rejection_bytes": self.rejection_bytes,
        }


def sweep(
    judged: Sequence[tuple[ArrayLaw, ArrayLaw]],
    rejected: Sequence[ArrayLaw],
    num_ids: int,
    *,
    widened: bool,
) -> list[Swept]:
    """All points; judged: (p, q) at places, rejected: p where a draft was."""
    lost = np.zeros(len(POINTS))
    for p, q in judged:
        of_p, of_q = p.prob(q.ids), q.probs
        best = float(np.minimum(of_p, of_q).sum())
        for i, point in enumerate(POINTS):
            lost[i] += best - float(np.minimum(rounded(point.scheme, p, of_p), of_q).sum())
    return [
        Swept(
            point, num_ids, widened, float(lost[i]) / len(judged), _bytes(point, rejected, num_ids)
        )
        for i, point in enumerate(POINTS)
    ]


def _bytes(point: Point, rejected: Sequence[ArrayLaw], num_ids: int) -> float:
    """Mean of what is written; the same coins for every point."""
    scheme, vocab, sizes = point.scheme, Vocabulary(num_ids), []
    for number, p in enumerate(rejected):
        streams = edge_streams(number, 0, 0, 0)
        rejection = scheme.reject(p, Drafted(-1), Place(0, 0), streams, Ask(NUM_DRAWS))
        out = Writer()
        scheme.write_rejection(out, rejection, vocab)
        sizes.append(len(out.getvalue()))
    return float(np.mean(sizes))


def table(swept: Sequence[Swept]) -> Iterator[str]:
    """Markdown, a line a point; what is used stands in bold."""
    sizes = dict.fromkeys(size_of_vocabulary(one.num_ids, one.widened) for one in swept)
    heads = [f"{size} ids: alpha lost, bytes" for size in sizes]
    yield f"| scheme | index bits | octaves | levels an octave | rounded off | {' | '.join(heads)} |"
    yield "|---|" + "--:|" * (4 + len(sizes))
    for point in dict.fromkeys(one.point for one in swept):
        grid, found = point.grid, [one for one in swept if one.point == point]
        budget = "–" if point.rounded_off is None else f"{point.rounded_off:g}"
        columns = [
            f"`{point.scheme.name}`", str(grid.index_bits), str(grid.num_octaves),
            str(1 << grid.mantissa_bits), budget,
            *(f"{one.lost:.4f}, {one.rejection_bytes:,.0f}" for one in found),
        ]  # fmt: skip
        if point in CHOSEN:
            columns = [f"**{column}**" for column in columns]
        yield f"| {' | '.join(columns)} |"


def size_of_vocabulary(num_ids: int, widened: bool) -> str:
    """Of a table's line or column: whoever reads a figure sees if a model has such laws."""
    return f"{num_ids:,} (widened)" if widened else f"{num_ids:,}"
