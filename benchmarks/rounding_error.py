"""What rounding costs: acceptance on a grid, and the law itself where a row is sent as floats."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.packing_contenders import LOG_GRID
from benchmarks.scheme_lossy import dense
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.law import ArrayLaw, overlap
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.dssd import residual
from device_runtime.protocol.schemes.packed import DssdPacked


@dataclass(frozen=True)
class Rounding:
    """Means over the judged places; errors are total variation distances of the emitted law to p."""

    overlap: float
    """1 − D."""
    lost_packed: float
    """1 − D less Σ min(p̃, q): what the rounding of `dssd-packed` costs."""
    lost_thinned: float
    lost_log_grid: float
    """Of the log grid that contenders pack."""
    error_fp16: float
    """Of `dssd`."""
    error_fp16_max: float
    error_fp32: float
    error_fp32_max: float


def rounding_errors(laws: Iterable[tuple[ArrayLaw, ArrayLaw]], num_ids: int) -> Rounding:
    """Exact at every place, no sampling; laws: (p, q)."""
    packed = SCHEMES["dssd-packed"]
    assert isinstance(packed, DssdPacked)
    figures = []
    for p, q in laws:
        best, of_q, rounding = overlap(p, q), q.prob(p.ids), packed.rounding(p)
        on_step = rounding.level(rounding.number(p.probs))
        on_grid, on_log_grid = (grid.level(grid.floor(p.probs)) for grid in (GRID, LOG_GRID))
        figures.append((
            best,
            best - float(np.minimum(on_step, of_q).sum()),
            best - float(np.minimum(on_grid, of_q).sum()),
            best - float(np.minimum(on_log_grid, of_q).sum()),
            row_error(p, q, num_ids, "<f2"),
            row_error(p, q, num_ids, "<f4"),
        ))  # fmt: skip
    columns = np.array(figures).T
    mean, largest = columns.mean(axis=1), columns.max(axis=1)
    return Rounding(mean[0], mean[1], mean[2], mean[3], mean[4], largest[4], mean[5], largest[5])


def row_error(p: ArrayLaw, q: ArrayLaw, num_ids: int, dtype: str) -> float:
    """Total variation distance of what `dssd` emits to p, its row sent in the dtype.

    The token is accepted with min(1, p/q̂), q̂ being q(x) as a 32-bit float; R times the residual of the
    rounded row follows.
    """
    of_p, of_q = dense(p, num_ids), dense(q, num_ids)
    sent = of_q.astype(np.float32).astype(np.float64)
    kept = of_q * np.minimum(1.0, np.divide(of_p, sent, out=np.ones(num_ids), where=sent > 0))
    rounded = residual(of_p.astype(dtype).astype(np.float64), q)
    emitted = kept + max(0.0, 1 - float(kept.sum())) * dense(rounded, num_ids)
    return float(np.abs(emitted - of_p).sum() / 2)
