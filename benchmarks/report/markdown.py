"""The report as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from benchmarks.report.cells import Group
from benchmarks.report.figures import NOTES
from benchmarks.report.findings import overview, verdicts
from benchmarks.report.report import Report
from benchmarks.report.tables import figure_table


def to_markdown(report: Report) -> str:
    """Facts, findings, who wins where, a table for every link and sampling, doubts, notes."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {report.title}"
    yield ""
    yield from (f"- **{headline.number}** – {headline.text}" for headline in report.headlines)
    yield ""
    yield from (f"- {name}: {value}" for name, value in report.facts.items())
    yield from _doubts(report)
    yield from ("", "## Who wins where")
    for sampling, alike in groupby(report.groups, key=lambda group: group.sampling):
        yield from ("", f"### {sampling}", "", overview(list(alike)).markdown())
    for group in report.groups:
        yield from _group(group)
    for section in report.sections:
        yield from ("", f"## {section.title}", "", section.table.markdown())
        yield from ("", section.note) if section.note else ()
    yield from ("", "## How to read the figures", "")
    yield from (f"- {note}" for note in NOTES)


def _doubts(report: Report) -> Iterator[str]:
    if report.doubts:
        yield from ("", "**Doubts, computed from the data**", "")
        yield from (f"- {doubt}" for doubt in report.doubts)


def _group(group: Group) -> Iterator[str]:
    yield from ("", f"## {group.title}", "")
    yield from (f"- {verdict}" for verdict in verdicts(group))
    yield from ("", figure_table(group).markdown())
