"""Records of `tandem bench run`, grouped into cells: one arm, over one link, with one sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import Record, RecordError, read, require_same_machine, results_file
from benchmarks.report.estimates import Estimate
from benchmarks.report.figures import FIGURES, Results
from device_runtime.protocol.errors import ConfigError

BENCH = "run"
EDGE, EDGE_DRAFT, DEVICE = "edge", "edge-draft", "device"
REFERENCES = (EDGE, EDGE_DRAFT)
"""Arms that need no split: the LLM alone, and speculation wholly on the edge."""

NEEDED = ("arm", "link", "sampling", "mode", "lossless")
SHARED = (
    "mode", "scheme", "lossless", "gamma", "temperature", "top_k", "top_p", "min_p", "link_rtt_s",
    "link_up_bps", "link_down_bps", "slow_start", "llm", "llm_digest", "slm", "slm_digest", "dtype",
    "device_profile", "weights", "graph", "cache_dtype", "edge_draft", "edge_draft_digest",
    "num_threads", "edge_threads", "num_ids", "max_tokens",
)  # fmt: skip
"""Settings without which answers cannot stand in one cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """All answers of one arm over one link with one way of sampling."""

    link: str
    sampling: str
    arm: str
    settings: Mapping[str, Any]
    """Those of SHARED that were given."""
    repeats: tuple[tuple[Record, ...], ...]
    """Answers of every repeat, in the order of the repeats."""
    estimates: Mapping[str, Estimate]
    """By the names of `figures.FIGURES`; figures that nothing was measured of are left out."""

    @property
    def family(self) -> str:
        """The arm without its draft length."""
        return self.arm.partition("/")[0]

    @property
    def is_lossless(self) -> bool:
        """Whether the text has exactly the LLM's law."""
        return bool(self.settings["lossless"]) and self.family != DEVICE

    @property
    def is_split(self) -> bool:
        """Whether device and edge work together."""
        return self.family not in (*REFERENCES, DEVICE)

    @property
    def label(self) -> str:
        """The arm, and a mark if its text is not the LLM's."""
        return self.arm if self.is_lossless else f"{self.arm} (lossy)"

    @property
    def place(self) -> str:
        """The arm, and where it was measured."""
        return f"{self.arm} over {self.link} at {self.sampling}"

    @property
    def answers(self) -> Iterator[Results]:
        """Results of all answers."""
        return (record.results for repeat in self.repeats for record in repeat)

    def median(self, figure: str) -> float | None:
        """The figure's, None where nothing was measured."""
        return self.estimates[figure].median if figure in self.estimates else None


@dataclass(frozen=True, slots=True)
class Group:
    """Arms that are compared with each other: same link, same sampling."""

    link: str
    sampling: str
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """Link and sampling."""
        return f"{self.link}, {self.sampling}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Of its first arm; those of the link are every arm's."""
        return self.cells[0].settings

    def best(self, figure: str, among: Callable[[Cell], bool] | None = None) -> Cell | None:
        """The lossless arm with the lowest median; None if no arm has the figure."""
        able = [c for c in self.cells if c.is_lossless and figure in c.estimates]
        able = [c for c in able if among is None or among(c)]
        return min(able, key=lambda c: c.estimates[figure].median, default=None)

    def reference(self, family: str) -> Cell | None:
        """The cell of `edge` or `edge-draft`."""
        return next((cell for cell in self.cells if cell.family == family), None)


def load(path: Path) -> list[Record]:
    """Records of `tandem bench run` in a file or in its folder, without those of warm-ups."""
    path = results_file(path)
    if not path.is_file():
        raise ConfigError(f"there is no {path}; `tandem bench run` writes one")
    records = read(path)
    own = [record for record in records if record.bench == BENCH]
    if not own:
        found = ", ".join(sorted({record.bench for record in records})) or "nothing"
        raise ConfigError(f"{path} holds no records of `tandem bench run` (it holds: {found})")
    require_same_machine(own)
    counted = [record for record in own if not record.is_warmup]
    if not counted:
        raise ConfigError(f"{path} holds warm-ups only; let `tandem bench run` go on")
    return counted


def cells_of(records: Iterable[Record]) -> list[Cell]:
    """One cell for each link, sampling and arm, in the order of their first records."""
    found: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        if record.is_warmup:
            continue
        missing = [name for name in NEEDED if name not in record.settings]
        if missing:
            raise RecordError(f"a record of `tandem bench run` lacks {', '.join(missing)}")
        key = (record.settings["link"], record.settings["sampling"], record.settings["arm"])
        found.setdefault(key, []).append(record)
    return [_cell(*key, alike) for key, alike in found.items()]


def groups_of(cells: Sequence[Cell]) -> list[Group]:
    """Cells that are compared, samplings one after the other; every group has its arms in order."""
    samplings = dict.fromkeys(cell.sampling for cell in cells)
    links = dict.fromkeys(cell.link for cell in cells)
    # A run takes its arms in an order that changes from prompt to prompt.
    in_order = sorted(cells, key=lambda c: (c.is_split, c.family, c.settings.get("gamma", 0)))
    found = (
        (link, sampling, tuple(c for c in in_order if (c.link, c.sampling) == (link, sampling)))
        for sampling in samplings
        for link in links
    )
    return [Group(*parts) for parts in found if parts[2]]


def _cell(link: str, sampling: str, arm: str, records: Sequence[Record]) -> Cell:
    settings = {
        name: value
        for name in SHARED
        if (value := _shared(f"{arm} over {link}, {sampling}", name, records)) is not None
    }
    numbers = sorted({record.repeat for record in records})
    repeats = tuple(tuple(r for r in records if r.repeat == number) for number in numbers)
    estimates = {}
    for name, figure in FIGURES.items():
        values = [figure.formula([record.results for record in repeat]) for repeat in repeats]
        known = [value for value in values if value is not None]
        if known:
            estimates[name] = Estimate.of(known)
    return Cell(link, sampling, arm, settings, repeats, estimates)


def _shared(cell: str, name: str, records: Sequence[Record]) -> Any:
    values = list(dict.fromkeys(record.settings.get(name) for record in records))
    if len(values) > 1:
        raise RecordError(
            f"{cell}: {name} is {values[0]!r} in one record and {values[1]!r} in another; "
            "report such runs from files of their own"
        )
    return values[0]
