"""`tandem bench compare`: what became faster or slower between two runs of `tandem bench run`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.cells import load
from benchmarks.report.compare import (
    COMPARABLE,
    Comparison,
    compare,
    differences,
    table,
    to_json,
)
from benchmarks.report.findings import TIME
from device_runtime.protocol.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two files, what to compare, and when to fail."""
    add = parser.add_argument
    add("before", type=Path, help="results of `tandem bench run` to compare with: file or folder")
    add("after", type=Path, help="results to judge")
    add("--figure", action="append", choices=COMPARABLE, metavar="NAME", dest="figures",
        help=f"by its name in report.csv; may be repeated (default: {TIME})")  # fmt: skip
    add("--fail-over", type=float, metavar="PERCENT",
        help="exit code 1 if intervals are apart and a median is worse by more than that")  # fmt: skip
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 1 if something is worse by more than --fail-over, else 0."""
    if args.fail_over is not None and args.fail_over < 0:
        raise ConfigError("--fail-over must be 0 or more: percent by which a median may be worse")
    before, after = load(args.before), load(args.after)
    compared = compare(before, after, args.figures or (TIME,))
    if not compared:
        raise ConfigError("the two runs share no arm over the same link with the same sampling")
    differing = differences(before, after)
    if args.json:
        print(json.dumps(to_json(compared, differing), indent=2))
    else:
        for name, (old, new) in differing.items():
            print(f"WARNING: {name} differs: {old!r} before, {new!r} after")
        print(table(compared).markdown())
        print(_summary(compared))
    return int(any(fails(c, args.fail_over) for c in compared))


def fails(comparison: Comparison, over_percent: float | None) -> bool:
    """Whether it is worse by more than that."""
    if over_percent is None or not comparison.is_worse:
        return False
    return comparison.ratio is None or comparison.ratio > 1 + over_percent / 100


def _summary(compared: Sequence[Comparison]) -> str:
    counts = Counter(comparison.verdict for comparison in compared)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
