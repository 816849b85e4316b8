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
    """One row a link: the best split arm against those that need no split; the lowest is bold."""
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
    cost = f"{form.with_unit(best.median)} per token {interval(form, best)}".rstrip()
    text = f"{title}: {winner.arm}, {cost}{_level(winner, rivals, figure)}"
    compared = [c for c in (best_split(group, figure), group.reference(EDGE)) if c in rivals]
    others = [f"{c.arm} takes {_over(c, winner, figure)}" for c in compared]
    yield f"{text}. {'; '.join(others)}." if others else f"{text}."


def _level(winner: Cell, rivals: Sequence[Cell], figure: str) -> str:
    """Which arms may be as good."""
    best = winner.estimates[figure]
    level = [c.arm for c in rivals if not c.estimates[figure].is_apart_from(best)]
    if rivals and not best.is_sound:
        return "; by its median alone: the repeats are too few to tell arms apart"
    return f"; not told apart from {listed(level)}" if level else ""


def _over(cell: Cell, winner: Cell, figure: str) -> str:
    value, least = cell.estimates[figure].median, winner.estimates[figure].median
    times = f", {digits(value / least)} times as much" if least else ""
    return f"{FIGURES[figure].with_unit(value)}{times}"


def _ahead(group: Group) -> Iterator[str]:
    """Whether the split pays: only where intervals decide it against every reference."""
    ours = best_split(group, TIME)
    references = [c for name in REFERENCES if (c := group.reference(name)) and TIME in c.estimates]
    if ours is None or not references:
        return
    mine = ours.estimates[TIME]
    ahead = [c.arm for c in references if c.estimates[TIME].is_clearly_below(mine)]
    behind = [c.arm for c in references if mine.is_clearly_below(c.estimates[TIME])]
    level = [c.arm for c in references if c.arm not in (*ahead, *behind)]
    of_several = _of_several(sum(c.is_split and c.is_lossless for c in group.cells))
    if ahead:
        beat = "beats" if len(ahead) == 1 else "beat"
        yield f"The edge needs no device here: {listed(ahead)} {beat} {ours.arm}{of_several}."
    elif level:
        yield (
            f"Undecided whether the split pays here: {ours.arm}{of_several} is not told apart from "
            f"{listed(level)}."
        )
    else:
        yield f"The split pays here: {ours.arm}{of_several} is faster than {listed(behind)}."


def _of_several(num_arms: int) -> str:
    """A warning of luck: the best of many looks better than it is."""
    return f" (the fastest of {num_arms} split arms)" if num_arms > 1 else ""


def _lossy(group: Group) -> Iterator[str]:
    best = group.best(TIME)
    if best is None:
        return
    least = best.estimates[TIME]
    lossy = [c for c in group.cells if not c.is_lossless and TIME in c.estimates]
    lower = [c for c in lossy if c.estimates[TIME].median < least.median]
    faster = [c for c in lower if c.estimates[TIME].is_apart_from(least)]
    maybe = [c for c in lower if not c.estimates[TIME].is_apart_from(least)]
    for title, cells in (("Faster", faster), ("Perhaps faster (undecided)", maybe)):
        if cells:
            named = [
                f"{c.arm} ({FIGURES[TIME].with_unit(c.estimates[TIME].median)})" for c in cells
            ]
            yield f"{title}, but with another text than the LLM's: {listed(named)}."
