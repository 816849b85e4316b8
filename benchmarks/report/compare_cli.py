"""`tandem bench compare`: what became faster or slower between two runs of `tandem bench run`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.report.cells import load
from benchmarks.report.compare import (
    COMPARABLE,
    PROGRAM,
    Comparison,
    compare,
    differences,
    gaps,
    table,
    to_json,
)
from benchmarks.report.findings import TIME
from benchmarks.report.stability import Doubt
from device_runtime.protocol.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Two files, what to compare, and when to fail."""
    add = parser.add_argument
    add("before", type=Path, help="results of `tandem bench run` to compare with: file or folder")
    add("after", type=Path, help="results to judge")
    add("--figure", action="append", choices=COMPARABLE, metavar="NAME", dest="figures",
        help=f"by its name in report.csv; may be repeated (default: {TIME})")  # fmt: skip
    add("--fail-over", type=float, metavar="PERCENT",
        help="exit code 1 if intervals are apart and a median is worse by more than that, or if "
        "the runs cannot tell: other settings or hardware, missing arms, few repeats")  # fmt: skip
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the comparison; 1 if something is worse by more than --fail-over, else 0.

    ConfigError if --fail-over is given and the runs cannot tell.
    """
    if args.fail_over is not None and args.fail_over < 0:
        raise ConfigError("--fail-over must be 0 or more: percent by which a median may be worse")
    before, after = load(args.before), load(args.after)
    figures = args.figures or (TIME,)
    compared = compare(before, after, figures)
    _require(compared, figures)
    differing, found_gaps = differences(before, after), gaps(before, after, figures)
    if args.json:
        print(json.dumps(to_json(compared, differing, found_gaps), indent=2))
    else:
        for name, (old, new) in differing.items():
            print(f"WARNING: {name} differs: {old!r} before, {new!r} after")
        for gap in found_gaps:
            print(f"WARNING: {gap}")
        print(table(compared).markdown())
        print(_summary(compared))
    if any(fails(c, args.fail_over) for c in compared):
        return 1
    if args.fail_over is not None:
        _require_decision(differing, found_gaps)
    return 0


def _require(compared: Sequence[Comparison], figures: Iterable[str]) -> None:
    """ConfigError for a figure that no cell has in both runs."""
    absent = [name for name in figures if all(c.figure.name != name for c in compared)]
    if absent:
        raise ConfigError(
            "the two runs share no arm over the same link with the same sampling that has "
            f"{' and '.join(absent)} in both"
        )


def _require_decision(differing: Iterable[str], found_gaps: Sequence[Doubt]) -> None:
    """ConfigError where nothing is worse only because these runs cannot show it."""
    unlike = Doubt("These differ", tuple(name for name in differing if name not in PROGRAM))
    reasons = [str(doubt) for doubt in (unlike, *found_gaps) if doubt.places]
    if reasons:
        raise ConfigError(
            f"--fail-over cannot judge these runs. {' '.join(reasons)} Measure both with the same "
            "arguments of `tandem bench run` on the same machine, with --repeats 5 or more; without "
            "--fail-over they are only shown"
        )


def fails(comparison: Comparison, over_percent: float | None) -> bool:
    """Whether it is worse by more than that."""
    if over_percent is None or not comparison.is_worse:
        return False
    return comparison.ratio is None or comparison.ratio > 1 + over_percent / 100


def _summary(compared: Sequence[Comparison]) -> str:
    counts = Counter(comparison.verdict for comparison in compared)
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
