"""One line an arm: time per token against the link, acceptance against the place in the block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from benchmarks.report.cells import Cell, Group
from benchmarks.report.findings import TIME
from benchmarks.report.pictures.arms import Look, best_of_families, by_arm, short
from benchmarks.report.pictures.axis import set_scale, set_ticks, set_titles, spread
from benchmarks.report.pictures.canvas import places_pt, plot, size_pt
from benchmarks.report.pictures.ink import TEXT_PT, colour, width_of
from benchmarks.report.pictures.picture import LOSSY, Absent, Picture, Swatch, grey

LABEL_GAP_PT = 13.0
LABEL_PT = 14.0
"""From the plot to the names."""
FEWEST_JUDGED = 20
"""Drafts judged at a place, below which chance would show more than the scheme."""
Looks = Mapping[str, Look]


@dataclass(frozen=True, slots=True)
class Line:
    """Points of an arm, from left to right."""

    label: str
    look: Look
    xs: Sequence[float]
    ys: Sequence[float]
    spans: Sequence[tuple[float, float]] = field(default=())
    """Interval of every point."""
    is_lossless: bool = True


def against_round_trip(groups: Sequence[Group], looks: Looks) -> list[Picture | Absent]:
    """One picture for each bandwidth that links of several round trips share."""
    title = "Time per token against the round trip"
    found: list[Picture | Absent] = []
    for alike in _sharing(groups, ("link_up_bps", "link_down_bps"), "link_rtt_s"):
        down, up = (alike[0].settings[f"link_{way}_bps"] / 1e6 for way in ("down", "up"))
        lines = _time_lines(alike, looks, lambda group: 1e3 * group.settings["link_rtt_s"])
        shared = f"all with {down:.3g} Mbit/s down, {up:.3g} up"
        found.append(_against(title, shared, "round trip, ms", lines, alike))
    return found or [Absent(title, "no two links differ in the round trip alone")]


def against_downlink(groups: Sequence[Group], looks: Looks) -> list[Picture | Absent]:
    """One picture for each round trip that links of several bandwidths share."""
    title = "Time per token against the bandwidth"
    found: list[Picture | Absent] = []
    for alike in _sharing(groups, ("link_rtt_s",), "link_down_bps"):
        lines = _time_lines(alike, looks, lambda group: group.settings["link_down_bps"] / 1e6)
        shared = f"all with a round trip of {1e3 * alike[0].settings['link_rtt_s']:g} ms"
        found.append(_against(title, shared, "downlink, Mbit/s", lines, alike))
    return found or [Absent(title, "no two links share a round trip and differ in bandwidth")]


def acceptance(groups: Sequence[Group], looks: Looks) -> Picture | Absent:
    """Share of drafts that stand among those judged at each place; all links together."""
    title = "Acceptance by place in the block"
    cells = [cell for group in groups for cell in group.cells if cell.is_split]
    lines = []
    for arm, alike in by_arm(best_of_families(cells)).items():
        found = _shares(alike)
        if found:
            look, first = looks[arm], alike[0]
            places = range(1, len(found) + 1)
            lines.append(Line(short(first), look, places, found, (), first.is_lossless))
    if not lines:
        return Absent(title, "no arm has recorded which drafts were judged")
    axes = _plot(lines)
    shares = [share for line in lines for share in line.ys]
    set_scale(axes, "y", shares, log_from=math.inf)
    axes.set_ylim(math.floor(10 * min(shares)) / 10, 1)
    axes.set_xlim(0.7, max(len(line.xs) for line in lines) + 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    set_titles(axes, "place in the block", "share accepted")
    _label_ends(axes, lines)
    note = (
        "Of the drafts judged at a place: those before it all stand. Places with fewer than "
        f"{FEWEST_JUDGED} judged drafts are left out."
    )
    return Picture.of(axes, title, groups[0].sampling, note, _legend(lines))


def _sharing(groups: Sequence[Group], shared: Sequence[str], varied: str) -> Iterator[list[Group]]:
    """Groups that agree in some settings and differ in another, sorted by that one."""
    known = [g for g in groups if all(name in g.settings for name in (*shared, varied))]
    found: dict[tuple[object, ...], list[Group]] = {}
    for group in known:
        key = (*(group.settings[name] for name in shared), group.settings.get("slow_start"))
        found.setdefault(key, []).append(group)
    for alike in found.values():
        for subset in _once_each(alike, varied):
            if len(subset) > 1:
                yield sorted(subset, key=lambda group: group.settings[varied])


def _once_each(groups: list[Group], varied: str) -> Iterator[list[Group]]:
    """All, or where a value is there twice (uplinks differ): those of each uplink's share."""
    values = [group.settings[varied] for group in groups]
    if len(set(values)) == len(values):
        yield groups
        return
    by_share: dict[float, list[Group]] = {}
    for group in groups:
        share = round(group.settings["link_up_bps"] / group.settings["link_down_bps"], 2)
        by_share.setdefault(share, []).append(group)
    yield from by_share.values()


def _time_lines(
    groups: Sequence[Group], looks: Looks, x_of: Callable[[Group], float]
) -> list[Line]:
    cells = [cell for group in groups for cell in group.cells if TIME in cell.estimates]
    x_at = {group.link: x_of(group) for group in groups}
    lines = []
    for arm, alike in by_arm(best_of_families(cells)).items():
        estimates = [cell.estimates[TIME] for cell in alike]
        lines.append(
            Line(
                short(alike[0]), looks[arm], [x_at[cell.link] for cell in alike],
                [1e3 * estimate.median for estimate in estimates],
                [(1e3 * estimate.low, 1e3 * estimate.high) for estimate in estimates],
                alike[0].is_lossless,
            )
        )  # fmt: skip
    return lines


def _against(
    title: str, shared: str, axis: str, lines: Sequence[Line], groups: Sequence[Group]
) -> Picture:
    axes, xs = _plot(lines), [x for line in lines for x in line.xs]
    set_scale(axes, "y", [y for line in lines for y in line.ys])
    set_scale(axes, "x", xs)
    set_ticks(axes, xs)
    if min(xs) == 0:  # marks on the edge would cover the numbers of the other axis
        axes.set_xlim(left=-0.06 * max(xs))
    set_titles(axes, axis, "ms per token")
    _label_ends(axes, lines)
    subtitle = f"{', '.join(group.link for group in groups)}: {shared}"
    note = "Every scheme at its best draft length; upright lines are intervals."
    scope = f"{groups[0].sampling}, {subtitle}"
    return Picture.of(axes, title, scope, note, _legend(lines), subtitle)


def _plot(lines: Sequence[Line]) -> Axes:
    named = [line for line in lines if line.look.is_named]
    labels_pt = max((width_of(line.label) for line in named), default=0)
    axes = plot(labels_pt + 20)
    for line in lines:
        ink, look = colour(line.look.role), line.look
        face = ink if line.is_lossless else colour("card")
        axes.plot(
            line.xs, line.ys, color=ink, linewidth=1.8 if look.is_named else 1.2,
            dashes=look.dashes or (None, None), marker=look.marker, markersize=5.5,
            markerfacecolor=face, clip_on=False, zorder=3 if look.is_named else 2,
        )  # fmt: skip
        for x, (low, high) in zip(line.xs, line.spans, strict=False):
            axes.plot([x, x], [low, high], color=ink, linewidth=1.0)
    return axes


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Names on the right, moved apart, each with a thin line from the end of its own."""
    named = [line for line in lines if line.look.is_named]
    ends = [(line.xs[-1], line.ys[-1]) for line in named]
    width_pt, height_pt = size_pt(axes)
    places = spread(list(places_pt(axes, ends)[:, 1]), LABEL_GAP_PT, height_pt)
    for line, end, place in zip(named, ends, places, strict=True):
        ink = colour(line.look.role)
        axes.annotate(
            line.label, end, xytext=(1 + LABEL_PT / width_pt, place / height_pt),
            textcoords="axes fraction", va="center_baseline", fontsize=TEXT_PT, color=ink,
            arrowprops={"arrowstyle": "-", "color": ink, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )  # fmt: skip


def _shares(cells: Sequence[Cell]) -> list[float]:
    """Accepted over judged, place by place, as long as enough were judged."""
    judged: list[int] = []
    accepted: list[int] = []
    for answer in (answer for cell in cells for answer in cell.answers):
        for totals, name in ((judged, "judged_at"), (accepted, "accepted_at")):
            series = answer.get(name, ())
            totals.extend([0] * (len(series) - len(totals)))
            for place, count in enumerate(series):
                totals[place] += count
    pairs = zip(judged, accepted, strict=True)
    return [a / j for j, a in pairs if j >= FEWEST_JUDGED]


def _legend(lines: Sequence[Line]) -> tuple[Swatch, ...]:
    others = [line.label for line in lines if not line.look.is_named]
    is_any_lossy = any(not line.is_lossless for line in lines)
    return (*grey(others, "dash"), *((LOSSY,) if is_any_lossy else ()))
