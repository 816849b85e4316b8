"""A report before it is shown: everything computed, nothing formatted for one medium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.record import Record
from benchmarks.report.cells import Cell, Group, cells_of, groups_of
from benchmarks.report.facts import facts
from benchmarks.report.headlines import Headline, headlines
from benchmarks.report.stability import Doubt, doubts
from benchmarks.report.tables import Section


@dataclass(frozen=True, slots=True)
class Report:
    """What Markdown and page have in common."""

    facts: Mapping[str, str]
    headlines: tuple[Headline, ...]
    groups: tuple[Group, ...]
    doubts: tuple[Doubt, ...]
    sections: tuple[Section, ...] = ()
    """At the end, such as projections to boards."""

    @property
    def cells(self) -> list[Cell]:
        """Of all groups."""
        return [cell for group in self.groups for cell in group.cells]

    @property
    def machine(self) -> str:
        """In one line."""
        names = ("machine", "processor")
        known = [self.facts[name] for name in names if name in self.facts]
        return ", ".join(known) or "a machine that is not described"

    @property
    def title(self) -> str:
        """What was measured."""
        models = " and ".join(self.facts[name] for name in ("LLM", "SLM") if name in self.facts)
        return f"Split decoding, measured{f': {models}' if models else ''}"


def build(records: Sequence[Record], sections: Sequence[Section] = ()) -> Report:
    """Compute everything."""
    groups = groups_of(cells_of(records))
    return Report(
        facts(records),
        tuple(headlines(groups)),
        tuple(groups),
        tuple(doubts(groups)),
        tuple(sections),
    )
