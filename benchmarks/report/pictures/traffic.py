"""Bytes per token on a logarithmic scale: payload, and what headers add."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks.report.cells import Cell, Group
from benchmarks.report.pictures.arms import pictured, short
from benchmarks.report.pictures.axis import set_titles
from benchmarks.report.pictures.canvas import rows
from benchmarks.report.pictures.ink import colour
from benchmarks.report.pictures.picture import Absent, Picture, Swatch

ROW_PT = 23.0
WAYS = {"up": ("series-2", "^", -0.17), "down": ("series-1", "v", 0.17)}
"""Colour, marker, and place beside the middle of the row."""


def bytes_per_token(group: Group) -> Picture | Absent:
    """Two lines an arm, one each way."""
    title = "Bytes per token"
    cells = [cell for cell in pictured(group.cells) if any(_sizes(cell, way) for way in WAYS)]
    if not cells:
        return Absent(title, "no arm has counted bytes that crossed the link")
    cells.sort(key=lambda cell: max(size for way in WAYS for size in _sizes(cell, way) or [0.0]))
    axes = rows([short(cell) for cell in cells], ROW_PT)
    for row, cell in enumerate(cells):
        for way in WAYS:
            _line(axes, row, way, _sizes(cell, way))
    _dress(axes, [size for cell in cells for way in WAYS for size in _sizes(cell, way)])
    legend = (
        Swatch("up, with headers", WAYS["up"][0], "rising"),
        Swatch("down, with headers", WAYS["down"][0], "falling"),
        Swatch("hollow: payload alone", "muted", "ring"),
    )
    note = "Of a token that stands; one line of the grid is ten times the one before."
    return Picture.of(axes, title, group.title, note, legend)


def _sizes(cell: Cell, way: str) -> list[float]:
    """Payload and with headers, as far as they were counted."""
    names = (f"bytes_{way}_per_token", f"wire_bytes_{way}_per_token")
    found = (cell.median(name) for name in names)
    return [size for size in found if size]


def _line(axes: Axes, row: int, way: str, sizes: list[float]) -> None:
    role, marker, beside = WAYS[way]
    ink, place = colour(role), row + beside
    axes.plot(sizes, [place] * len(sizes), color=ink, linewidth=1.4, zorder=2)
    for number, size in enumerate(sizes):
        is_payload = number == 0 and len(sizes) == 2
        axes.plot(
            size, place, marker, color=ink, markersize=4.5 if is_payload else 6,
            markerfacecolor=colour("card") if is_payload else ink, zorder=3,
        )  # fmt: skip


def _dress(axes: Axes, sizes: list[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(sizes) / 1.6, max(sizes) * 1.6)
    axes.xaxis.set_major_locator(FixedLocator([10.0**power for power in range(8)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _named(size)))
    axes.grid(axis="x", color=colour("faint"), linewidth=0.8)
    for row in range(1, round(axes.get_ylim()[0] + 0.5)):
        axes.axhline(row - 0.5, color=colour("faint"), linewidth=0.5)
    set_titles(axes, "bytes per token")


def _named(size: float) -> str:
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:g} {unit}"
    return f"{size:g} B"
