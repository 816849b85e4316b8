"""The report as one HTML page that needs nothing else: no script, no file, no network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import jinja2

from benchmarks.report.cells import Group
from benchmarks.report.figures import NOTES
from benchmarks.report.findings import ENGINE, TIME, overview, slug, verdicts
from benchmarks.report.pictures.arms import looks_of
from benchmarks.report.pictures.bars import joules, ranking, round_breakdown
from benchmarks.report.pictures.ink import PALETTE
from benchmarks.report.pictures.lines import (
    Looks,
    acceptance,
    against_downlink,
    against_round_trip,
)
from benchmarks.report.pictures.pareto import pareto
from benchmarks.report.pictures.picture import Absent, Picture
from benchmarks.report.pictures.traffic import bytes_per_token
from benchmarks.report.report import Report
from benchmarks.report.tables import Table, figure_table

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures that stand together, and those that could not be drawn."""

    pictures: tuple[Picture, ...]
    absent: tuple[Absent, ...]

    @classmethod
    def of(cls, found: Sequence[Picture | Absent]) -> Part:
        """Apart."""
        return cls(
            tuple(picture for picture in found if isinstance(picture, Picture)),
            tuple(picture for picture in found if isinstance(picture, Absent)),
        )


@dataclass(frozen=True, slots=True)
class LinkPart:
    """All that is said of one link with one sampling."""

    anchor: str
    name: str
    numbers: str
    """Round trip and rates."""
    verdicts: tuple[str, ...]
    part: Part
    table: Table


@dataclass(frozen=True, slots=True)
class SamplingPart:
    """All links with one sampling."""

    name: str
    overview: Table
    part: Part
    links: tuple[LinkPart, ...]


def to_page(report: Report) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["unbroken"] = _unbroken
    return environment.get_template(TEMPLATE).render(
        report=report,
        palette=PALETTE,
        samplings=tuple(_samplings(report)),
        notes=NOTES,
    )


def _unbroken(text: str) -> str:
    """No line ends between a number and its unit."""
    return re.sub(r"(\d) (ms|mJ|B|Mbit/s)\b", "\\1\N{NO-BREAK SPACE}\\2", text)


def _samplings(report: Report) -> Iterator[SamplingPart]:
    looks = looks_of(report.cells)
    for name, alike in groupby(report.groups, key=lambda group: group.sampling):
        groups = list(alike)
        across = [
            *against_round_trip(groups, looks),
            *against_downlink(groups, looks),
            acceptance(groups, looks),
        ]
        links = tuple(_link(group, looks) for group in groups)
        yield SamplingPart(name, overview(groups), Part.of(across), links)


def _link(group: Group, looks: Looks) -> LinkPart:
    pictures = [
        ranking(group, TIME),
        round_breakdown(group),
        joules(group),
        ranking(group, ENGINE),
        bytes_per_token(group),
        pareto(group, looks),
    ]
    return LinkPart(
        slug(group), group.link, _numbers(group), tuple(verdicts(group)), Part.of(pictures),
        figure_table(group),
    )  # fmt: skip


def _numbers(group: Group) -> str:
    settings = group.settings
    rates = ((way, settings.get(f"link_{way}_bps")) for way in ("down", "up"))
    parts = [f"{rate_bps / 1e6:.3g} Mbit/s {way}" for way, rate_bps in rates if rate_bps]
    if "link_rtt_s" in settings:
        parts.insert(0, f"round trip {1e3 * settings['link_rtt_s']:g} ms")
    if settings.get("slow_start"):
        parts.append("slow start")
    return ", ".join(parts)
