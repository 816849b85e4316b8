"""Two runs against each other: what became faster, what slower, and what only seems so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.record import Record
from benchmarks.report.cells import Cell, cells_of, groups_of
from benchmarks.report.estimates import ENOUGH_REPEATS, Estimate
from benchmarks.report.facts import SOFTWARE
from benchmarks.report.figures import FIGURES, Figure
from benchmarks.report.findings import TIME
from benchmarks.report.stability import Doubt
from benchmarks.report.tables import Entry, Table, interval

COMPARABLE = tuple(name for name, figure in FIGURES.items() if figure.less_is_better)
PASSING_FACTS = ("load_1min", "date", "read_one_core_bytes_per_s")
"""These differ between any two runs."""
PROGRAM = ("os", "kernel", "git_commit", "git_dirty", *(f"{name}_version" for name in SOFTWARE))
"""These may differ: whether they cost or gain something is what a comparison is for."""
SHOWN_ANSWERS = 3
Pair = tuple[Any, Any]
"""Before and after."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one cell in two runs."""

    cell: Cell
    figure: Figure
    before: Estimate
    after: Estimate

    @property
    def ratio(self) -> float | None:
        """After over before; below 1 is better. None if there was nothing before."""
        return self.after.median / self.before.median if self.before.median else None

    @property
    def verdict(self) -> str:
        """Different only if the intervals do not meet; of too few repeats neither that nor same."""
        if not (self.before.is_sound and self.after.is_sound):
            return "too few repeats"
        if not self.before.is_apart_from(self.after):
            return "same"
        less, more = ("faster", "slower") if self.figure.name.endswith("_s") else ("less", "more")
        return less if self.after.median < self.before.median else more

    @property
    def is_worse(self) -> bool:
        """Slower, or more."""
        return self.verdict in {"slower", "more"}


def compare(
    before: Sequence[Record], after: Sequence[Record], figures: Sequence[str] = (TIME,)
) -> list[Comparison]:
    """Every figure of every cell that both runs hold."""
    return [
        Comparison(old, FIGURES[name], old.estimates[name], new.estimates[name])
        for old, new in _pairs(before, after)
        for name in figures
        if name in old.estimates and name in new.estimates
    ]


def differences(before: Sequence[Record], after: Sequence[Record]) -> dict[str, Pair]:
    """Facts of the machines, settings and questions of the cells that differ: perhaps the cause."""
    found = dict(_differing(before[0].machine, after[0].machine))
    for old, new in _pairs(before, after):
        found |= dict(_differing(old.settings, new.settings))
        found |= dict(_differing_answers(old, new))
    return {name: pair for name, pair in found.items() if name not in PASSING_FACTS}


def gaps(
    before: Sequence[Record], after: Sequence[Record], figures: Sequence[str] = (TIME,)
) -> list[Doubt]:
    """What `after` was not measured for, though `before` was; and cells of too few repeats."""
    new = {(cell.link, cell.sampling, cell.arm) for cell in cells_of(after)}
    lost = [c.place for c in cells_of(before) if (c.link, c.sampling, c.arm) not in new]
    for old, found in _pairs(before, after):
        names = (name for name in figures if name in old.estimates.keys() - found.estimates)
        lost += [f"{FIGURES[name].title} of {old.place}" for name in names]
    few = {
        f"{c.cell.place} ({c.before.num_repeats} and {c.after.num_repeats})": None
        for c in compare(before, after, figures)
        if not (c.before.is_sound and c.after.is_sound)
    }
    found_gaps = (
        Doubt("The second run lacks", tuple(lost)),
        Doubt(f"Fewer than {ENOUGH_REPEATS} repeats decide nothing", tuple(few)),
    )
    return [gap for gap in found_gaps if gap.places]


def table(comparisons: Sequence[Comparison]) -> Table:
    """One row a comparison."""
    heads = ("link", "sampling", "arm", "figure", "before", "after", "ratio", "verdict")
    rows = (
        (
            Entry(c.cell.link), Entry(c.cell.sampling), Entry(c.cell.label),
            Entry(f"{c.figure.title}, {c.figure.unit}"), _entry(c.figure, c.before),
            _entry(c.figure, c.after), Entry("–" if c.ratio is None else f"{c.ratio:.3f}"),
            Entry(c.verdict, is_best=c.is_worse),
        )
        for c in comparisons
    )  # fmt: skip
    return Table(heads, tuple(rows))


def to_json(
    comparisons: Sequence[Comparison], differing: Mapping[str, Pair], found_gaps: Sequence[Doubt]
) -> dict[str, Any]:
    """All figures in SI units."""
    cells = [
        {
            "link": c.cell.link, "sampling": c.cell.sampling, "arm": c.cell.arm,
            "figure": c.figure.name, "before": _values(c.before), "after": _values(c.after),
            "ratio": c.ratio, "verdict": c.verdict,
        }
        for c in comparisons
    ]  # fmt: skip
    return {
        "differences": {name: list(pair) for name, pair in differing.items()},
        "gaps": [str(gap) for gap in found_gaps],
        "cells": cells,
    }


def _pairs(before: Sequence[Record], after: Sequence[Record]) -> Iterator[tuple[Cell, Cell]]:
    new = {(cell.link, cell.sampling, cell.arm): cell for cell in cells_of(after)}
    for cell in (cell for group in groups_of(cells_of(before)) for cell in group.cells):
        key = (cell.link, cell.sampling, cell.arm)
        if key in new:
            yield cell, new[key]


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Pair]]:
    for name in dict.fromkeys((*old, *new)):
        if old.get(name) != new.get(name):
            yield name, (old.get(name), new.get(name))


def _differing_answers(old: Cell, new: Cell) -> Iterator[tuple[str, Pair]]:
    """Prompts with their seeds that one of the runs lacks, in the repeats that both have."""
    before, after = (_asked(cell) for cell in (old, new))
    common = {repeat for repeat, *_ in before} & {repeat for repeat, *_ in after}
    alone = [
        [f"{prompt} with seed {seed}" for repeat, prompt, seed in ours - theirs if repeat in common]
        for ours, theirs in ((before, after), (after, before))
    ]
    if any(alone):
        yield "prompts and seeds", (_some(alone[0]), _some(alone[1]))


def _asked(cell: Cell) -> set[tuple[int, str, int | None]]:
    return {
        (record.repeat, str(record.settings.get("prompt")), record.settings.get("seed"))
        for repeat in cell.repeats
        for record in repeat
    }


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_ANSWERS
    rest = f" and {more} more" if more > 0 else ""
    return f"{', '.join(sorted(names)[:SHOWN_ANSWERS]) or 'none of its own'}{rest}"


def _entry(figure: Figure, estimate: Estimate) -> Entry:
    return Entry(figure.shown(estimate.median), interval(figure, estimate))


def _values(estimate: Estimate) -> dict[str, float]:
    names = ("median", "low", "high", "coverage")
    return {name: getattr(estimate, name) for name in names} | {"repeats": estimate.num_repeats}
