"""Tables once, shown as Markdown, as HTML (by the page's template) and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.report.cells import Cell, Group
from benchmarks.report.estimates import Estimate
from benchmarks.report.figures import FIGURES, Figure


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands in one field."""

    text: str
    note: str = ""
    """Smaller, after the text: the interval."""
    is_best: bool = False
    anchor: str = ""
    """The part of the page that the entry leads to."""

    @property
    def markdown(self) -> str:
        """The text, bold if it is the best, and the note."""
        text = f"**{self.text}**" if self.is_best else self.text
        return f"{text} {self.note}".strip().replace("|", "\\|")


@dataclass(frozen=True, slots=True)
class Table:
    """Heads and rows; the first column names the row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]

    def markdown(self) -> str:
        """With padded columns, so that the source can be read as well."""
        lines = [list(self.heads), *([entry.markdown for entry in row] for row in self.rows)]
        widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(self.heads))]
        padded = [
            [text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in columns]
            for columns in (enumerate(zip(line, widths, strict=True)) for line in lines)
        ]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


@dataclass(frozen=True, slots=True)
class Section:
    """A table of its own, such as figures projected to a board."""

    title: str
    table: Table
    note: str = ""


def figure_table(group: Group) -> Table:
    """One row an arm, one column a figure that any arm has."""
    figures = [f for f in FIGURES.values() if f.in_table and _is_known(f, group.cells)]
    fastest = group.best("time_per_token_s")
    rows = []
    for cell in group.cells:
        entries = [Entry(cell.label)]
        for figure in figures:
            is_time = figure.name == "time_per_token_s"
            estimate = cell.estimates.get(figure.name)
            entries.append(
                _entry(figure, estimate, with_interval=is_time, is_best=is_time and cell is fastest)
            )
        rows.append(tuple(entries))
    return Table(("arm", *(head(figure) for figure in figures)), tuple(rows))


def head(figure: Figure) -> str:
    """Title and unit."""
    return f"{figure.title}, {figure.unit}" if figure.unit else figure.title


def interval(figure: Figure, estimate: Estimate) -> str:
    """In brackets; empty for a single repeat, which has none."""
    if estimate.num_repeats < 2:
        return ""
    return f"[{figure.shown(estimate.low)}–{figure.shown(estimate.high)}]"


def csv_text(cells: Sequence[Cell]) -> str:
    """One row a cell, in SI units: settings, then median, low and high of every figure."""
    return csv_of([_csv_row(cell) for cell in cells])


def csv_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns are the keys of all rows; a value that does not apply is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(cell: Cell) -> Mapping[str, Any]:
    energy = next((r for r in cell.answers if "energy_kind" in r), {})
    row: dict[str, Any] = {"link": cell.link, "sampling": cell.sampling, "arm": cell.arm}
    row |= cell.settings
    row |= {"repeats": len(cell.repeats), "answers": sum(map(len, cell.repeats))}
    row |= {name: energy.get(name, "") for name in ("energy_kind", "energy_meter", "energy_point")}
    for name in FIGURES:
        if name in cell.estimates:
            estimate = cell.estimates[name]
            row |= {
                name: estimate.median,
                f"{name}_low": estimate.low,
                f"{name}_high": estimate.high,
            }
    return row


def _is_known(figure: Figure, cells: Sequence[Cell]) -> bool:
    return any(figure.name in cell.estimates for cell in cells)


def _entry(
    figure: Figure, estimate: Estimate | None, *, with_interval: bool, is_best: bool
) -> Entry:
    if estimate is None:
        return Entry("–")
    note = interval(figure, estimate) if with_interval else ""
    return Entry(figure.shown(estimate.median), note, is_best)
