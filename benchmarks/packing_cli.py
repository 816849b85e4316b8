"""`tandem bench packing`: how few bytes the row of `dssd-packed` takes, and what rounding costs.

On rows of rejected drafts of the demo pair, and of wider vocabularies: every contender's bytes, the
entropy of what is sent, the acceptance that rounding costs, the error of the published row, and what
other grids would cost.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.machine import collect
from benchmarks.marked import replace_marked
from benchmarks.packing_contenders import Row, contenders, floor_bytes, sent_bytes
from benchmarks.packing_sweep import SAMPLING, Swept, size_of_vocabulary, sweep, table
from benchmarks.packing_sweep import VOCABULARIES as SWEPT_VOCABULARIES
from benchmarks.pair_rows import PairRows, collect_rows
from benchmarks.progress import progress_bar
from benchmarks.record import Record, keep
from benchmarks.rounding_error import Rounding, rounding_errors
from benchmarks.schemes import DOCS, SAMPLINGS, VOCABULARIES
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.packed import DssdPacked

NUM_TOKENS = {"full": 24, "quick": 6}
"""After each prompt."""
NUM_ROWS = {"full": 120, "quick": 12}
NUM_SWEPT = {"full": 60, "quick": 6}
"""Places and rows for which all grids are tried."""
MARK = "bench packing"


@dataclass(frozen=True)
class Cell:
    """One vocabulary and one way of sampling."""

    num_ids: int
    widened: bool
    """Whether the laws are made from those of fewer ids."""
    sampling: str
    rows: tuple[Row, ...]
    rounding: Rounding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench packing`."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("bench-packing"), help="folder of results")
    add("--vocabulary", action="append", type=int, help="only these sizes")
    add("--quick", action="store_true", help="few rows only")
    add("--docs", action="store_true", help="also rewrite the table in docs/schemes.md")
    add("--json", action="store_true", help="no progress; the results as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write results.jsonl and table.md; exit code 0."""
    console = Console(highlight=False, stderr=True, quiet=args.json)
    plan = "quick" if args.quick else "full"
    args.out.mkdir(parents=True, exist_ok=True)
    pair = collect_rows(NUM_TOKENS[plan])
    vocabularies = args.vocabulary or VOCABULARIES
    wanted = [(num_ids, name) for num_ids in vocabularies for name in SAMPLINGS]
    swept_sizes = [num_ids for num_ids in SWEPT_VOCABULARIES if num_ids in vocabularies]
    cells: list[Cell] = []
    swept: list[Swept] = []
    with progress_bar(console) as progress:
        for num_ids, name in progress.track(wanted, description="packing rows"):
            cells.append(_cell(pair, num_ids, name, NUM_ROWS[plan]))
        for num_ids in progress.track(swept_sizes, description="trying grids"):
            swept += _swept(pair, num_ids, NUM_SWEPT[plan])
    values = list(_values(cells))
    facts = collect()
    lines = [*values, *(one.values() for one in swept)]
    markdown = "\n".join([*tables(values), "", *table(swept)])
    keep(args.out, [Record.of("packing", facts, line) for line in lines], markdown)
    if args.docs:
        replace_marked(DOCS, MARK, markdown)
    print(json.dumps(lines, indent=2) if args.json else markdown)
    console.print(f"results: {args.out}")
    return 0


def _cell(pair: PairRows, num_ids: int, name: str, num_rows: int) -> Cell:
    scheme = SCHEMES["dssd-packed"]
    assert isinstance(scheme, DssdPacked)
    rows = tuple(Row.of(p, num_ids, scheme) for p in _rejected(pair, num_ids, name, num_rows))
    judged = islice(pair.laws(num_ids, SAMPLINGS[name]), num_rows)
    return Cell(num_ids, num_ids > pair.num_own, name, rows, rounding_errors(judged, num_ids))


def _rejected(pair: PairRows, num_ids: int, name: str, count: int) -> Iterator[ArrayLaw]:
    """Rows of drafts that a coin with a fixed seed rejects."""
    rng = np.random.default_rng(1)
    for p, q in pair.laws(num_ids, SAMPLINGS[name]):
        if rng.random() < np.maximum(0.0, p.probs - q.prob(p.ids)).sum():
            yield p
            count -= 1
        if count == 0:
            return


def _swept(pair: PairRows, num_ids: int, num_places: int) -> list[Swept]:
    judged = list(islice(pair.laws(num_ids, SAMPLINGS[SAMPLING]), num_places))
    rejected = list(_rejected(pair, num_ids, SAMPLING, num_places))
    return sweep(judged, rejected, num_ids, widened=num_ids > pair.num_own)


def _values(cells: Sequence[Cell]) -> Iterator[dict[str, Any]]:
    """Results by the keys of the registry, one contender and cell each.

    Contenders that learn do so on every other row of all cells, and are measured on the rest.
    """
    named = contenders([row for cell in cells for row in cell.rows[::2]])
    for cell in cells:
        rows = cell.rows[1::2] or cell.rows
        if not rows:
            continue
        content = {
            "sampling": cell.sampling,
            "num_ids": cell.num_ids,
            "widened": cell.widened,
            "rows": len(rows),
            "num_kept": float(np.mean([row.num_kept for row in rows])),
            "entropy_bytes": floor_bytes(rows),
            "row_bytes": float(np.mean([sent_bytes(row) for row in rows])),
            "overlap": cell.rounding.overlap,
            "overlap_lost_packed": cell.rounding.lost_packed,
            "overlap_lost_thinned": cell.rounding.lost_thinned,
            "overlap_lost_log_grid": cell.rounding.lost_log_grid,
            "row_error_fp16": cell.rounding.error_fp16,
            "row_error_fp16_max": cell.rounding.error_fp16_max,
            "row_error_fp32": cell.rounding.error_fp32,
            "row_error_fp32_max": cell.rounding.error_fp32_max,
        }
        for name, size in named.items():
            yield {
                **content,
                "contender": name,
                "contender_bytes": float(np.mean([size(row) for row in rows])),
            }


def tables(values: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Markdown: contenders, then what is sent and what rounding costs."""
    names = list(dict.fromkeys(line["contender"] for line in values))
    cells: dict[tuple[int, str], dict[str, Any]] = {}
    for line in values:
        cell = cells.setdefault((line["num_ids"], line["sampling"]), dict(line))
        cell[line["contender"]] = line["contender_bytes"]
    yield "| ids | sampling | ids kept | " + " | ".join(names) + " |"
    yield "|---|---|" + "--:|" * (1 + len(names))
    for cell in cells.values():
        shown = " | ".join(_size(cell[name]) for name in names)
        yield f"{_start(cell)} | {cell['num_kept']:,.0f} | {shown} |"
    yield ""
    yield from _rounding_table(list(cells.values()))


def _rounding_table(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    heads = (
        "ids", "sampling", "all that is sent, bytes", "its entropy, bytes", "ratio",
        "raw fp16 row / sent", "1 − D", "lost by `dssd-packed`", "by `dssd-thinned`",
        "by the log grid", "error of `dssd`: mean, largest", "of `dssd-fp32`",
    )  # fmt: skip
    yield f"| {' | '.join(heads)} |"
    yield "|---|---|" + "--:|" * (len(heads) - 2)
    for cell in cells:
        yield (
            f"{_start(cell)} | {_size(cell['row_bytes'])} "
            f"| {_size(cell['entropy_bytes'])} | {cell['row_bytes'] / cell['entropy_bytes']:.2f} "
            f"| {cell['raw fp16'] / cell['row_bytes']:,.0f} | {cell['overlap']:.3f} "
            f"| {cell['overlap_lost_packed']:.4f} | {cell['overlap_lost_thinned']:.4f} "
            f"| {cell['overlap_lost_log_grid']:.4f} "
            f"| {cell['row_error_fp16']:.0e}, {cell['row_error_fp16_max']:.0e} "
            f"| {cell['row_error_fp32']:.0e}, {cell['row_error_fp32_max']:.0e} |"
        )


def _start(cell: dict[str, Any]) -> str:
    """The cells that name a line."""
    return f"| {size_of_vocabulary(cell['num_ids'], cell['widened'])} | {cell['sampling']}"


def _size(num_bytes: float) -> str:
    return f"{num_bytes:,.{0 if num_bytes >= 10 else 1}f}"
