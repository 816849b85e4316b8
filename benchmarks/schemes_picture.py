"""The picture of `tandem bench schemes`: bytes of a rejected round, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from benchmarks.overhead import SEGMENT_PAYLOAD_BYTES
from device_runtime.protocol.schemes import DEFAULT_SCHEME

if TYPE_CHECKING:
    from matplotlib.axes import Axes

mpl.use("Agg")

Line = dict[str, Any]
Theme = dict[str, Any]

THEMES: dict[str, Theme] = {
    "schemes.png": {
        "ground": "#ffffff", "text": "#1f2328", "faint": "#e1e4e8", "muted": "#656d76",
        "dots": ("#9cc3e6", "#5596d0", "#2463a8", "#0b2e5c"), "marked": "#b35900",
    },
    "schemes-dark.png": {
        "ground": "#0d1117", "text": "#e6edf3", "faint": "#262c36", "muted": "#8d96a0",
        "dots": ("#2f6aa3", "#4f96d6", "#8cc2ef", "#dcedff"), "marked": "#ffa657",
    },
}  # fmt: skip
WAYS = {"down": (0.17, "o", True), "up": (-0.17, "D", False)}
"""Place beside the line, marker, and whether it is filled."""
COLUMNS = 3


def draw(lines: Sequence[Line], folder: Path) -> None:
    """One panel a way of sampling, a line a scheme, a colour a vocabulary; light and dark.

    Nothing is drawn where no scheme rejected anything.
    """
    from matplotlib import pyplot as plt

    schemes = _ordered(lines)
    if not schemes:
        return
    samplings = list(dict.fromkeys(line["sampling"] for line in lines))
    lossy = {n: f"{n} (lossy)" for n in schemes if not _is_lossless(lines, n)}
    num_columns = min(COLUMNS, len(samplings))
    num_rows = -(-len(samplings) // num_columns)
    size = (1.7 + 3.3 * num_columns, 1.2 + (0.6 + 0.31 * len(schemes)) * num_rows)
    for name, theme in THEMES.items():
        figure, panels = plt.subplots(
            num_rows, num_columns, squeeze=False, sharex=True, sharey=True, figsize=size,
            facecolor=theme["ground"], layout="constrained",
        )  # fmt: skip
        for panel in list(panels.flat)[len(samplings) :]:
            panel.set_visible(False)
        for panel, sampling in zip(panels.flat, samplings, strict=False):
            _panel(panel, [line for line in lines if line["sampling"] == sampling], schemes, theme)
            _dress(panel, [lossy.get(scheme, scheme) for scheme in schemes], theme)
            panel.set_title(sampling, loc="left", color=theme["text"], fontsize=10)
        figure.suptitle(
            "Payload of a rejected round, median of both ways",
            x=0.01, ha="left", color=theme["text"], fontsize=12, fontweight="bold",
        )  # fmt: skip
        handles, labels = panels[0, 0].get_legend_handles_labels()
        half = len(labels) // 2  # columns are filled one by one: one line each way
        order = [i + j for i in range(half) for j in (0, half)]
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], ncols=half,
            loc="outside lower center", frameon=False, labelcolor=theme["text"], fontsize=9,
        )  # fmt: skip
        figure.savefig(folder / name, dpi=120, facecolor=theme["ground"])
        plt.close(figure)


def _size(line: Line, way: str) -> float:
    """Bytes of a rejected round; NaN where none was rejected."""
    size = line[f"bytes_{way}_rejected_p50"]
    return float("nan") if size is None else float(size)


def _is_lossless(lines: Sequence[Line], scheme: str) -> bool:
    return all(line["lossless"] for line in lines if line["scheme"] == scheme)


def _ordered(lines: Sequence[Line]) -> list[str]:
    """Schemes that reject, the fewest bytes first, by the largest message that each needs."""
    worst: dict[str, float] = {}
    for line in lines:
        for way in WAYS:
            size = max(0.0, _size(line, way))  # NaN counts as 0
            worst[line["scheme"]] = max(worst.get(line["scheme"], 0.0), size)
    rejecting = [scheme for scheme, size in worst.items() if size > 0]
    return sorted(rejecting, key=lambda scheme: (worst[scheme], scheme))


def _panel(panel: Axes, lines: Sequence[Line], schemes: Sequence[str], theme: Theme) -> None:
    lines = [line for line in lines if line["scheme"] in schemes]
    vocabularies = sorted({line["num_ids"] for line in lines})
    for way, (beside, marker, is_filled) in WAYS.items():
        for place, scheme in enumerate(schemes):
            sizes = [_size(line, way) for line in lines if line["scheme"] == scheme]
            span = [min(sizes), max(sizes)]
            panel.plot(span, [place + beside] * 2, color=theme["faint"], lw=2.5, zorder=1)
        colours = _colours(theme["dots"], len(vocabularies))
        for num_ids, colour in zip(vocabularies, colours, strict=True):
            found = [line for line in lines if line["num_ids"] == num_ids]
            made = " (widened)" if any(line["widened"] for line in found) else ""
            panel.scatter(
                [_size(line, way) for line in found],
                [schemes.index(line["scheme"]) + beside for line in found],
                s=26 if is_filled else 17, marker=marker, edgecolors=colour, linewidths=1.1,
                facecolors=colour if is_filled else theme["ground"], zorder=3,
                label=f"{way}, {num_ids:,} ids{made}",
            )  # fmt: skip


def _colours(dots: Sequence[str], count: int) -> Sequence[Any]:
    """The darkest last; where there are more to tell apart, those between."""
    if count <= len(dots):
        return dots[len(dots) - count :]
    ramp = mpl.colors.LinearSegmentedColormap.from_list("dots", dots)
    return [ramp(place / (count - 1)) for place in range(count)]


def _dress(panel: Axes, schemes: Sequence[str], theme: Theme) -> None:
    panel.set_facecolor(theme["ground"])
    panel.set_xscale("log")
    panel.set_xlim(5, 5e6)
    ticks = [10, 100, 1e3, 1e4, 1e5, 1e6]
    panel.set_xticks(ticks, ["10 B", "100 B", "1 kB", "10 kB", "100 kB", "1 MB"])
    panel.minorticks_off()
    panel.set_yticks(range(len(schemes)), schemes)
    panel.set_ylim(len(schemes) - 0.5, -0.6)
    panel.tick_params(axis="x", colors=theme["muted"], labelsize=8, length=0)
    panel.tick_params(axis="y", colors=theme["text"], labelsize=9, length=0)
    for label in panel.get_yticklabels():
        if label.get_text() == DEFAULT_SCHEME:
            label.set_color(theme["marked"])
            label.set_fontweight("bold")
    panel.axvline(SEGMENT_PAYLOAD_BYTES, color=theme["muted"], lw=0.8, ls=":", zorder=2)
    panel.annotate(
        "one TCP segment", (SEGMENT_PAYLOAD_BYTES, 1), xycoords=("data", "axes fraction"),
        xytext=(3, 3), textcoords="offset points", color=theme["muted"], fontsize=7,
    )  # fmt: skip
    panel.grid(axis="x", color=theme["faint"], lw=0.6)
    panel.set_axisbelow(True)
    for side in panel.spines.values():
        side.set_visible(False)
