"""`tandem bench schemes`: every scheme side by side, on the demo pair and on wider vocabularies.

For each scheme and each way of sampling: bytes up and down per token and per rejected round, with
and without headers, acceptance against its bound 1 − D, tokens per round, and what the protocol
costs each side in time. The lossy rivals run beside them: what they keep on the device, and how far
the law they write is from p.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import active_children, get_context
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.counts import check_count
from benchmarks.demo import PAIR, exported_slm
from benchmarks.machine import collect
from benchmarks.marked import replace_marked
from benchmarks.progress import progress_bar
from benchmarks.prompts import PROMPTS
from benchmarks.record import Record, keep
from benchmarks.scheme_lossy import answer_kind
from benchmarks.scheme_rounds import LocalPair
from benchmarks.scheme_table import Cell, brief, markdown, values_of
from benchmarks.schemes_picture import draw
from device_runtime.lossy import METHODS
from device_runtime.protocol.sampling import Sampling
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Device
from edge_server.checkpoint import Checkpoint
from edge_server.engine import TorchEngine
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
SAMPLINGS_HELP = f"only these: {', '.join(map(repr, SAMPLINGS))}; may be repeated"
GAMMA = 4
DOCS = Path(__file__).parents[1] / "docs" / "schemes.md"
MARK = "bench schemes"


@dataclass(frozen=True)
class Plan:
    """How much is written for each cell."""

    num_prompts: int
    tokens_each: int


FULL, QUICK = Plan(10, 40), Plan(2, 40)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench schemes`."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("bench-schemes"), help="folder of results")
    add("--scheme", action="append", choices=sorted(METHODS), help="only these; may be repeated")
    add("--sampling", action="append", choices=SAMPLINGS, metavar="NAME", help=SAMPLINGS_HELP)
    add("--vocabulary", action="append", type=int, help="only these sizes; may be repeated")
    add("--quick", action="store_true", help="8,192 ids and few tokens only")
    add("--jobs", type=int, default=0, help="processes (default: one per usable processor)")
    add("--docs", action="store_true", help="also rewrite table and picture of docs/schemes.md")
    add("--json", action="store_true", help="no progress; the results as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write results.jsonl, table.md and the pictures; exit code 0."""
    console = Console(highlight=False, stderr=True, quiet=args.json)
    vocabularies = args.vocabulary or (VOCABULARIES[:1] if args.quick else VOCABULARIES)
    wanted = [
        (num_ids, name, scheme)
        for num_ids in vocabularies
        for name in args.sampling or SAMPLINGS
        for scheme in args.scheme or METHODS
    ]
    if args.jobs:
        check_count("--jobs", args.jobs)
    args.out.mkdir(parents=True, exist_ok=True)
    bundle = exported_slm(console)
    cells = _measure(bundle, wanted, QUICK if args.quick else FULL, args.jobs, console)
    values = [values_of(cell, GAMMA) for cell in cells]
    facts = collect()
    table = "\n".join(markdown(values))
    keep(args.out, [Record.of("schemes", facts, line) for line in values], table)
    draw(values, args.out)
    if args.docs:
        replace_marked(DOCS, MARK, table)
        draw(values, DOCS.parent)
    if args.json:
        print(json.dumps(values, indent=2))
    else:
        Console(highlight=False).print(*brief(values))
    console.print(f"results, with all columns and a picture: {args.out}")
    return 0


def _measure(
    bundle: Path, wanted: Sequence[tuple[int, str, str]], plan: Plan, jobs: int, console: Console
) -> list[Cell]:
    """The cells wanted, in that order, each measured by one of several processes."""
    jobs = jobs or len(os.sched_getaffinity(0))
    # Cheap and dear cells mixed, so that the time left is told well from the time gone.
    order = random.Random(0).sample(range(len(wanted)), len(wanted))  # noqa: S311
    cells: dict[int, Cell] = {}
    with (
        progress_bar(console) as progress,
        ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread) as pool,
    ):
        task = progress.add_task("measuring", total=len(wanted))
        # Workers inherit what is blocked: Ctrl-C comes to this process alone, which ends them.
        own_mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        futures = {pool.submit(_cell, bundle, *wanted[i], plan): i for i in order}
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, own_mask)
            for future in as_completed(futures):
                cells[futures[future]] = future.result()
                progress.advance(task)
        except BaseException:
            for worker in active_children():
                worker.terminate()
            raise
    return [cells[i] for i in range(len(wanted))]


def _one_thread() -> None:
    """Each process computes on one thread: more would only fight for the same processors."""
    torch.set_num_threads(1)


def _cell(bundle: Path, num_ids: int, name: str, scheme: str, plan: Plan) -> Cell:
    devices = _devices(bundle, plan.num_prompts)
    num_own = devices[0].tokenizer.num_ids
    drafters = [device.drafter for device in devices]
    some = PROMPTS[:: len(PROMPTS) // plan.num_prompts][: plan.num_prompts]  # of all kinds
    prompts = [devices[0].encode(prompt, None) for prompt in some]
    pair = LocalPair(_llm(num_own), drafters, num_own, num_ids)
    method = METHODS[scheme]
    measured = pair.measure(
        method, SAMPLINGS[name], GAMMA, prompts, plan.tokens_each, answer_kind(method)
    )
    return Cell(num_ids, name, scheme, measured, num_own)


@lru_cache
def _devices(bundle: Path, count: int) -> list[Device]:
    return [Device(bundle, RuntimeSettings(num_threads=1)) for _ in range(count)]


@lru_cache
def _llm(num_own: int) -> TorchEngine:
    return load_engine(
        Checkpoint.open(PAIR / "llm"), num_ids=num_own, device="cpu", dtype="float32",
        cache_bytes=64 << 20,
    )  # fmt: skip
