"""`tandem bench edge`: what one edge carries, by rounds of devices and by its own streams.

The demo pair over real sockets. Devices are replayed from answers recorded beforehand, so that no
SLM runs beside the edge that is measured; `--live` has devices that draft beside them. Three arms on
the same engine: split (devices draft), edge only, and edge with the SLM as a draft model of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import edge_floors, edge_map
from benchmarks.counts import check_count, with_counts
from benchmarks.demo import PAIR, exported_slm
from benchmarks.edge_live import LivePlayer
from benchmarks.edge_load import Heard, Load, Player
from benchmarks.edge_load import run as run_load
from benchmarks.edge_replay import SAMPLING
from benchmarks.edge_report import held, markdown, values_of
from benchmarks.edge_trace import Terms, Trace, load, record, save
from benchmarks.machine import collect
from benchmarks.progress import progress_bar
from benchmarks.prompts import PROMPTS
from benchmarks.record import Record, keep
from benchmarks.verb_process import VerbProcess
from device_runtime.bundle import sha256
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.schemes import DEFAULT_SCHEME, SCHEMES, scheme_named
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Device
from edge_server.config import DEVICES, DTYPES
from edge_server.hardware import interrupting_nobody

ARMS = ("split", "edge", "edge+draft")
LIVE = "split-live"
LIMITS_S = (0.02, 0.05, 0.1, 0.2)
"""Time-per-token limits for which the sessions held are told."""
_PROMPTS_EACH = (1, 4, 16)
"""Beginnings of tales put together to one prompt: texts of different lengths."""


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    sessions: tuple[int, ...]
    warmup_s: float
    seconds: float
    repeats: int
    num_traces: int
    max_tokens: int


FULL = Plan((1, 2, 4, 8, 16, 32, 64), 4.0, 12.0, 5, 24, 64)
QUICK = Plan((1, 8, 32), 2.0, 4.0, 1, 8, 32)


class ProbeProcess(VerbProcess):
    """`benchmarks.edge_probe` with these settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__("edge", [])
        self._command = [sys.executable, "-m", "benchmarks.edge_probe", json.dumps(settings)]


@dataclass
class Bench:
    """What is measured, and what came of it."""

    plan: Plan
    settings: dict[str, Any]
    scheme: str
    gamma: int
    think_s: float
    bundle: Path
    traces: list[Trace] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=collect)

    @property
    def prompts(self) -> list[str]:
        """Of different lengths."""
        return [
            " ".join(PROMPTS[(i + j) % len(PROMPTS)] for j in range(_PROMPTS_EACH[i % 3]))
            for i in range(self.plan.num_traces)
        ]

    def record_traces(self) -> None:
        """Real answers by the real device."""
        device = Device(self.bundle, RuntimeSettings(num_threads=1))
        with ProbeProcess(self.settings) as probe:
            self.traces = asyncio.run(
                record(
                    probe.line()["url"], device, self.prompts, scheme=self.scheme, gamma=self.gamma,
                    sampling=SAMPLING, num_tokens=self.plan.max_tokens,
                )
            )  # fmt: skip

    def capacity(self, num_sessions: int) -> float:
        """Answers per second of the closed loop with so many sessions, once it was measured."""
        rates = [
            record.results["verified_tokens_per_s"]
            for record in self.records
            if (record.settings["arm"], record.settings["sessions"]) == ("split", num_sessions)
        ]
        return float(rates[0]) / self.plan.max_tokens if rates else 0.0

    def measure(
        self, arm: str, num_sessions: int, repeat: int, *, arrivals_per_s: float = 0.0,
        length_ratio: float = 0.0,
    ) -> Heard:  # fmt: skip
        """One run on a fresh edge."""
        settings = self.settings | {"length_ratio": length_ratio}
        if arm == "edge+draft":
            settings |= {"edge_draft": str(PAIR / "slm"), "edge_gamma": self.gamma}
        plan = self.plan
        work = Load(
            arm, num_sessions, plan.warmup_s, plan.seconds, self.think_s if arm == "split" else 0.0,
            arrivals_per_s, num_ids=_num_ids(),
        )  # fmt: skip
        with ProbeProcess(settings) as probe:
            line = probe.line()
            with interrupting_nobody():  # devices are elsewhere: their load must not slow the edge
                heard = asyncio.run(run_load(self._player(line["url"], work)))
        values = {
            "arm": arm, "sessions": num_sessions, "think_s": None if arm == LIVE else work.think_s,
            "length_ratio": length_ratio, "arrivals_per_s": arrivals_per_s or None,
            "scheme": self.scheme, "gamma": self.gamma, "temperature": SAMPLING.temperature,
            "top_p": SAMPLING.top_p, "dtype": line["dtype"], "replicas": line["replicas"],
            "max_tokens": plan.max_tokens, "alpha": self._alpha(arm, heard), **values_of(heard),
        }  # fmt: skip
        self.records.append(Record.of("edge", self.facts, values, repeat=repeat))
        return heard

    def _player(self, url: str, work: Load) -> Player:
        if work.arm != LIVE:
            return Player(url, self.traces, work)
        return LivePlayer(
            url, work, self.bundle, self.prompts, scheme=scheme_named(self.scheme),
            gamma=self.gamma, sampling=SAMPLING, num_tokens=self.plan.max_tokens,
        )  # fmt: skip

    def _alpha(self, arm: str, heard: Heard) -> float | None:
        """Of devices' drafts."""
        if arm == LIVE:
            return heard.num_accepted / heard.num_judged if heard.num_judged else None
        judged = sum(trace.judged for trace in self.traces)
        accepted = sum(trace.accepted for trace in self.traces)
        return accepted / judged if arm == "split" else None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench edge`."""
    add = parser.add_argument
    add("--out", type=Path, default=Path("bench-edge"), help="folder of results")
    add("--arm", action="append", choices=ARMS, help="only these; may be repeated")
    add("--sessions", action="append", type=int, help="only so many; may be repeated")
    add("--scheme", choices=sorted(SCHEMES), default=DEFAULT_SCHEME, help="of the split arm")
    add("--gamma", type=int, default=4, help="draft length of both drafting arms (default: 4)")
    add("--max-tokens", type=int, help="length of every answer (default: 64; with --quick 32)")
    add("--think-ms", type=float, help="device and link between a verdict and the next block "
        "(default: 0; of the map 140)")  # fmt: skip
    add("--device", choices=DEVICES, default="auto", help="of the edge (default: auto)")
    add("--dtype", choices=("auto", *DTYPES), default="auto", help="of the edge (default: auto)")
    add("--replicas", type=int, default=1, help="of the edge's model, on a CPU (default: 1)")
    add("--threads", type=int, default=0,
        help="of each replica (default: all processors but one, divided among them)")  # fmt: skip
    add("--trace", type=Path, help="recorded answers: read if there, else written")
    add("--live", action="store_true",
        help="beside the replayed devices, ones that draft here (arm split-live)")  # fmt: skip
    add("--repeats", type=int, help="of each run")
    add("--quick", action="store_true", help="few sessions, short runs, once each")
    add("--map", action="store_true",
        help="only the map: where each arm needs the least engine time")  # fmt: skip
    add("--gpu-floors", action="store_true",
        help="only an 8B shape with random weights on a GPU against its floors")  # fmt: skip
    add("--json", action="store_true", help="no progress; the results as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Measure, print tables, write results.jsonl, table.md and pictures.

    Exit code 0; 1 where --gpu-floors found one missed.
    """
    console = Console(highlight=False, soft_wrap=True, quiet=args.json)
    is_kept = True
    if args.gpu_floors:
        records, text, is_kept = edge_floors.run(args.out, console)
    elif args.map:
        _plan(args)  # refuses what cannot be
        records, text = edge_map.run(args, console)
    else:
        records, text = _sessions(args, console)
    keep(args.out, records, text)
    console.print(text, markup=False)
    console.print(f"results: {args.out}")
    if args.json:
        sys.stdout.write(json.dumps([json.loads(record.to_line()) for record in records]) + "\n")
    return 0 if is_kept else 1


def _sessions(args: argparse.Namespace, console: Console) -> tuple[list[Record], str]:
    plan = _plan(args)
    terms = _terms(args, plan) if args.trace else None  # it reads all weights
    if args.trace and not args.trace.parent.is_dir():
        raise ConfigError(f"--trace: there is no folder {args.trace.parent}; make it first")
    traces = load(args.trace, terms) if terms and args.trace.exists() else []
    args.out.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": str(PAIR / "llm"), "device": args.device, "dtype": args.dtype, "cache_gib": 1.0,
        "replicas": args.replicas,
        "num_threads": args.threads or max(1, (len(os.sched_getaffinity(0)) - 1) // args.replicas),
    }  # fmt: skip
    bundle = exported_slm(console)
    think_s = (args.think_ms or 0.0) / 1e3
    bench = Bench(plan, settings, args.scheme, args.gamma, think_s, bundle, traces)
    if not traces:
        bench.record_traces()
        if terms:
            save(args.trace, bench.traces, terms)
    runs = list(_runs(bench, (*(args.arm or ARMS), *((LIVE,) if args.live else ()))))
    with progress_bar(console) as progress:
        task = progress.add_task("", total=len(runs))
        for arm, num_sessions, repeat, (ratio, share) in runs:
            progress.update(task, description=f"{arm}, {num_sessions} sessions")
            rate = share * bench.capacity(num_sessions)
            bench.measure(arm, num_sessions, repeat, arrivals_per_s=rate, length_ratio=ratio)
            text = markdown(bench.records, LIMITS_S)
            keep(args.out, bench.records, text)  # it takes long: who ends it has this much
            progress.advance(task)
    from benchmarks.edge_picture import draw

    draw(bench.records, args.out / "edge.png")
    return [*bench.records, *held(bench.records, LIMITS_S)], text


def _plan(args: argparse.Namespace) -> Plan:
    """ConfigError for numbers that cannot be."""
    plan = with_counts(QUICK if args.quick else FULL, args, "repeats", "max_tokens")
    check_count("--gamma", args.gamma)
    check_count("--replicas", args.replicas)
    if args.threads:
        check_count("--threads", args.threads)
    if args.think_ms is not None and not 0 <= args.think_ms < math.inf:
        raise ConfigError(f"--think-ms is {args.think_ms}; it must be 0 or more")
    for num_sessions in args.sessions or ():
        check_count("--sessions", num_sessions)
    return replace(plan, sessions=tuple(args.sessions or plan.sessions))


def _terms(args: argparse.Namespace, plan: Plan) -> Terms:
    """What this run's answers are recorded with."""
    llm, slm = (sha256(PAIR / name / "model.safetensors")[:12] for name in ("llm", "slm"))
    return Terms(
        llm, slm, args.scheme, args.gamma, SAMPLING.temperature, SAMPLING.top_p, plan.max_tokens,
        plan.num_traces,
    )  # fmt: skip


def _runs(bench: Bench, arms: Sequence[str]) -> Iterator[tuple[str, int, int, tuple[float, float]]]:
    """Arm, sessions, repeat, length ratio and share of the capacity at which answers arrive.

    Closed loops of every size; then the largest again, length-aware, and as an open loop.
    """
    most = max(bench.plan.sessions)
    for repeat in range(bench.plan.repeats):
        for arm in arms:
            for num_sessions in bench.plan.sessions:
                yield arm, num_sessions, repeat, (0.0, 0.0)
        if "split" in arms:
            yield "split", most, repeat, (2.0, 0.0)
            yield "split", most, repeat, (0.0, 0.5)
            yield "split", most, repeat, (0.0, 0.8)


def _num_ids() -> int:
    from edge_server.facts import read_tokens

    return len(read_tokens(PAIR / "llm"))
