"""The picture of `tandem bench schemes`: bytes down per rejected round, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

if TYPE_CHECKING:
    from benchmarks.schemes import Cell

mpl.use("Agg")


def draw(cells: Sequence[Cell], path: Path) -> None:
    """One panel a vocabulary; a group of bars a way of sampling, a bar a scheme."""
    from matplotlib import pyplot as plt

    vocabularies = sorted({cell.num_ids for cell in cells})
    samplings = list(dict.fromkeys(cell.sampling for cell in cells))
    schemes = list(dict.fromkeys(cell.scheme for cell in cells))
    size = (10, 3.2 * len(vocabularies))
    figure, panels = plt.subplots(len(vocabularies), figsize=size, squeeze=False, sharex=True)
    colours = plt.get_cmap("tab20")(np.linspace(0, 1, 20))
    for panel, num_ids in zip(panels[:, 0], vocabularies, strict=True):
        for number, scheme in enumerate(schemes):
            medians = [
                float(np.median(cell.measured.bytes_down_rejected))
                if cell.measured.bytes_down_rejected
                else float("nan")
                for sampling in samplings
                for cell in cells
                if (cell.num_ids, cell.sampling, cell.scheme) == (num_ids, sampling, scheme)
            ]
            places = np.arange(len(samplings)) + (number + 0.5) / (len(schemes) + 1) - 0.5
            panel.bar(places, medians, 0.9 / (len(schemes) + 1), label=scheme,
                      color=colours[number % 20])  # fmt: skip
        panel.set_yscale("log")
        panel.set_ylabel("bytes, median")
        panel.set_title(f"{num_ids:,} ids: payload down per rejected round", loc="left")
        panel.grid(axis="y", alpha=0.3)
    panels[-1, 0].set_xticks(np.arange(len(samplings)), samplings)
    panels[0, 0].legend(ncols=4, fontsize="small", loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
