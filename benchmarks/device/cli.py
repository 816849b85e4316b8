"""`tandem bench device`: speed and memory of the drafter on this machine, alone or beside its peers.

Without a bundle, one is made with random weights: speed depends on a model's shape alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from benchmarks.counts import check_count
from benchmarks.device import measure, report
from benchmarks.device.arms import ArmProcess
from benchmarks.device.measure import Measured, Phase
from benchmarks.device.models import (
    Contender,
    PeerError,
    of_bundle,
    own,
    peer_python,
    peers,
)
from benchmarks.machine import collect
from benchmarks.record import Record, keep
from benchmarks.report.tables import csv_of
from benchmarks.shapes import SHAPES
from device_runtime.bundle import load_manifest
from device_runtime.energy.find import KINDS, open_meter
from device_runtime.energy.meter import EnergyMeter, MeterError
from device_runtime.protocol.errors import ConfigError
from device_runtime.settings import RuntimeSettings
from export.choose import WEIGHTS

CONTEXTS = (32, 512, 2048)
MIN_TOKENS = 8
"""Longer contexts get half of the tokens, and a block of drafts has 4."""
NUM_STARTS = 5
ENERGY_S = 10.0
MEASURED_KINDS = tuple(kind for kind in KINDS if kind not in ("auto", "modelled", "nvml"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench device`."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bundle", type=Path, help="measure this bundle")
    what.add_argument(
        "--shape", choices=SHAPES, default="smollm2-135m",
        help="or random weights of this shape (default: smollm2-135m)",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=[kind for kind in WEIGHTS if kind != "auto"], default="int4",
        help="of the random model (default: int4)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=_num_cpus(), help="default: every CPU")
    parser.add_argument(
        "--spinning", action=argparse.BooleanOptionalAction, default=True,
        help="Tandem's threads spin in a run (default: they do)",
    )  # fmt: skip
    parser.add_argument(
        "--contexts", type=int, nargs="+", metavar="TOKENS",
        help="tokens before the first that is timed (default: those of 32, 512 and 2048 that fit)",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=12, help="at the first context (default: 12)")
    parser.add_argument("--tokens", type=int, default=64, help="written in a round (default: 64)")
    parser.add_argument("--peers", action="store_true", help="measure other projects beside it")
    parser.add_argument(
        "--peers-python", type=Path,
        help="a Python that has them (default: one is made in .bench/peers; TORCH_INDEX names an "
        "index for its torch, as for make)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("bench-device"), help="folder of results")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, no table")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write table.md, results.csv and results.jsonl; exit code 0."""
    if args.peers and args.bundle:
        raise ConfigError("--peers needs the checkpoint too: use --shape instead of --bundle")
    check_count("--rounds", args.rounds)
    check_count("--threads", args.threads)
    if args.tokens < MIN_TOKENS:
        raise ConfigError(f"--tokens {args.tokens}: at least {MIN_TOKENS} are needed")
    console = Console(highlight=False, soft_wrap=True, stderr=True, quiet=args.json)
    contenders = _contenders(args, console)
    args.contexts = _fitting(args, load_manifest(contenders[0].model).context_len, console)
    args.out.mkdir(parents=True, exist_ok=True)
    log = args.out / "contenders.log"
    log.write_text("")
    done = _measure(args, contenders, log, console)
    lines = "\n".join(report.markdown(done))
    rows = list(report.records(done))
    (args.out / "results.csv").write_text(csv_of(rows), encoding="utf-8")
    facts = collect()
    records = [_record(facts, row) for row in rows]
    keep(args.out, records, lines)
    print(json.dumps([json.loads(r.to_line()) for r in records]) if args.json else lines)
    console.print(f"results: {args.out}")
    return 0


def _num_cpus() -> int:
    return os.cpu_count() or 1


def _contenders(args: argparse.Namespace, console: Console) -> list[Contender]:
    if args.bundle:
        return [of_bundle(args.bundle, load_manifest(args.bundle).weights)]
    found = [own(args.shape, args.weights, console)]
    if args.peers:
        python = peer_python(args.peers_python, console)
        found += peers(args.shape, args.weights, python, console)
    return found


def _fitting(args: argparse.Namespace, context_len: int, console: Console) -> tuple[int, ...]:
    """The contexts after which all tokens still lie in the model's positions.

    Beyond them the drafter goes on with the tail of the text: a short context under a long one's name.
    """
    longest = context_len - args.tokens
    wanted = args.contexts or CONTEXTS
    fits = tuple(context for context in wanted if 1 <= context <= longest)
    wrong = ", ".join(str(context) for context in wanted if context not in fits)
    limit = f"the model has {context_len} positions, so with --tokens {args.tokens} they end at"
    if not fits or (wrong and args.contexts):
        raise ConfigError(f"--contexts {wrong}: {limit} {max(0, longest)}")
    if wrong:
        console.print(f"contexts left out: {wrong}; {limit} {longest}")
    return fits


def _measure(
    args: argparse.Namespace, contenders: list[Contender], log: Path, console: Console
) -> report.Run:
    max_tokens = max(args.contexts) + args.tokens
    settings = RuntimeSettings(
        num_threads=args.threads, max_tokens=max_tokens, allow_spinning=args.spinning
    )
    spec = {
        "num_threads": args.threads, "max_tokens": max_tokens, "settings": asdict(settings),
    }  # fmt: skip
    measured = Measured()
    plan = measure.phases(args.contexts, args.rounds, args.tokens)
    with contextlib.ExitStack() as stack:
        arms = _start(contenders, spec, log, stack, console)
        reader = Contender("memory", "memory", contenders[0].python, log, "")
        memory = stack.enter_context(ArmProcess(reader, spec, log))
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("measuring", total=_num_steps(plan, arms))
            measure.alternate(arms, memory, plan, measured, lambda: progress.advance(task))
        _measure_energy(arms[0], plan, measured, console)
        versions = {arm.contender.name: arm.version for arm in arms}
        kept = tuple(arm.contender for arm in arms)
    starts = measure.start_times(lambda: ArmProcess(contenders[0], spec, log), NUM_STARTS)
    measured.starts_s.extend(starts)
    manifest = load_manifest(contenders[0].model)
    item_bytes = np.dtype(manifest.cache_dtype).itemsize
    return report.Run(
        shape=args.bundle.name if args.bundle else args.shape,
        num_threads=args.threads,
        contexts=args.contexts,
        contenders=kept,
        versions=versions,
        cache_bytes_per_token=(
            manifest.num_layers * 2 * manifest.num_kv_heads * manifest.head_size * item_bytes
        ),
        spinning=args.spinning,
        measured=measured,
    )


def _num_steps(plan: list[Phase], arms: list[ArmProcess]) -> int:
    return len(arms) * sum(phase.num_rounds + 1 for phase in plan)


def _start(
    contenders: list[Contender], spec: dict[str, Any], log: Path, stack: contextlib.ExitStack,
    console: Console,
) -> list[ArmProcess]:  # fmt: skip
    """Those that start; Tandem's own must."""
    arms: list[ArmProcess] = []
    for contender in contenders:
        try:
            arms.append(stack.enter_context(ArmProcess(contender, spec, log)))
        except PeerError as error:
            if not arms:
                raise
            console.print(f"{contender.name} is left out: {error}")
    return arms


def _measure_energy(
    arm: ArmProcess, plan: list[Phase], measured: Measured, console: Console
) -> None:
    meter = _meter()
    if meter is None:
        return
    console.print(f"measuring energy ({meter.facts.name}) …")
    with contextlib.closing(meter):
        found = measure.energy(arm, meter, plan, ENERGY_S)
    measured.joules_per_token, measured.idle_w = found
    measured.meter = meter.facts


def _meter() -> EnergyMeter | None:
    """The first sensor there is; an estimate would say nothing new."""
    for kind in MEASURED_KINDS:
        try:
            return open_meter(kind)
        except MeterError:
            continue
    return None


def _record(facts: dict[str, Any], row: dict[str, Any]) -> Record:
    values = {name: value for name, value in row.items() if name != "repeat"}
    repeat = row["repeat"]
    return Record.of("device", facts, values, repeat=repeat, is_warmup=repeat == 0)
