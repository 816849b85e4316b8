"""Axes that read without effort: plain numbers, few ticks, a logarithm only where it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.report.pictures.ink import SMALL_PT, colour

LOG_FROM = 8.0
"""Largest over smallest value from which on an axis is logarithmic."""
Which = Literal["x", "y"]


def set_scale(
    axes: Axes, which: Which, values: Iterable[float], log_from: float = LOG_FROM
) -> None:
    """Limits, scale, ticks and grid for these values, none below 0."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    axis = axes.xaxis if which == "x" else axes.yaxis
    limits = axes.set_xlim if which == "x" else axes.set_ylim
    if low > 0 and high / low > log_from:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        limits(low / 1.25, high * 1.25)
        steps = (1.0,) if high / low > 300 else (1.0, 2.0, 5.0)
        axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    else:
        limits(0, high * 1.06 or 1)
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axes.grid(axis=which, color=colour("faint"), linewidth=0.8)


def set_ticks(axes: Axes, values: Iterable[float]) -> None:
    """Along x, where the values are."""
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(values))))


def plain(value: float) -> str:
    """Thousands set apart, no trailing zeros."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def set_titles(axes: Axes, x: str, y: str = "") -> None:
    """What the axes show, after their scales are set: y's name lies above it, not turned."""
    x, y = (
        f"{title}, logarithmic" if title and scale == "log" else title
        for title, scale in ((x, axes.get_xscale()), (y, axes.get_yscale()))
    )
    axes.set_xlabel(x, fontsize=SMALL_PT, color=colour("muted"), labelpad=4)
    axes.annotate(
        y, (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points",
        fontsize=SMALL_PT, color=colour("muted"),
    )  # fmt: skip


def spread(places: Sequence[float], gap: float, high: float) -> list[float]:
    """Moved as little as possible so that neighbours are `gap` apart, between 0 and `high`.

    Pools of neighbours that would be too near share their mean place (isotonic regression).
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    pools: list[list[float]] = []
    for rank, i in enumerate(order):
        pools.append([places[i] - rank * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    starts = [fmean(pool) for pool in pools for _ in pool]
    highest = high - (len(places) - 1) * gap
    moved = list(places)
    for rank, i in enumerate(order):
        moved[i] = max(0.0, min(starts[rank], highest)) + rank * gap
    return moved
