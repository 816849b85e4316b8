"""`tandem bench run`: the grid, over real sockets through emulated links; goes on where it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.counts import with_counts
from benchmarks.demo import PAIR, exported_slm
from benchmarks.machine import collect
from benchmarks.progress import progress_bar
from benchmarks.projection import read_bandwidth
from benchmarks.prompts import PROMPT_SET
from benchmarks.record import RESULTS_FILE, Record, append, read, without_cut_line
from benchmarks.run.answers import write_answer
from benchmarks.run.joules import AUTO, NONE, board_values, modelled_board, radio_values
from benchmarks.run.plan import Arm, Plan, Task, missing, sampling_values
from benchmarks.run.presets import PRESETS
from benchmarks.run.stage import EdgeSpec, RunningLink, TracedEdge, running_edges, running_links
from benchmarks.schemes import SAMPLINGS
from benchmarks.wide_pair import wide_bundle, wide_checkpoint
from device_runtime.energy.find import KINDS
from device_runtime.protocol.errors import ConfigError
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Device
from hw_profiles import LinkProfile, load_link


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench run`."""
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="full", help="a grid with a name (default: full)")
    add("--quick", dest="preset", action="store_const", const="quick", help="= --preset quick")
    add("--out", type=Path, default=Path("bench-run"), metavar="DIR",
        help="folder of results; what is there already is not measured again")  # fmt: skip
    add("--arm", action="append", metavar="ARM",
        help="only these: edge, edge-draft, device, SCHEME/GAMMA; may be repeated")  # fmt: skip
    add("--link", action="append", metavar="NAME", help="only these link profiles, or TOML files")
    add("--sampling", action="append", choices=SAMPLINGS, help="only these")
    add("--prompt-kind", action="append", choices=sorted({p.kind for p in PROMPT_SET}),
        help="only prompts of these kinds")  # fmt: skip
    add("--repeats", type=int, help="of every answer")
    add("--max-tokens", type=int, help="length of every answer")
    add("--bundle", type=Path, help="device's model (default: the demo pair's)")
    add("--model", type=Path, help="edge's model (default: the demo pair's)")
    add("--edge-draft", type=Path, help="model of the arm edge-draft (default: the demo pair's)")
    add("--num-ids", type=int, metavar="N",
        help="widen the demo pair's laws to N ids (benchmarks/wide_vocabulary.py)")  # fmt: skip
    add("--threads", type=int, default=1, help="of each half (default: 1)")
    add("--energy", choices=(*KINDS, NONE), default=AUTO,
        help="the device's joules: modelled (default: auto, and none where nothing is known of this "
        "machine); meters are refused, as they see edges and links, too")  # fmt: skip
    add("--profile", metavar="NAME", help="device profile behind the model; default: this board's")
    add("--slow-start", action="store_true", help="connections begin with ten packets a round trip")
    add("--json", action="store_true", help="no progress; where the results are, as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure what is missing; exit code 0."""
    console = Console(highlight=False, soft_wrap=True, stderr=True, quiet=args.json)
    plan = plan_from(args)
    for link in plan.links:
        load_link(link)  # a wrong name shows before anything is started
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args, plan, console)
    num_there = plan.num_tasks - sum(len(bench.missing(link)) for link in plan.links)
    if num_there:
        console.print(f"{num_there} of {plan.num_tasks} answers are there already")
    bench.measure()
    words = f"{bench.path} holds {plan.num_tasks} answers; next: tandem bench report {bench.path}"
    print(json.dumps({"results": str(bench.path)}) if args.json else words)
    return 0


def plan_from(args: argparse.Namespace) -> Plan:
    """The preset, narrowed by what was given; ConfigError for what cannot be."""
    plan = with_counts(PRESETS[args.preset], args, "repeats", "max_tokens")
    if args.arm:
        plan = replace(plan, arms=tuple(Arm.parse(name) for name in args.arm))
    if args.link:
        plan = replace(plan, links=tuple(args.link))
    if args.sampling:
        plan = replace(plan, samplings=tuple(args.sampling))
    if args.prompt_kind:
        kept = tuple(prompt for prompt in plan.prompts if prompt.kind in args.prompt_kind)
        plan = replace(plan, prompts=kept or tuple(
            prompt for prompt in PROMPT_SET if prompt.kind in args.prompt_kind)[:2])  # fmt: skip
    return plan


@dataclass(slots=True)
class Models:
    """What both halves run."""

    bundle: Path
    edges: dict[bool, EdgeSpec]
    names: dict[str, str]
    """llm and slm, for the records."""


class Bench:
    """Carries a plan out, link by link, into one file."""

    def __init__(self, args: argparse.Namespace, plan: Plan, console: Console) -> None:
        self.path: Path = args.out / RESULTS_FILE
        self._args = args
        self._plan = plan
        self._console = console
        self._board = modelled_board(args.energy, args.profile)
        if self._board is None and args.energy == AUTO:
            console.print("no joules: no profile tells this machine's powers; --profile names one")
        self._facts = collect()
        if self.path.exists():
            without_cut_line(self.path)
        self._records = read(self.path) if self.path.exists() else []

    def missing(self, link: str) -> list[Task]:
        """Answers over this link that the file lacks; warm-ups only before such."""
        tasks = missing(list(self._plan.tasks(link)), self._records)
        return tasks if any(not task.is_warmup for task in tasks) else []

    def measure(self) -> None:
        """Everything that is missing."""
        num_missing = sum(len(self.missing(link)) for link in self._plan.links)
        if not num_missing:
            return
        models = self._models()
        self._facts["read_one_core_bytes_per_s"] = read_bandwidth()
        device = Device(models.bundle, RuntimeSettings(num_threads=self._args.threads))
        with ExitStack() as stack:
            edges = stack.enter_context(running_edges(models.edges, self._args.out))
            progress = stack.enter_context(progress_bar(self._console))
            bar = progress.add_task("", total=num_missing)
            for link in self._plan.links:
                if tasks := self.missing(link):
                    self._measure_link(link, tasks, device, edges, models, (progress, bar))

    def _measure_link(
        self,
        link: str,
        tasks: Sequence[Task],
        device: Device,
        edges: dict[bool, TracedEdge],
        models: Models,
        bar: tuple[Progress, Any],
    ) -> None:
        profile = load_link(link)
        arguments = ["--slow-start"] if self._args.slow_start else []
        with running_links(link, edges, arguments) as links:
            for task in tasks:
                bar[0].update(bar[1], description=f"{profile.name} {task.arm.name}")
                values = self._answer(task, device, edges, links, profile)
                record = Record.of(
                    "run", self._facts, values | models.names, repeat=task.repeat,
                    is_warmup=task.is_warmup,
                )  # fmt: skip
                append(self.path, [record])
                bar[0].advance(bar[1])

    def _answer(
        self,
        task: Task,
        device: Device,
        edges: dict[bool, TracedEdge],
        links: dict[bool, RunningLink],
        profile: LinkProfile,
    ) -> dict[str, Any]:
        """Write one answer; its settings and results."""
        arm, plan, sampling = task.arm, self._plan, SAMPLINGS[task.sampling]
        ends = (None, None) if arm.mode == "device" else (
            edges[arm.edge_drafts], links[arm.edge_drafts])  # fmt: skip
        written = write_answer(device, task, sampling, plan.max_tokens, *ends)
        return {
            **written.values(), **sampling_values(sampling),
            **(board_values(self._board, written) if self._board is not None else {}),
            **radio_values(written, profile),
            "arm": arm.name, "lossless": arm.lossless, "link": task.link,
            "sampling": task.sampling, "prompt": task.prompt.name,
            "prompt_kind": task.prompt.kind, "seed": task.seed, "max_tokens": plan.max_tokens,
            "link_rtt_s": profile.rtt_s.value, "link_up_bps": profile.up_bps.value,
            "link_down_bps": profile.down_bps.value, "slow_start": self._args.slow_start,
            "device_profile": self._board.name if self._board is not None else None,
            "num_threads": self._args.threads, "num_ids": device.tokenizer.num_ids,
        }  # fmt: skip

    def _models(self) -> Models:
        """What was named, or the demo pair, as it is or widened."""
        args = self._args
        num_ids = args.num_ids
        if num_ids and (args.bundle or args.model):
            raise ConfigError("--num-ids widens the demo pair; leave --bundle and --model out")
        llm = args.model or PAIR / "llm"
        plain: tuple[str, ...] = ("--dtype", "float32", "--threads", str(args.threads))
        if not num_ids:
            bundle = args.bundle or exported_slm(self._console)
        else:
            bundle, llm = wide_bundle(num_ids), wide_checkpoint("llm", num_ids)
        edges = {}
        if any(not arm.edge_drafts and arm.mode != "device" for arm in self._plan.arms):
            edges[False] = EdgeSpec(llm, plain)
        if any(arm.edge_drafts for arm in self._plan.arms):
            draft = args.edge_draft or (
                wide_checkpoint("slm", num_ids) if num_ids else PAIR / "slm")  # fmt: skip
            edges[True] = EdgeSpec(llm, (*plain, "--edge-draft", str(draft)))
        return Models(bundle, edges, {"llm": llm.name, "slm": bundle.name, "dtype": "float32"})
