"""What the whole run says in at most four sentences: greatest gain, greatest loss, edge, device."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report.cells import EDGE, REFERENCES, Cell, Group
from benchmarks.report.figures import FIGURES, digits
from benchmarks.report.findings import ENERGY, ENGINE, TIME, best_split, listed

WIRE_UP, WIRE_DOWN = "wire_bytes_up_per_token", "wire_bytes_down_per_token"


@dataclass(frozen=True, slots=True)
class Headline:
    """One finding: a number to see from afar, and its sentence."""

    number: str
    text: str
    is_gain: bool = True
    """Whether it speaks for splitting."""

    def __str__(self) -> str:
        return f"{self.number}: {self.text}"


def headlines(groups: Sequence[Group]) -> list[Headline]:
    """Gain and loss in time, the edge's load, and joules (bytes, where nothing metered them)."""
    found = [*_gain(groups), *_loss(groups), *_load(groups)]
    last = next(_joules(groups), None) or next(_traffic(groups), None)
    return [*found, last] if last else found


@dataclass(frozen=True, slots=True)
class _Race:
    """The best split arm against one of the edge's own."""

    group: Group
    ours: Cell
    rival: Cell

    @property
    def is_clear(self) -> bool:
        """Whether the intervals do not meet."""
        return self.ours.estimates[TIME].is_apart_from(self.rival.estimates[TIME])

    @property
    def times(self) -> float:
        """How many times as long the rival takes."""
        return self.rival.estimates[TIME].median / self.ours.estimates[TIME].median


def _races(groups: Sequence[Group], families: Sequence[str]) -> list[_Race]:
    found = []
    for group in groups:
        ours = best_split(group, TIME)
        rival = group.best(TIME, lambda cell: cell.family in families)
        if ours and rival:
            found.append(_Race(group, ours, rival))
    return found


def _gain(groups: Sequence[Group]) -> Iterator[Headline]:
    """Where splitting gains most on the LLM alone."""
    races = _races(groups, (EDGE,))
    if not races:
        return
    best = max(races, key=lambda race: race.times)
    text = (
        f"{best.ours.arm} writes a token in {_ms(best.ours)} over {_place(best.group, groups)}; "
        f"the LLM alone on the edge takes {_ms(best.rival)}."
    )
    if best.times <= 1:
        yield Headline("Never faster", f"At its best, {text}", is_gain=False)
        return
    num_ahead = sum(race.times > 1 and race.is_clear for race in races)
    if len(races) > 1:
        text += f" Clearly ahead in {num_ahead} of {len(races)} cases."
    elif not best.is_clear:
        text += " Their intervals overlap."
    yield Headline(f"{digits(best.times)}× faster", text, best.is_clear)


def _loss(groups: Sequence[Group]) -> Iterator[Headline]:
    """Where the edge needs the device least."""
    races = _races(groups, REFERENCES)
    if not races:
        return
    worst = min(races, key=lambda race: race.times)
    ours, rival, place = worst.ours, worst.rival, _place(worst.group, groups)
    if worst.times < 1:
        text = (
            f"Over {place} {rival.arm} needs {_ms(rival)} a token, the best split arm, {ours.arm}, "
            f"{_ms(ours)}."
        )
        yield Headline(f"{digits(1 / worst.times)}× slower", text, is_gain=False)
    else:
        text = f"Nowhere is {' or '.join(REFERENCES)} faster than the best split arm."
        yield Headline("Never slower", text)


def _load(groups: Sequence[Group]) -> Iterator[Headline]:
    """What a token costs the edge, in the middle of all groups."""
    costs = _middles(groups, ENGINE)
    arm = _least_split(groups, costs)
    if arm is None or EDGE not in costs:
        return
    form, times = FIGURES[ENGINE], costs[EDGE] / costs[arm]
    others = [f"{name} {form.with_unit(costs[name])}" for name in REFERENCES if name in costs]
    number = f"{digits(times)}× less edge time" if times > 1 else "No edge time saved"
    text = f"A token takes {form.with_unit(costs[arm])} of the edge's engine with {arm}; "
    yield Headline(number, f"{text}{', '.join(others)}.", times > 1)


def _joules(groups: Sequence[Group]) -> Iterator[Headline]:
    costs = _middles(groups, ENERGY)
    arm = _least_split(groups, costs)
    if arm is None:
        return
    form, number, is_gain = FIGURES[ENERGY], FIGURES[ENERGY].with_unit(costs[arm]), True
    text = f"A token of {arm} costs the device {number}"
    if EDGE in costs:
        times = costs[EDGE] / costs[arm]
        is_gain = times > 1
        number = f"{digits(times)}× less energy" if is_gain else f"{digits(1 / times)}× more energy"
        text += f"; streamed from the edge, {form.with_unit(costs[EDGE])}"
    answers = (answer for group in groups for cell in group.cells for answer in cell.answers)
    kinds = sorted({answer["energy_kind"] for answer in answers if "energy_kind" in answer})
    yield Headline(number, f"{text}{f' ({listed(kinds)})' if kinds else ''}.", is_gain)


def _traffic(groups: Sequence[Group]) -> Iterator[Headline]:
    up, down = _middles(groups, WIRE_UP), _middles(groups, WIRE_DOWN)
    both = {arm: up[arm] + down[arm] for arm in up if arm in down}
    arm = _least_split(groups, both)
    if arm is None:
        return
    most = max(both, key=both.__getitem__)
    if most == arm:
        return  # nothing to compare it with
    text = (
        f"A token of {arm} puts {digits(both[arm])} B on the link, both ways and headers together; "
        f"one of {most} {digits(both[most])} B."
    )
    yield Headline(f"{digits(both[arm])} B per token", text)


def _middles(groups: Sequence[Group], figure: str) -> dict[str, float]:
    """Of every lossless arm, the median over the groups."""
    found: dict[str, list[float]] = {}
    for cell in (cell for group in groups for cell in group.cells):
        value = cell.median(figure)
        if cell.is_lossless and value is not None:
            found.setdefault(cell.arm, []).append(value)
    return {arm: statistics.median(values) for arm, values in found.items()}


def _least_split(groups: Sequence[Group], costs: dict[str, float]) -> str | None:
    split = {cell.arm for group in groups for cell in group.cells if cell.is_split}
    return min((arm for arm in costs if arm in split), key=costs.__getitem__, default=None)


def _place(group: Group, groups: Sequence[Group]) -> str:
    samplings = {other.sampling for other in groups}
    return group.link if len(samplings) == 1 else f"{group.link} at {group.sampling}"


def _ms(cell: Cell) -> str:
    return FIGURES[TIME].with_unit(cell.estimates[TIME].median)
