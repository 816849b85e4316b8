"""`tandem bench schemes`: every scheme side by side, on the demo pair and on wider vocabularies.

For each scheme and each way of sampling: bytes up and down per token, down per rejected round,
acceptance against its bound 1 − D, tokens per round, and what the protocol costs each side in time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.demo import PAIR, exported_slm
from benchmarks.machine import collect
from benchmarks.overhead import Direction, wire_bytes
from benchmarks.prompts import PROMPTS
from benchmarks.record import Record, write
from benchmarks.scheme_rounds import LocalPair, Measured
from benchmarks.schemes_picture import draw
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Device
from edge_server.checkpoint import Checkpoint
from edge_server.loading import load_engine

VOCABULARIES = (8_192, 32_000, 49_152, 151_936)
SAMPLINGS = {
    "T=1": Sampling(),
    "T=0.8": Sampling(temperature=0.8),
    "T=1, top-p 0.95": Sampling(top_p=0.95),
    "T=0.7, top-p 0.9": Sampling(temperature=0.7, top_p=0.9),
    "T=1, top-k 40": Sampling(top_k=40),
    "greedy": Sampling(temperature=0.0),
}
GAMMA = 4
ROUNDED = ("dssd", "dssd-fp32")
"""Exact up to the float format of the row they send."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One line of the table."""

    num_ids: int
    sampling: str
    scheme: str
    measured: Measured


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench schemes`."""
    parser.add_argument("--out", type=Path, default=Path("bench-schemes"), help="folder of results")
    parser.add_argument("--scheme", action="append", choices=sorted(SCHEMES), help="only these")
    parser.add_argument("--vocabulary", action="append", type=int, help="only these sizes")
    parser.add_argument("--quick", action="store_true", help="8,192 ids and few tokens only")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write results.jsonl, table.md and schemes.png; exit code 0."""
    console = Console(highlight=False, stderr=True)
    vocabularies = args.vocabulary or (VOCABULARIES[:1] if args.quick else VOCABULARIES)
    schemes = args.scheme or sorted(SCHEMES)
    device = Device(exported_slm(console), RuntimeSettings(num_threads=1))
    prompts = [device.encode(prompt, None) for prompt in PROMPTS[: 2 if args.quick else 5]]
    cells = list(
        _measure(device, vocabularies, schemes, prompts, 40 if args.quick else 100, console)
    )
    args.out.mkdir(parents=True, exist_ok=True)
    facts = collect()
    write(args.out / "results.jsonl", [Record.of("schemes", facts, _values(c)) for c in cells])
    markdown = "\n".join(table(cells))
    (args.out / "table.md").write_text(markdown + "\n", encoding="utf-8")
    draw(cells, args.out / "schemes.png")
    print(markdown)
    console.print(f"results: {args.out}")
    return 0


def _measure(
    device: Device, vocabularies: Sequence[int], schemes: Sequence[str],
    prompts: Sequence[list[int]], tokens_each: int, console: Console,
) -> Iterator[Cell]:  # fmt: skip
    num_own = device.tokenizer.num_ids
    checkpoint = Checkpoint.open(PAIR / "llm")
    engine = load_engine(checkpoint, num_ids=num_own, device="cpu", dtype="float32")
    combinations = [(v, n, s) for v in vocabularies for n in SAMPLINGS for s in schemes]
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(combinations))
        pair: LocalPair | None = None
        for num_ids, name, scheme in combinations:
            if pair is None or pair.num_ids != num_ids:
                pair = LocalPair(engine, device.drafter, num_own, num_ids)
            measured = pair.measure(SCHEMES[scheme], SAMPLINGS[name], GAMMA, prompts, tokens_each)
            yield Cell(num_ids, name, scheme, measured)
            progress.advance(task)


COLUMNS = (
    "ids | sampling | scheme | bytes up per token | bytes down per token | with headers, up + down "
    "| down per rejected round: median | p90 | alpha | 1 − D | tokens per round | more | device µs "
    "per round | edge µs per round"
)


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """Markdown lines."""
    yield f"| {COLUMNS} |"
    yield "|" + "---|" * (COLUMNS.count("|") + 1)
    for cell in cells:
        values = _values(cell)
        name = f"{cell.scheme} (row rounded)" if cell.scheme in ROUNDED else cell.scheme
        more = values["more_requests"] / max(1, values["rejected"])
        yield (
            f"| {cell.num_ids:,} | {cell.sampling} | {name} "
            f"| {values['bytes_up_per_token']:.1f} | {values['bytes_down_per_token']:.1f} "
            f"| {values['wire_bytes_per_token']:.0f} "
            f"| {_shown(values['bytes_down_rejected_p50'])} "
            f"| {_shown(values['bytes_down_rejected_p90'])} "
            f"| {_shown(values['alpha'], 3)} | {_shown(values['overlap'], 3)} "
            f"| {values['tokens_per_round']:.2f} | {more:.1%} "
            f"| {values['device_round_s'] * 1e6:.0f} | {values['edge_round_s'] * 1e6:.0f} |"
        )


def _shown(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _values(cell: Cell) -> dict[str, Any]:
    """One cell as a record holds it."""
    measured, counts = cell.measured, cell.measured.counts
    tokens = measured.num_tokens
    on_wire = sum(
        wire_bytes(size, direction)
        for sizes, direction in (
            (measured.bytes_up, Direction.UP),
            (measured.bytes_down, Direction.DOWN),
        )
        for size in sizes
    )
    rejected = measured.bytes_down_rejected
    return {
        "scheme": cell.scheme,
        "lossless": SCHEMES[cell.scheme].lossless,
        "sampling": cell.sampling,
        "num_ids": cell.num_ids,
        "gamma": GAMMA,
        "rounds": counts.rounds,
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "rejected": counts.rejected,
        "bonus": counts.bonus,
        "more_requests": counts.more_requests,
        "alpha": counts.alpha,
        "overlap": float(np.mean(measured.overlaps)),
        "tokens_per_round": tokens / counts.rounds,
        "bytes_up_per_token": sum(measured.bytes_up) / tokens,
        "bytes_down_per_token": sum(measured.bytes_down) / tokens,
        "wire_bytes_per_token": on_wire / tokens,
        "bytes_down_rejected_p50": float(np.median(rejected)) if rejected else None,
        "bytes_down_rejected_p90": float(np.percentile(rejected, 90)) if rejected else None,
        "device_round_s": statistics.median(measured.device_s),
        "edge_round_s": statistics.median(measured.edge_s),
    }
