"""`tandem bench run`: the grid, over real sockets through emulated links; goes on where it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.counts import check_count, with_counts
from benchmarks.machine import collect
from benchmarks.progress import progress_bar
from benchmarks.projection import read_bandwidth
from benchmarks.prompts import PROMPT_SET
from benchmarks.record import (
    RESULTS_FILE,
    Record,
    append,
    read,
    require_same_machine,
    without_cut_line,
)
from benchmarks.run.answers import write_answer
from benchmarks.run.joules import AUTO, NONE, board_values, modelled_board, radio_values
from benchmarks.run.models import Models
from benchmarks.run.plan import Arm, Plan, Task, missing
from benchmarks.run.presets import PRESETS
from benchmarks.run.settings import Settings
from benchmarks.run.stage import RunningLink, TracedEdge, running_edges, running_links
from benchmarks.schemes import SAMPLINGS, SAMPLINGS_HELP
from device_runtime.energy.find import KINDS
from device_runtime.protocol.errors import ConfigError
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Device
from edge_server.config import DTYPES
from hw_profiles import LinkProfile, load_link

BENCH = "run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench run`."""
    add = parser.add_argument
    add("--preset", choices=PRESETS, default="full", help="a grid with a name (default: full)")
    add("--quick", dest="preset", action="store_const", const="quick", help="= --preset quick")
    add("--out", type=Path, default=Path("bench-run"), metavar="DIR",
        help="folder of results; what is there already is not measured again")  # fmt: skip
    add("--arm", action="append", metavar="ARM",
        help="only these: edge, edge-draft, device, SCHEME/GAMMA; may be repeated")  # fmt: skip
    add("--link", action="append", metavar="NAME",
        help="only these link profiles, or TOML files; may be repeated")  # fmt: skip
    add("--sampling", action="append", choices=SAMPLINGS, metavar="NAME", help=SAMPLINGS_HELP)
    add("--prompt-kind", action="append", choices=sorted({p.kind for p in PROMPT_SET}),
        help="only prompts of these kinds; may be repeated")  # fmt: skip
    add("--repeats", type=int, help="of every answer")
    add("--max-tokens", type=int, help="length of every answer")
    add("--bundle", type=Path, help="device's model (default: the demo pair's)")
    add("--model", type=Path, help="edge's model (default: the demo pair's)")
    add("--edge-draft", type=Path, help="model of the arm edge-draft (default: the demo pair's)")
    add("--num-ids", type=int, metavar="N",
        help="widen the demo pair's laws to N ids (benchmarks/wide_vocabulary.py)")  # fmt: skip
    add("--dtype", choices=("auto", *DTYPES), default="auto",
        help="of the edge's model (default: auto, bfloat16 on a GPU, else float32)")  # fmt: skip
    add("--threads", type=int, default=1, help="of the device's model (default: 1)")
    add("--edge-threads", type=int, metavar="N",
        help="of the edge's on a CPU (default: 1 for the demo pair's, else the cores)")  # fmt: skip
    add("--energy", choices=(*KINDS, NONE), default=AUTO,
        help="the device's joules: modelled (default: auto, and none where nothing is known of this "
        "machine); meters are refused, as they see edges and links, too")  # fmt: skip
    add("--profile", metavar="NAME", help="device profile behind the model; default: this board's")
    add("--slow-start", action="store_true", help="connections begin with ten packets a round trip")
    add("--json", action="store_true", help="no progress; where the results are, as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure what is missing; exit code 0."""
    console = Console(highlight=False, soft_wrap=True, stderr=True, quiet=args.json)
    plan = _with_own_draft(plan_from(args), args, console)
    for link in plan.links:
        load_link(link)  # a wrong name shows before anything is started
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args, plan, console)
    if bench.num_there:
        console.print(f"{bench.num_there} of {plan.num_answers} answers are there already")
    bench.measure()
    words = f"{bench.path} holds {plan.num_answers} answers; next: tandem bench report {bench.path}"
    print(json.dumps({"results": str(bench.path)}) if args.json else words)
    return 0


def plan_from(args: argparse.Namespace) -> Plan:
    """The preset, narrowed by what was given; ConfigError for what cannot be."""
    check_count("--threads", args.threads)
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


def _with_own_draft(plan: Plan, args: argparse.Namespace, console: Console) -> Plan:
    """Without the arm `edge-draft` where a model was named and none that drafts for it.

    The demo pair's SLM, the default, has another tokenizer than the model that was named.
    """
    kept = tuple(arm for arm in plan.arms if not arm.edge_drafts)
    if args.model is None or args.edge_draft is not None or kept == plan.arms:
        return plan
    words = "edge-draft needs --edge-draft FOLDER, a small model of the same family as --model's"
    if args.arm:
        raise ConfigError(f"the arm {words}")
    console.print(f"one arm is left out: {words}")
    return replace(plan, arms=kept)


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
        self._models = Models.of(args, console)
        self._settings = Settings.of(args, plan, self._models, self._board)
        self._facts = collect()
        if self.path.exists():
            without_cut_line(self.path)
        self._records = read(self.path) if self.path.exists() else []
        self._settings.require(self.path, self._records)
        require_same_machine([*self._records[:1], Record.of(BENCH, self._facts, {})])
        self._missing = {
            link: tasks
            for link in plan.links
            if (tasks := missing(list(plan.tasks(link)), self._records))
        }

    @property
    def num_there(self) -> int:
        """Answers of the plan that the file holds, warm-ups apart."""
        tasks = chain.from_iterable(self._missing.values())
        return self._plan.num_answers - sum(not task.is_warmup for task in tasks)

    def measure(self) -> None:
        """Everything that is missing."""
        if not self._missing:
            return
        self._facts["read_one_core_bytes_per_s"] = read_bandwidth()
        device = Device(self._models.bundle, RuntimeSettings(num_threads=self._args.threads))
        with ExitStack() as stack:
            edges = stack.enter_context(
                running_edges(self._models.edges(self._plan.arms), self._args.out)
            )
            progress = stack.enter_context(progress_bar(self._console, refreshes=False))
            bar = progress.add_task("", total=sum(map(len, self._missing.values())))
            for link, tasks in self._missing.items():
                self._measure_link(link, tasks, device, edges, (progress, bar))

    def _measure_link(
        self,
        link: str,
        tasks: Sequence[Task],
        device: Device,
        edges: dict[bool, TracedEdge],
        bar: tuple[Progress, Any],
    ) -> None:
        profile = load_link(link)
        arguments = ["--slow-start"] if self._args.slow_start else []
        with running_links(link, edges, arguments) as links:
            for task in tasks:
                words = f"{profile.name} {task.arm.name}"
                bar[0].update(bar[1], description=words, refresh=True)
                values = self._answer(task, device, edges, links, profile)
                record = Record.of(
                    BENCH, self._facts, values, repeat=task.repeat, is_warmup=task.is_warmup
                )
                append(self.path, [record])
                bar[0].advance(bar[1])
            for running in links.values():
                if doubt := running.doubt():
                    self._console.print(f"{profile.name}: {doubt}")

    def _answer(
        self,
        task: Task,
        device: Device,
        edges: dict[bool, TracedEdge],
        links: dict[bool, RunningLink],
        profile: LinkProfile,
    ) -> dict[str, Any]:
        """Write one answer; its settings and results."""
        alone = task.arm.mode == "device"
        edge = None if alone else edges[task.arm.edge_drafts]
        link = None if alone else links[task.arm.edge_drafts]
        sampling = SAMPLINGS[task.sampling]
        written = write_answer(device, task, sampling, self._plan.max_tokens, edge, link)
        return {
            **written.values(),
            **(board_values(self._board, written) if self._board is not None else {}),
            **radio_values(written, profile),
            **self._settings.for_task(task),
            "link_realtime": None if link is None else link.realtime,
        }
