"""Time against joules, or against the edge's time: what one must give up for the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from benchmarks.report.cells import Cell, Group
from benchmarks.report.figures import FIGURES, Figure
from benchmarks.report.findings import ENERGY, ENGINE, TIME
from benchmarks.report.pictures.arms import Look, pictured, short
from benchmarks.report.pictures.axis import set_scale, set_titles
from benchmarks.report.pictures.bars import energy_note
from benchmarks.report.pictures.canvas import places_pt, plot, size_pt
from benchmarks.report.pictures.ink import SMALL_PT, colour, width_of
from benchmarks.report.pictures.lines import Looks
from benchmarks.report.pictures.picture import LOSSY, Absent, Picture, Swatch, grey

BESIDE = (
    (8, 0), (-8, 0), (0, 12), (0, -12), (7, 8), (7, -8), (-7, 8), (-7, -8),
    *(
        (way * right, up * side)
        for right, up in ((18, 14), (24, 28), (44, 14), (30, 42), (44, 28), (36, 56), (44, 70))
        for way in (1, -1)
        for side in (1, -1)
    ),
)  # fmt: skip
"""Where a name may stand, in points from its dot: the first place that is free is taken."""
LED_PT = 12.0
"""A name farther above or below its dot than this has a line that leads to it."""
LOG_FROM = 3.0
"""Largest over smallest value from which on an axis is logarithmic: no dot is compared with 0."""
Point = tuple[float, float]


def pareto(group: Group, looks: Looks) -> Picture | Absent:
    """A dot an arm; a halo on those that no lossless arm beats in both."""
    has_joules = any(ENERGY in cell.estimates for cell in group.cells)
    form = FIGURES[ENERGY if has_joules else ENGINE]
    title = "Time against energy" if has_joules else "Time against the edge's load"
    cells = [c for c in pictured(group.cells) if TIME in c.estimates and form.name in c.estimates]
    if len(cells) < 2:
        return Absent(title, "fewer than two arms have both times and joules or engine time")
    at = {cell.arm: (_shown(cell, FIGURES[TIME]), _shown(cell, form)) for cell in cells}
    front = frontier([cell for cell in cells if cell.is_lossless], at)
    axes = _scatter(cells, front, at, looks)
    set_titles(axes, "ms per token", f"{form.title}, {form.unit}")
    named = [cell for cell in cells if looks[cell.arm].is_named]
    _label(axes, sorted(named, key=lambda c: (c not in front, c.is_split, at[c.arm])), at, looks)
    legend = [Swatch("halo: no lossless arm is better in both", "rest", "halo")]
    others = [short(cell) for cell in cells if cell not in named]
    legend += grey(others, "dot")
    legend += [LOSSY] if any(not cell.is_lossless for cell in cells) else []
    note = f"Lower left is better. {energy_note(cells) if has_joules else ''}".strip()
    return Picture.of(axes, title, group.title, note, legend)


def _shown(cell: Cell, form: Figure) -> float:
    return form.scale * cell.estimates[form.name].median


def _scatter(
    cells: Sequence[Cell], front: Sequence[Cell], at: Mapping[str, Point], looks: Looks
) -> Axes:
    axes = plot(16)
    xs, ys = zip(*at.values(), strict=True)
    set_scale(axes, "x", xs, LOG_FROM)
    set_scale(axes, "y", ys, LOG_FROM)
    if front:
        xs, ys = zip(*(at[cell.arm] for cell in front), strict=True)
        axes.plot(
            xs, ys, "o-", color=colour("rest"), linewidth=5, markersize=15, markeredgewidth=0,
            alpha=0.6, zorder=1,
        )  # fmt: skip
    for cell in cells:
        look = looks[cell.arm]
        face = colour(look.role) if cell.is_lossless else colour("card")
        axes.plot(
            *at[cell.arm], look.marker, color=colour(look.role), markerfacecolor=face,
            markersize=7, zorder=3,
        )  # fmt: skip
    return axes


def frontier(cells: Sequence[Cell], at: Mapping[str, Point]) -> list[Cell]:
    """Arms that no other one beats in both, the fastest first."""
    front: list[Cell] = []
    for cell in sorted(cells, key=lambda c: at[c.arm]):
        if not front or at[cell.arm][1] < at[front[-1].arm][1]:
            front.append(cell)
    return front


def _label(axes: Axes, cells: Sequence[Cell], at: Mapping[str, Point], looks: Looks) -> None:
    dots = dict(zip(at, places_pt(axes, list(at.values())), strict=True))
    widths = {cell.arm: width_of(short(cell), SMALL_PT) for cell in cells}
    beside = places_beside(dots, widths, size_pt(axes))
    for cell in cells:
        if cell.arm in beside:
            _annotate(axes, cell, at[cell.arm], beside[cell.arm], looks[cell.arm])


def places_beside(
    dots: Mapping[str, Point], widths: Mapping[str, float], size: Point
) -> dict[str, Point]:
    """Where the names of these widths stand, in points from their dots, the first ones first.

    They cover no dot, no other name and no line that leads to one, and their own lines cross no name
    and, where that is possible, no dot. A name without such a place is left out.
    """
    inside = Bbox.from_bounds(-8, 2, size[0] + 20, size[1] + 4)
    marks = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in dots.values()]
    names: list[Bbox] = []
    lines: list[Bbox] = []
    found: dict[str, Point] = {}
    for arm, width in widths.items():
        x, y = dots[arm]
        for obstacles, (right, up) in product((marks + names, names), BESIDE):
            box, line = _box(x + right, y + up, width, right), _leader(x, y, right, up)
            is_clear = _is_clear([box], marks + names + lines) and _is_clear(line, obstacles)
            if is_clear and _holds(inside, box):
                found[arm] = (right, up)
                names.append(box)
                lines += line
                break
    return found


def _is_clear(boxes: Sequence[Bbox], others: Sequence[Bbox]) -> bool:
    return not any(box.overlaps(other) for box in boxes for other in others)


def _leader(x: float, y: float, right: float, up: float) -> list[Bbox]:
    """The line to a name, from the edge of its own dot on, as boxes along it; often none is needed."""
    length = math.hypot(right, up)
    steps = range(10, round(length), 3) if abs(up) > LED_PT else ()
    shares = [step / length for step in steps]
    return [Bbox.from_bounds(x + right * s - 1, y + up * s - 1, 2, 2) for s in shares]


def _box(x: float, y: float, width: float, right: float) -> Bbox:
    left = x if right > 0 else x - width if right < 0 else x - width / 2
    return Bbox.from_bounds(left, y - 5.5, width, 11)


def _holds(outer: Bbox, inner: Bbox) -> bool:
    return bool(outer.contains(*inner.min) and outer.contains(*inner.max))


def _annotate(axes: Axes, cell: Cell, point: Point, beside: Point, look: Look) -> None:
    right, up = beside
    ink = colour(look.role)
    leader = {"arrowstyle": "-", "color": ink, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3,
              "relpos": (0 if right > 0 else 1, 0.5)}  # fmt: skip
    axes.annotate(
        short(cell), point, xytext=beside, textcoords="offset points", va="center_baseline",
        ha="left" if right > 0 else "right" if right < 0 else "center", fontsize=SMALL_PT, color=ink,
        arrowprops=leader if abs(up) > LED_PT else None,
    )  # fmt: skip
