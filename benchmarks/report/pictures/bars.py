"""Pictures with one row an arm: time per token, the parts of a round, joules."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from benchmarks.report.cells import Cell, Group
from benchmarks.report.facts import meters
from benchmarks.report.figures import FIGURES, digits
from benchmarks.report.pictures.arms import BEST_ONLY, pictured, short
from benchmarks.report.pictures.axis import set_scale, set_titles
from benchmarks.report.pictures.canvas import rows
from benchmarks.report.pictures.ink import SMALL_PT, TEXT_PT, colour, width_of
from benchmarks.report.pictures.picture import LOSSY, Absent, Picture, Swatch
from benchmarks.run.parts import PARTS

ROW_PT = 20.0
CUT = 3.0
"""Rows longer than this many times the median row are cut, or the others could not be read."""
JOULE_PARTS = {"work_j_per_token": ("compute", "draft"), "rest_j_per_token": ("waiting", "rest"),
               "radio_j_per_token": ("radio", "up")}  # fmt: skip


def ranking(group: Group, figure: str) -> Picture | Absent:
    """Medians of a figure with their intervals, the least on top."""
    form, best = FIGURES[figure], group.best(figure)
    title = f"{form.title[0].upper()}{form.title[1:]}"
    cells = pictured(group.cells, figure)
    if not cells:
        return Absent(title, "no arm has it")
    cells.sort(key=lambda cell: cell.estimates[figure].median)
    estimates = [cell.estimates[figure] for cell in cells]
    notes = [form.shown(estimate.median) for estimate in estimates]
    axes = _noted_rows([short(cell) for cell in cells], notes, form.unit)
    for row, (cell, estimate) in enumerate(zip(cells, estimates, strict=True)):
        ink = colour("accent" if cell is best else "ink" if cell.is_lossless else "muted")
        low, middle, high = (form.scale * v for v in (estimate.low, estimate.median, estimate.high))
        axes.plot([low, high], [row, row], color=ink, linewidth=1.6)
        face = ink if cell.is_lossless else colour("card")
        axes.plot(middle, row, "o", color=ink, markerfacecolor=face, markersize=6.5)
        _embolden(axes, row, is_best=cell is best, is_muted=not cell.is_lossless)
    set_scale(axes, "x", [form.scale * v for e in estimates for v in (e.low, e.high)])
    set_titles(axes, f"{form.unit} per token")
    legend = [Swatch("least with the LLM's text", "accent", "dot")]
    legend += [LOSSY] if any(not cell.is_lossless for cell in cells) else []
    is_choice = len(cells) < sum(figure in cell.estimates for cell in group.cells)
    note = f"Dot: median; line: its interval.{f' {BEST_ONLY}' * is_choice}"
    return Picture.of(axes, title, group.title, note, legend)


def round_breakdown(group: Group) -> Picture | Absent:
    """Where the time of a round goes."""
    title = "Where a round's time goes"
    cells = [cell for cell in pictured(group.cells) if "round_wall_s" in cell.estimates]
    if not cells:
        return Absent(title, "no arm has timed rounds")
    cells.sort(key=lambda cell: cell.estimates["round_wall_s"].median)
    parts = {part: f"round_{part}_s" for part in PARTS}
    bars = [Row(short(cell), _lengths(cell, parts), _round(cell)) for cell in cells]
    axes = _stacked(bars, "ms per round", "ms → tokens")
    legend = [Swatch(part, part) for part in PARTS]
    note = (
        "In the order they happen: blue on the device, orange on the link, green on the edge, grey is "
        "what no clock covers. Right: the round, and the tokens it commits."
    )
    return Picture.of(axes, title, group.title, note, legend)


def joules(group: Group) -> Picture | Absent:
    """What a token costs the device."""
    title, form = "Device energy per token", FIGURES["j_per_token"]
    cells = pictured(group.cells, form.name)
    if not cells:
        return Absent(title, "no meter was read and no model of the device was given")
    cells.sort(key=lambda cell: cell.estimates[form.name].median)
    parts = {role: figure for figure, (_, role) in JOULE_PARTS.items()}
    bars = [
        Row(short(cell), _lengths(cell, parts), form.shown(cell.estimates[form.name].median))
        for cell in cells
    ]
    axes = _stacked(bars, "mJ per token", "mJ")
    legend = [Swatch(label, role) for label, role in JOULE_PARTS.values()]
    return Picture.of(axes, title, group.title, energy_note(cells), legend)


def energy_note(cells: Sequence[Cell]) -> str:
    """Measured or modelled, and where."""
    ways = meters(answer for cell in cells for answer in cell.answers)
    text = "; ".join(ways) or "whether measured or modelled was not recorded"
    has_radio = any("radio_j_per_token" in cell.estimates for cell in cells)
    return f"{text[0].upper()}{text[1:]}.{' The radio is modelled.' * has_radio}"


@dataclass(frozen=True, slots=True)
class Row:
    """One stacked bar."""

    label: str
    parts: tuple[tuple[str, float], ...]
    """Role and length."""
    note: str

    @property
    def length(self) -> float:
        """Of the whole bar; parts below 0 are errors of clocks and have no length."""
        return sum(max(0.0, length) for _, length in self.parts)


def _lengths(cell: Cell, parts: Mapping[str, str]) -> tuple[tuple[str, float], ...]:
    """Role and thousandths of the figure, for every role."""
    return tuple((role, 1e3 * (cell.median(figure) or 0)) for role, figure in parts.items())


def _stacked(bars: Sequence[Row], unit: str, notes_title: str) -> Axes:
    lengths = [row.length for row in bars]
    limit = min(max(lengths), CUT * statistics.median(lengths)) or 1
    is_cut = [length > 1.05 * limit for length in lengths]
    notes = [f"{'▸ ' * cut}{row.note}" for row, cut in zip(bars, is_cut, strict=True)]
    axes = _noted_rows([row.label for row in bars], notes, notes_title)
    set_scale(axes, "x", (0, limit))
    for place, row in enumerate(bars):
        start = 0.0
        for role, length in row.parts:
            shown = min(max(0.0, length), 1.06 * limit - start)
            axes.barh(
                place,
                shown,
                0.66,
                start,
                color=colour(role),
                edgecolor=colour("card"),
                linewidth=0.4,
            )
            start += shown
    set_titles(axes, f"{unit}{'; ▸ is cut' * any(is_cut)}")
    return axes


def _noted_rows(labels: Sequence[str], notes: Sequence[str], notes_title: str) -> Axes:
    """With a figure right of every row."""
    right_pt = max(map(width_of, (*notes, notes_title))) + 12
    axes = rows(labels, ROW_PT, right_pt=right_pt, top_pt=18)
    for row, note in enumerate((notes_title, *notes), start=-1):
        axes.annotate(
            note, (1, row), xycoords=("axes fraction", "data"), xytext=(8, 0), va="center_baseline",
            textcoords="offset points", fontsize=TEXT_PT if row >= 0 else SMALL_PT,
            color=colour("ink" if row >= 0 else "muted"),
        )  # fmt: skip
    return axes


def _embolden(axes: Axes, row: int, *, is_best: bool, is_muted: bool) -> None:
    for text in (axes.get_yticklabels()[row], axes.texts[row + 1]):
        if is_best:
            text.set_fontweight("bold")
        text.set_color(colour("accent" if is_best else "muted" if is_muted else "ink"))


def _round(cell: Cell) -> str:
    tokens = cell.median("tokens_per_round")
    wall = FIGURES["round_wall_s"].shown(cell.estimates["round_wall_s"].median)
    return wall if tokens is None else f"{wall} → {digits(tokens)}"
