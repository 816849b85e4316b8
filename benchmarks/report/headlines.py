"""What the whole run says in at most four findings: greatest gain, greatest loss, edge, device."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report.cells import EDGE, REFERENCES, Cell, Group
from benchmarks.report.estimates import Estimate
from benchmarks.report.figures import FIGURES, digits
from benchmarks.report.findings import ENERGY, ENGINE, TIME, listed
from benchmarks.report.tables import interval
from device_runtime.protocol.schemes import DEFAULT_SCHEME

DEFAULT_GAMMA = 4
"""As `tandem run` drafts."""
DEFAULT_ARM = f"{DEFAULT_SCHEME}/{DEFAULT_GAMMA}"
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
    """Gain and loss in time, the edge's load, and joules (bytes, where nothing metered them).

    All of one split arm, which no result has chosen: the best of many looks better than it is.
    """
    arm = _split_arm(groups)
    if arm is None:
        return []
    found = [*_gain(groups, arm), *_loss(groups, arm), *_load(groups, arm)]
    last = next(_joules(groups, arm), None) or next(_traffic(groups, arm), None)
    return [*found, last] if last else found


def _split_arm(groups: Sequence[Group]) -> str | None:
    """The default scheme at its default draft length, or what was measured that is nearest to it."""
    cells = [c for group in groups for c in group.cells if c.is_split and c.is_lossless]
    nearest = min(
        cells,
        key=lambda c: (
            c.family != DEFAULT_SCHEME, abs(c.settings.get("gamma", 0) - DEFAULT_GAMMA), c.arm
        ),
        default=None,
    )  # fmt: skip
    return None if nearest is None else nearest.arm


@dataclass(frozen=True, slots=True)
class _Race:
    """A split arm against one of the edge's own."""

    group: Group
    ours: Cell
    rival: Cell

    @property
    def is_ahead(self) -> bool:
        """By more than the intervals."""
        return self.ours.estimates[TIME].is_clearly_below(self.rival.estimates[TIME])

    @property
    def is_behind(self) -> bool:
        """By more than the intervals."""
        return self.rival.estimates[TIME].is_clearly_below(self.ours.estimates[TIME])

    @property
    def is_level(self) -> bool:
        """Within the intervals."""
        return not self.is_ahead and not self.is_behind

    @property
    def doubt(self) -> str:
        """Why it is undecided."""
        is_sound = all(cell.estimates[TIME].is_sound for cell in (self.ours, self.rival))
        return "Their intervals overlap." if is_sound else "Too few repeats to tell."

    @property
    def times(self) -> float:
        """How many times as long the rival takes."""
        return self.rival.estimates[TIME].median / self.ours.estimates[TIME].median


def _races(groups: Sequence[Group], arm: str, families: Sequence[str]) -> list[_Race]:
    """One a group and rival."""
    return [
        _Race(group, ours, rival)
        for group in groups
        for ours in group.cells
        if ours.arm == arm and TIME in ours.estimates
        for rival in map(group.reference, families)
        if rival is not None and TIME in rival.estimates
    ]


def _gain(groups: Sequence[Group], arm: str) -> Iterator[Headline]:
    """Where splitting gains most on the LLM alone."""
    races = _races(groups, arm, (EDGE,))
    if not races:
        return
    ahead = [race for race in races if race.is_ahead]
    level = [race for race in races if race.is_level]
    best = max(ahead or level or races, key=lambda race: race.times)
    text = (
        f"{arm} writes a token in {_ms(best.ours)} over {_place(best.group, groups)}; the LLM alone "
        f"on the edge takes {_ms(best.rival)}."
    )
    if not ahead:
        number, doubt = (
            ("Undecided whether faster", f" {best.doubt}") if level else ("Never faster", "")
        )
        yield Headline(number, f"At its best, {text}{doubt}{_stand_in(arm)}", is_gain=False)
        return
    if len(races) > 1:
        num_behind = len(races) - len(ahead) - len(level)
        text += f" The best of {len(races)} cases: ahead in {len(ahead)}, behind in {num_behind}"
        text += f", undecided in {len(level)}." if level else "."
    up_to = "Up to " if len(races) > 1 else ""
    yield Headline(f"{up_to}{digits(best.times)}× faster", text + _stand_in(arm))


def _stand_in(arm: str) -> str:
    return "" if arm == DEFAULT_ARM else f" ({DEFAULT_ARM}, the default, was not measured.)"


def _loss(groups: Sequence[Group], arm: str) -> Iterator[Headline]:
    """Where the edge needs the device least."""
    races = _races(groups, arm, REFERENCES)
    if not races:
        return
    behind = [race for race in races if race.is_behind]
    level = [race for race in races if race.is_level]
    worst = min(behind or level or races, key=lambda race: race.times)
    text = (
        f"Over {_place(worst.group, groups)} {worst.rival.arm} needs {_ms(worst.rival)} a token, "
        f"{arm} {_ms(worst.ours)}."
    )
    if behind:
        up_to = "Up to " if len(races) > 1 else ""
        yield Headline(f"{up_to}{digits(1 / worst.times)}× slower", text, is_gain=False)
    elif level:
        yield Headline("Undecided whether slower", f"{text} {worst.doubt}", is_gain=False)
    else:
        rivals = " or ".join(dict.fromkeys(race.rival.arm for race in races))
        yield Headline("Never slower", f"Nowhere is {rivals} faster than {arm}.")


def _load(groups: Sequence[Group], arm: str) -> Iterator[Headline]:
    """What a token costs the edge, in the middle of all groups."""
    costs = _middles(groups, ENGINE, arm)
    if arm not in costs or EDGE not in costs:
        return
    form, ours, alone = FIGURES[ENGINE], costs[arm], costs[EDGE]
    is_less = ours.is_clearly_below(alone)
    if is_less:
        number = f"{digits(alone.median / ours.median)}× less edge time"
    else:
        is_lower = ours.median < alone.median
        number = "Undecided whether less edge time" if is_lower else "No edge time saved"
    others = [
        f"{name} {form.with_unit(costs[name].median)}" for name in REFERENCES if name in costs
    ]
    text = f"A token takes {form.with_unit(ours.median)} of the edge's engine with {arm}; "
    yield Headline(number, f"{text}{', '.join(others)}.", is_less)


def _joules(groups: Sequence[Group], arm: str) -> Iterator[Headline]:
    costs = _middles(groups, ENERGY, arm)
    if arm not in costs:
        return
    form, ours, is_gain = FIGURES[ENERGY], costs[arm], True
    number = form.with_unit(ours.median)
    text = f"A token of {arm} costs the device {number}"
    if EDGE in costs:
        alone = costs[EDGE]
        text += f"; streamed from the edge, {form.with_unit(alone.median)}"
        is_gain = ours.is_clearly_below(alone)
        if is_gain:
            number = f"{digits(alone.median / ours.median)}× less energy"
        elif alone.is_clearly_below(ours):
            number = f"{digits(ours.median / alone.median)}× more energy"
        else:
            text += ", not told apart"
    answers = (answer for group in groups for cell in group.cells for answer in cell.answers)
    kinds = sorted({answer["energy_kind"] for answer in answers if "energy_kind" in answer})
    yield Headline(number, f"{text}{f' ({listed(kinds)})' if kinds else ''}.", is_gain)


def _traffic(groups: Sequence[Group], arm: str) -> Iterator[Headline]:
    up, down = (_middles(groups, way, arm) for way in (WIRE_UP, WIRE_DOWN))
    both = {name: up[name].median + down[name].median for name in up if name in down}
    if arm not in both:
        return
    most = max(both, key=both.__getitem__)
    if most == arm:
        return  # nothing to compare it with
    text = (
        f"A token of {arm} puts {digits(both[arm])} B on the link, both ways and headers together; "
        f"one of {most} {digits(both[most])} B."
    )
    yield Headline(f"{digits(both[arm])} B per token", text)


def _middles(groups: Sequence[Group], figure: str, arm: str) -> dict[str, Estimate]:
    """Of every lossless arm, repeat by repeat the median over the groups that measured `arm`.

    Arms that some of these groups lack are left out: theirs would be medians over other links.
    """
    found: dict[str, list[Estimate]] = {}
    for group in groups:
        known = [c for c in group.cells if c.is_lossless and figure in c.estimates]
        if any(cell.arm == arm for cell in known):
            for cell in known:
                found.setdefault(cell.arm, []).append(cell.estimates[figure])
    return {
        name: Estimate.of([
            statistics.median(repeat)
            for repeat in zip(*(estimate.values for estimate in estimates), strict=False)
        ])
        for name, estimates in found.items()
        if len(estimates) == len(found[arm])
    }  # fmt: skip


def _place(group: Group, groups: Sequence[Group]) -> str:
    samplings = {other.sampling for other in groups}
    return group.link if len(samplings) == 1 else f"{group.link} at {group.sampling}"


def _ms(cell: Cell) -> str:
    form, estimate = FIGURES[TIME], cell.estimates[TIME]
    return f"{form.with_unit(estimate.median)} {interval(form, estimate)}".rstrip()
