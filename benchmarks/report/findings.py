"""Who wins where, in plain sentences computed from the data; another arm's win is said as plainly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.report.cells import EDGE, REFERENCES, Cell, Group
from benchmarks.report.figures import FIGURES, digits
from benchmarks.report.tables import Entry, Table, interval

TIME, ENGINE, ENERGY = "time_per_token_s", "engine_s_per_token", "j_per_token"


def verdicts(group: Group) -> list[str]:
    """Which arm wins time and engine time here, and where the edge needs no device."""
    return [
        *_least(group, TIME, "Fastest"),
        *_ahead(group),
        *_lossy(group),
        *_least(group, ENGINE, "Least engine time"),
    ]


def overview(groups: Sequence[Group]) -> Table:
    """One row a link: the best split arm against those that need no split; the fastest is bold."""
    heads = ("link", "best split arm", *REFERENCES, "least engine time")
    return Table(heads, tuple(_overview_row(group) for group in groups))


def _overview_row(group: Group) -> tuple[Entry, ...]:
    ours, winner = best_split(group, TIME), group.best(TIME)
    thrifty = group.best(ENGINE)
    return (
        Entry(group.link, anchor=slug(group)),
        _entry(ours, TIME, note=ours.arm if ours else "", is_best=ours is winner),
        *(_entry(c, TIME, is_best=c is winner) for c in map(group.reference, REFERENCES)),
        _entry(thrifty, ENGINE, note=thrifty.arm if thrifty else ""),
    )


def best_split(group: Group, figure: str) -> Cell | None:
    """The best of the lossless arms that device and edge share."""
    return group.best(figure, lambda cell: cell.is_split)


def slug(group: Group) -> str:
    """The group's name in the page's addresses."""
    return "".join(c if c.isalnum() else "-" for c in f"{group.link}-{group.sampling}".lower())


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _entry(cell: Cell | None, figure: str, *, note: str = "", is_best: bool = False) -> Entry:
    value = None if cell is None else cell.median(figure)
    return Entry("–") if value is None else Entry(FIGURES[figure].with_unit(value), note, is_best)


def _least(group: Group, figure: str, title: str) -> Iterator[str]:
    winner = group.best(figure)
    if winner is None:
        return
    best, form = winner.estimates[figure], FIGURES[figure]
    rivals = [c for c in group.cells if c.is_lossless and figure in c.estimates and c is not winner]
    level = [c.arm for c in rivals if not c.estimates[figure].is_apart_from(best)]
    cost = f"{form.with_unit(best.median)} per token {interval(form, best)}".rstrip()
    text = f"{title}: {winner.arm}, {cost}"
    if level:
        text += f"; intervals overlap with {listed(level)}"
    compared = [c for c in (best_split(group, figure), group.reference(EDGE)) if c in rivals]
    others = [f"{c.arm} takes {_over(c, winner, figure)}" for c in compared]
    yield f"{text}. {'; '.join(others)}." if others else f"{text}."


def _over(cell: Cell, winner: Cell, figure: str) -> str:
    value, least = cell.estimates[figure].median, winner.estimates[figure].median
    times = f", {digits(value / least)} times as much" if least else ""
    return f"{FIGURES[figure].with_unit(value)}{times}"


def _ahead(group: Group) -> Iterator[str]:
    ours = best_split(group, TIME)
    references = [c for name in REFERENCES if (c := group.reference(name)) and TIME in c.estimates]
    if ours is None or not references:
        return
    mine = ours.estimates[TIME].median
    ahead = [c.arm for c in references if c.estimates[TIME].median < mine]
    if ahead:
        beat = "beats" if len(ahead) == 1 else "beat"
        yield f"The edge needs no device here: {listed(ahead)} {beat} every split arm."
    else:
        arms = listed([c.arm for c in references])
        yield f"The split pays here: {ours.arm} is faster than {arms}."


def _lossy(group: Group) -> Iterator[str]:
    best = group.best(TIME)
    if best is None:
        return
    lossy = [c for c in group.cells if not c.is_lossless and TIME in c.estimates]
    faster = [c for c in lossy if c.estimates[TIME].median < best.estimates[TIME].median]
    if faster:
        named = [f"{c.arm} ({FIGURES[TIME].with_unit(c.estimates[TIME].median)})" for c in faster]
        yield f"Faster, but with another text than the LLM's: {listed(named)}."
