"""The pictures of `tandem bench edge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from benchmarks.edge_report import medians
from benchmarks.record import Record

mpl.use("Agg")

_PANELS = (
    ("verified tokens per second", "verified_tokens_per_s", 1.0),
    ("time per token, ms, median", "per_token_p50_s", 1e3),
    ("engine ms per committed token", "engine_s_per_token", 1e3),
)


def draw(records: Sequence[Record], path: Path) -> None:
    """One panel a figure over the number of sessions, one line an arm."""
    from matplotlib import pyplot as plt

    found = medians(records)
    figure, panels = plt.subplots(1, len(_PANELS), figsize=(13, 4))
    arms = dict.fromkeys(arm for arm, _, ratio, arrivals in found if not ratio and not arrivals)
    for panel, (title, name, scale) in zip(panels, _PANELS, strict=True):
        for arm in arms:
            points = [
                (sessions, figures[name] * scale)
                for (own, sessions, ratio, arrivals), figures in found.items()
                if own == arm and not ratio and not arrivals and name in figures
            ]
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=arm)
        panel.set_xscale("log", base=2)
        panel.set_xlabel("sessions")
        panel.set_title(title, loc="left", fontsize="medium")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_map(
    winners: Sequence[Sequence[str]], contexts: Sequence[int], limits_s: Sequence[float], path: Path
) -> None:
    """Which arm needs the least engine time: rows are limits, columns are contexts."""
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    names = sorted({name for row in winners for name in row})
    colours = [plt.get_cmap("tab10")(i) for i in range(len(names))]
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.imshow(
        [[names.index(name) for name in row] for row in winners],
        aspect="auto", origin="lower", cmap=ListedColormap(colours), vmin=-0.5,
        vmax=len(names) - 0.5,
    )  # fmt: skip
    axes.set_xticks(range(len(contexts)), [f"{context:,}" for context in contexts])
    axes.set_yticks(range(len(limits_s)), [f"{limit_s * 1e3:g}" for limit_s in limits_s])
    axes.set_xlabel("context, tokens")
    axes.set_ylabel("limit on the time per token, ms")
    axes.legend(
        handles=[Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)],
        bbox_to_anchor=(1.01, 1), loc="upper left",
    )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
