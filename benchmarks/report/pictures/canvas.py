"""What pictures are drawn on: a plot of two numbers, or one row an arm; all are equally wide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.report.pictures.ink import SMALL_PT, TEXT_PT, colour, width_of

WIDTH_PT = 330.0
"""What a phone has between its margins: there a point of the picture is a pixel of the screen."""
PLOT_PT = 220.0
"""Height of a plot of two numbers."""
_POINTS_PER_INCH = 72


def plot(right_pt: float) -> Axes:
    """Of two numbers, with room for names on the right."""
    return _canvas(PLOT_PT, left_pt=40, right_pt=right_pt, top_pt=24, bottom_pt=36)


def rows(labels: Sequence[str], row_pt: float, *, right_pt: float = 14, top_pt: float = 4) -> Axes:
    """One row a label, which stands on its left; the first on top."""
    left_pt = max(map(width_of, labels)) + 10
    axes = _canvas(row_pt * len(labels), left_pt=left_pt, right_pt=right_pt, top_pt=top_pt)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelsize=TEXT_PT, labelcolor=colour("ink"))
    return axes


def size_pt(axes: Axes) -> tuple[float, float]:
    """Width and height of the plot."""
    scale = _POINTS_PER_INCH / axes.figure.dpi
    return axes.bbox.width * scale, axes.bbox.height * scale


def places_pt(axes: Axes, points: Sequence[tuple[float, float]]) -> NDArray[Any]:
    """Where these data lie, in points from the plot's lower left corner; limits must be set."""
    to_axes = axes.transData + axes.transAxes.inverted()
    return np.asarray(to_axes.transform(np.reshape(points, (-1, 2)))) * size_pt(axes)


def _canvas(
    plot_pt: float, *, left_pt: float, right_pt: float, top_pt: float, bottom_pt: float = 34
) -> Axes:
    """The plot of a figure of the common width that is `plot_pt` high; its margins are known."""
    height_pt = plot_pt + top_pt + bottom_pt
    figure = Figure(figsize=(WIDTH_PT / _POINTS_PER_INCH, height_pt / _POINTS_PER_INCH))
    width = (WIDTH_PT - left_pt - right_pt) / WIDTH_PT
    place = (left_pt / WIDTH_PT, bottom_pt / height_pt, width, plot_pt / height_pt)
    axes = figure.add_axes(place)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelsize=SMALL_PT, colors=colour("muted"), pad=4)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes
