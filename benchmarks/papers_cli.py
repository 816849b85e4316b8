"""`tandem bench papers`: the papers' grid as it ran, and their models beside it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.live_models import PROB_BITS, Prediction, paper_speed_up, predict
from benchmarks.marked import replace_marked
from benchmarks.record import RESULTS_FILE, Record
from benchmarks.report.cells import Cell, Group, cells_of, groups_of, load
from benchmarks.report.estimates import Estimate
from benchmarks.report.tables import Entry, Table
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.schemes import DEFAULT_SCHEME

DOCS = Path(__file__).parents[1] / "docs" / "reproduction.md"
RIVALS = ("dssd", "dsd")
OURS = (DEFAULT_SCHEME, "coupled", "dssd-packed")
"""The first that was measured is compared: which one is best in a cell is partly luck."""
NAMES = ("arm", "link", "sampling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench papers`."""
    add = parser.add_argument
    add("results", type=Path, nargs="?", default=Path("bench-run", RESULTS_FILE),
        metavar="RESULTS.jsonl", help="of tandem bench run --preset papers, or others")  # fmt: skip
    add("--docs", metavar="MARK", help="also write the tables into docs/reproduction.md, there")
    add("--json", action="store_true", help="the tables as one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the tables; exit code 0."""
    records = load(args.results)
    cells = cells_of(records)
    num_ids = _num_ids(records, cells)
    ratios = list(_ratios(records, groups_of(cells)))
    predictions = [
        prediction
        for sampling in dict.fromkeys(cell.sampling for cell in cells)
        for prediction in predict([c for c in cells if c.sampling == sampling], num_ids)
    ]
    if args.json:
        print(json.dumps({"ratios": ratios, "predictions": [_line(p) for p in predictions]}))
        return 0
    tables = (_ratio_table(ratios), _model_table(predictions), _speed_ups(predictions))
    text = "\n\n".join(tables)
    print(text)
    if args.docs:
        replace_marked(DOCS, args.docs, text)
    return 0


def _num_ids(records: Sequence[Record], cells: Sequence[Cell]) -> int:
    """Size of the vocabulary; ConfigError where the records cannot fill the tables."""
    lacks_first = any("first_tokens" not in answer for cell in cells for answer in cell.answers)
    if lacks_first or "num_ids" not in records[0].settings:
        raise ConfigError(
            "the records are of an earlier version and lack first_tokens or num_ids; write them anew "
            "with `tandem bench run`"
        )
    for cell in cells:
        if not any("tpot_s" in answer for answer in cell.answers):
            raise ConfigError(
                f"{cell.arm} over {cell.link} has no time per token: no answer has a second one; "
                "give `tandem bench run` --max-tokens 2 or more"
            )
    return int(records[0].settings["num_ids"])


def _ratios(records: Sequence[Record], groups: Sequence[Group]) -> Iterator[dict[str, Any]]:
    """Per link, sampling and gamma: tokens per second, ours over the rivals, prompt by prompt.

    Of a ratio its median, an interval of that median, and how often such a one holds it.
    """
    families = {cell.family for group in groups for cell in group.cells}
    ours = next((family for family in OURS if family in families), OURS[0])
    for group in groups:
        for gamma in sorted({c.settings["gamma"] for c in group.cells if c.is_split}):
            own = [c for c in group.cells if c.is_split and c.settings["gamma"] == gamma]
            speeds = {cell.family: _speeds(records, cell) for cell in own}
            line: dict[str, Any] = {"link": group.link, "sampling": group.sampling, "gamma": gamma}
            edge = group.reference("edge")
            if edge is not None:
                line["edge"] = median(_speeds(records, edge).values())
            line |= {family: median(found.values()) for family, found in speeds.items()}
            for rival in RIVALS:
                ratios = _paired(speeds.get(ours, {}), speeds.get(rival, {}))
                if ratios:
                    found = Estimate.of(ratios)
                    line["ours"] = ours
                    line[f"over_{rival}"] = found.median, found.low, found.high, found.coverage
            yield line


def _speeds(records: Sequence[Record], cell: Cell) -> dict[tuple[str, int], float]:
    """Tokens per second after those that came with the first one, by prompt and repeat."""
    place = (cell.link, cell.sampling, cell.arm)
    return {
        (r.settings["prompt"], r.repeat): 1 / r.results["tpot_s"]
        for r in records
        if tuple(r.settings[name] for name in ("link", "sampling", "arm")) == place
        and "tpot_s" in r.results
    }


def _paired(
    ours: dict[tuple[str, int], float], theirs: dict[tuple[str, int], float]
) -> list[float]:
    """Ours over theirs, of the same prompt and repeat."""
    return [ours[key] / theirs[key] for key in sorted(ours.keys() & theirs.keys())]


def _ratio_table(lines: Sequence[dict[str, Any]]) -> str:
    families = [f for f in ("edge", *RIVALS, *OURS) if any(f in line for line in lines)]
    ours = next((line["ours"] for line in lines if "ours" in line), OURS[0])
    heads = ("link", "sampling", "gamma", *families, *(f"{ours} over {rival}" for rival in RIVALS))
    rows = [
        (
            *_entries(line["link"], line["sampling"], str(line["gamma"])),
            *_entries(*(f"{line[f]:.1f}" if f in line else "–" for f in families)),
            *(_ratio(line, rival) for rival in RIVALS),
        )
        for line in lines
    ]
    note = (
        "Tokens per second after those that came with the first one: medians over prompts and "
        f"repeats. Ratios are of the same prompt and repeat; median{_brackets(lines)}. All traffic is "
        "billed, "
        f"headers included; rows of `dsd` and `dssd` have {PROB_BITS} bits a probability."
    )
    return _noted(Table(heads, tuple(rows)), note)


def _brackets(lines: Sequence[dict[str, Any]]) -> str:
    ratios = [
        line[f"over_{rival}"] for line in lines for rival in RIVALS if f"over_{rival}" in line
    ]
    if not ratios:
        return ""
    least = min(coverage for *_, coverage in ratios)
    return f", and in brackets a range that holds it with a chance of at least {least:.0%}"


def _ratio(line: dict[str, Any], rival: str) -> Entry:
    if f"over_{rival}" not in line:
        return Entry("–")
    middle, low, high, _ = line[f"over_{rival}"]
    return Entry(f"{middle:.2f}", f"[{low:.2f}, {high:.2f}]")


def _line(prediction: Prediction) -> dict[str, Any]:
    cell = prediction.cell
    return {
        "link": cell.link, "sampling": cell.sampling, "arm": cell.arm, "live_s": prediction.live_s,
        "predicted_s": prediction.predicted_s, "error": prediction.error,
        "paper_s": prediction.paper_s, "is_calibration": prediction.is_calibration,
    }  # fmt: skip


def _model_table(predictions: Sequence[Prediction]) -> str:
    heads = ("live, ms", "predicted, ms", "error", "paper's equation, ms")
    rows = []
    for p in predictions:
        paper = (
            "–" if p.paper_s is None else f"{1e3 * p.paper_s:.1f} ({p.paper_s / p.live_s - 1:+.0%})"
        )
        error = "calibration" if p.is_calibration else f"{p.error:+.1%}"
        times = (f"{1e3 * p.live_s:.1f}", f"{1e3 * p.predicted_s:.1f}")
        rows.append((*_names(p), *_entries(*times, error, paper)))
    told = [abs(p.error) for p in predictions if p.cell.is_split and not p.is_calibration]
    within = sum(error <= 0.1 for error in told)
    note = (
        f"Time per token. Within 10 %: {within} of {len(told)} predictions of split arms"
        + (f"; largest error {max(told):.1%}." if told else ".")
        + " Streams do not count: the model gives them the time of their calibration over every link."
        + " Predicted: compute of the arm's calibration cell, round trips, and the bytes of this "
        "cell's rounds with headers. The paper's equations (DSSD 5 and 9) leave out headers and one "
        "direction each."
    )
    return _noted(Table((*NAMES, *heads), tuple(rows)), note)


def _speed_ups(predictions: Sequence[Prediction]) -> str:
    rows = []
    edges = {(p.cell.link, p.cell.sampling): p for p in predictions if p.cell.arm == "edge"}
    for p in predictions:
        edge = edges.get((p.cell.link, p.cell.sampling))
        if edge is None or not p.cell.is_split:
            continue
        found = f"{paper_speed_up(p, edge):.2f}", f"{edge.live_s / p.live_s:.2f}"
        rows.append((*_names(p), *_entries(*found)))
    heads = (*NAMES, "TK-SLT's S", "live speed-up over the edge alone")
    note = (
        "S by TK-SLT's equation 11, from the measured alpha and draft time and the predicted round: "
        "it takes every place of a block for equally likely to be accepted."
    )
    return _noted(Table(heads, tuple(rows)), note)


def _names(prediction: Prediction) -> tuple[Entry, ...]:
    """For the columns NAMES."""
    cell = prediction.cell
    return _entries(cell.arm, cell.link, cell.sampling)


def _entries(*texts: str) -> tuple[Entry, ...]:
    return tuple(map(Entry, texts))


def _noted(table: Table, note: str) -> str:
    return f"{table.markdown()}\n\n{note}"
