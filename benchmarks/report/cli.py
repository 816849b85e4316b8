"""`tandem bench report`: Markdown, CSV and one HTML page from the results of `tandem bench run`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS_FILE, Record, results_file
from benchmarks.report.cells import load
from benchmarks.report.markdown import to_markdown
from benchmarks.report.page import to_page
from benchmarks.report.projected import BANDWIDTH, projected_section
from benchmarks.report.report import Report, build
from benchmarks.report.tables import csv_text

RESULTS = Path("bench-run", RESULTS_FILE)
BOARD = "raspberry-pi-5"
NO_BOARD = "none"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which results, and where to."""
    add = parser.add_argument
    add("results", nargs="?", type=Path, default=RESULTS,
        help="JSON lines, or their folder (default: %(default)s)")  # fmt: skip
    add("--out", type=Path, help="folder to write to (default: that of the results)")
    add("--project", action="append", metavar="PROFILE",
        help="add what a board would do, by its bandwidth and power; may be repeated "
        f"(default: {BOARD}, where the results allow it; {NO_BOARD} adds nothing)")  # fmt: skip
    add("--json", action="store_true", help="say what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Write report.md, report.csv and report.html, and say what they say; exit code 0."""
    records = load(args.results)
    report = build(records)
    boards = _boards(records, args.project)
    sections = tuple(projected_section(report.groups, board) for board in boards)
    report = replace(report, sections=sections)
    paths = write(report, args.out or results_file(args.results).parent)
    print(json.dumps(_summary(report, paths), indent=2) if args.json else _text(report, paths))
    return 0


def _boards(records: Sequence[Record], named: Sequence[str] | None) -> list[str]:
    """To project to: those that were named, or the default one where the results allow it."""
    if named is None:
        return [BOARD] if BANDWIDTH in records[0].machine else []
    return [board for board in named if board != NO_BOARD]


def write(report: Report, folder: Path) -> list[Path]:
    """The three files; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": to_page(report),
        "report.md": to_markdown(report),
        "report.csv": csv_text(report.cells),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def _summary(report: Report, paths: list[Path]) -> dict[str, Any]:
    return {
        "files": [str(path) for path in paths],
        "headlines": [str(headline) for headline in report.headlines],
        "doubts": [str(doubt) for doubt in report.doubts],
    }


def _text(report: Report, paths: list[Path]) -> str:
    lines = [*map(str, report.headlines), ""]
    lines += [f"WARNING: {doubt}" for doubt in report.doubts]
    return "\n".join([*lines, *(f"written: {path}" for path in paths)])
