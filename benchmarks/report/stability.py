"""What to doubt, computed from the data as pyperf does: each doubt names its cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report.cells import Cell, Group
from benchmarks.report.estimates import ENOUGH_REPEATS, Estimate

FIGURE = "time_per_token_s"
MAX_DEVIATION = 0.10
"""Standard deviation over median."""
MAX_OUTLIER = 0.50
"""Distance of one repeat from the median."""
MAX_REMAINDER = 0.03
"""Of a round's wall time."""
MIN_SLOWER_FIRST = 1.03
LUCK = 0.01
"""Chance at which a first repeat that is the slowest again and again is no longer an accident."""
SHOWN = 4


@dataclass(frozen=True, slots=True)
class Doubt:
    """Why figures may not be repeated, and which."""

    text: str
    places: tuple[str, ...] = ()
    """Cells with what was found there; empty if the text says it all."""

    def __str__(self) -> str:
        if not self.places:
            return self.text
        more = len(self.places) - SHOWN
        rest = f" and {more} more" if more > 0 else ""
        return f"{self.text}: {', '.join(self.places[:SHOWN])}{rest}."


Finding = Callable[[Cell], str | None]
"""What is wrong with a cell; None if nothing is."""


def doubts(groups: Sequence[Group]) -> list[Doubt]:
    """All that a reader should know before trusting the figures."""
    cells = [cell for group in groups for cell in group.cells]
    return [*_few_repeats(cells), *_by_cell(cells), *_slow_starts(groups)]


def _few_repeats(cells: Sequence[Cell]) -> Iterator[Doubt]:
    counts = {len(cell.repeats) for cell in cells}
    if min(counts) >= ENOUGH_REPEATS:
        return
    why = "below five, intervals cover the true median less often than 15 times in 16"
    if len(counts) == 1:
        (count,) = counts
        yield Doubt(f"Every cell has {count} repeat{'s' * (count > 1)}: {why}.")
    else:
        yield _found(f"Too few repeats ({why})", cells, _repeats_missing)


def _by_cell(cells: Sequence[Cell]) -> Iterator[Doubt]:
    rules: tuple[tuple[str, Finding], ...] = (
        ("Repeats hold different prompts or seeds, so they differ by more than chance", _unequal),
        ("Time per token varies by more than 10 % (standard deviation over median)", _varies),
        ("One repeat is more than 50 % off the median time per token", _outlier),
        ("The parts of a round miss more than 3 % of its wall time", _remainder),
    )
    for text, rule in rules:
        doubt = _found(text, cells, rule)
        if doubt.places:
            yield doubt


def _found(text: str, cells: Sequence[Cell], rule: Finding) -> Doubt:
    found = ((cell, rule(cell)) for cell in cells)
    places = (f"{c.place} ({what})" for c, what in found if what)
    return Doubt(text, tuple(places))


def _repeats_missing(cell: Cell) -> str | None:
    few = len(cell.repeats) < ENOUGH_REPEATS
    return f"{len(cell.repeats)}" if few else None


def _unequal(cell: Cell) -> str | None:
    asked = [
        {(r.settings.get("prompt"), r.settings.get("seed")) for r in repeat}
        for repeat in cell.repeats
    ]
    # Seeds that change from repeat to repeat are a plan; prompts that do are a hole.
    prompts = [sorted(str(prompt) for prompt, _ in keys) for keys in asked]
    if all(names == prompts[0] for names in prompts):
        return None
    return f"{min(map(len, prompts))} to {max(map(len, prompts))} answers"


def _varies(cell: Cell) -> str | None:
    estimate = cell.estimates.get(FIGURE)
    if estimate is None or estimate.num_repeats < 2 or not estimate.median:
        return None
    deviation = statistics.stdev(estimate.values) / estimate.median
    return f"{deviation:.0%}" if deviation > MAX_DEVIATION else None


def _outlier(cell: Cell) -> str | None:
    estimate = cell.estimates.get(FIGURE)
    if estimate is None or not estimate.median:
        return None
    farthest = max((value / estimate.median - 1 for value in estimate.values), key=abs)
    return f"{farthest:+.0%}" if abs(farthest) > MAX_OUTLIER else None


def _remainder(cell: Cell) -> str | None:
    remainder_s, wall_s = cell.median("round_remainder_s"), cell.median("round_wall_s")
    if remainder_s is None or not wall_s:
        return None
    share = remainder_s / wall_s
    return f"{share:+.1%}" if abs(share) > MAX_REMAINDER else None


def _slow_starts(groups: Sequence[Group]) -> Iterator[Doubt]:
    """Where the first repeat is the slowest in more arms than luck allows."""
    found = ((group, _slow_start(group)) for group in groups)
    places = tuple(f"{group.title} ({what})" for group, what in found if what)
    if places:
        yield Doubt(
            "The first repeat is the slowest more often than by chance: warm up longer", places
        )


def _slow_start(group: Group) -> str | None:
    estimates = [cell.estimates[FIGURE] for cell in group.cells if FIGURE in cell.estimates]
    estimates = [estimate for estimate in estimates if estimate.num_repeats > 1]
    slow = [first for estimate in estimates if (first := _slow_first(estimate)) is not None]
    if not slow or statistics.median(slow) < MIN_SLOWER_FIRST:
        return None
    chance = 1 / min(estimate.num_repeats for estimate in estimates)
    if _at_least(len(slow), len(estimates), chance) >= LUCK:
        return None
    share = statistics.median(slow) - 1
    return f"{len(slow)} of {len(estimates)} arms, {share:+.0%}"


def _slow_first(estimate: Estimate) -> float | None:
    """The first repeat over the median of the others, if it is the slowest."""
    first, *others = estimate.values
    return first / statistics.median(others) if first > max(others) else None


def _at_least(hits: int, trials: int, chance: float) -> float:
    """The binomial's upper tail."""
    return sum(
        math.comb(trials, i) * chance**i * (1 - chance) ** (trials - i)
        for i in range(hits, trials + 1)
    )
