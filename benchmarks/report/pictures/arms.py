"""Which arms a picture shows, and how each looks in all of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from benchmarks.report.cells import DEVICE, EDGE, EDGE_DRAFT, Cell
from benchmarks.report.findings import TIME

MOST_ARMS = 16
"""More make a picture that nobody reads: then every scheme is shown at its best draft length."""
BEST_ONLY = "Every scheme at its best draft length; the table has all."
COLOURED = tuple(f"series-{i}" for i in range(1, 7))
FIRST = ("dssd-thinned", "dssd", "dsd")
"""Ours and the papers' two: coloured before the others."""
MARKERS = ("o", "^", "v", "P", "X", "h")
DASHES: tuple[tuple[float, ...], ...] = ((), (4, 1.5), (1.5, 1.5), (6, 1.5, 1.5, 1.5))


@dataclass(frozen=True, slots=True)
class Look:
    """Of an arm in every picture of a page."""

    role: str
    marker: str
    dashes: tuple[float, ...] = ()

    @property
    def is_named(self) -> bool:
        """Whether the arm has a colour of its own, so that a label finds it."""
        return self.role != "other"


ALONE = {
    EDGE: Look("ink", "s"),
    EDGE_DRAFT: Look("ink", "D", (4, 1.5)),
    DEVICE: Look("muted", "d", (1.5, 1.5)),
}
OTHER = Look("other", ".")


def looks_of(cells: Sequence[Cell]) -> dict[str, Look]:
    """By arm. A colour is a scheme, dashes are its draft lengths; the slowest schemes share a grey."""
    split = [cell for cell in cells if cell.is_split]
    by_time = sorted(dict.fromkeys(cell.family for cell in split), key=lambda f: _best_s(f, split))
    families = sorted(by_time, key=lambda family: (family not in FIRST, by_time.index(family)))
    looks = {cell.arm: ALONE.get(cell.family, OTHER) for cell in cells}
    for family, role, marker in zip(families, COLOURED, MARKERS, strict=False):
        arms = dict.fromkeys(cell.arm for cell in split if cell.family == family)
        for place, arm in enumerate(arms):
            looks[arm] = Look(role, marker, DASHES[place % len(DASHES)])
    return looks


def short(cell: Cell) -> str:
    """The arm with a mark if it is lossy."""
    return cell.arm if cell.is_lossless else f"{cell.arm} †"


def pictured(cells: Sequence[Cell], figure: str = TIME) -> list[Cell]:
    """Those that have the figure; where they are too many, the best of each scheme."""
    known = [cell for cell in cells if figure in cell.estimates]
    return known if len(known) <= MOST_ARMS else best_of_families(known, figure)


def best_of_families(cells: Sequence[Cell], figure: str = TIME) -> list[Cell]:
    """Every scheme at the draft length that is the best on average."""
    chosen = set()
    for _, alike in groupby(sorted(cells, key=lambda c: c.family), key=lambda c: c.family):
        values = {arm: _mean(own, figure) for arm, own in by_arm(alike).items()}
        chosen.add(min(values, key=values.__getitem__))
    return [cell for cell in cells if cell.arm in chosen]


def by_arm(cells: Iterable[Cell]) -> Mapping[str, list[Cell]]:
    """In the order of their first cells."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.arm, []).append(cell)
    return found


def _mean(cells: Sequence[Cell], figure: str) -> float:
    return fmean(c.estimates[figure].median if figure in c.estimates else math.inf for c in cells)


def _best_s(family: str, cells: Sequence[Cell]) -> float:
    times = (cell.median(TIME) for cell in cells if cell.family == family)
    return min((time_s for time_s in times if time_s is not None), default=math.inf)
