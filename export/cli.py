"""`tandem export`: make a bundle for a device out of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from device_runtime.bundle import MODEL_FILE
from device_runtime.protocol.checkpoint_facts import refusing_malformed
from export import bundle, checkpoint, choose, convert
from export.checkpoint import Checkpoint
from export.choose import Choice, WeightChoice
from export.errors import ExportError, naming_full_disk
from export.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from export.calibration import Told
    from export.hub import Location
    from export.parity import Parity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tandem export`."""
    add = parser.add_argument
    add("checkpoint", metavar="CHECKPOINT", help="folder of a causal language model, or its hub id")
    add("--out", type=Path, required=True, metavar="BUNDLE", help="folder that gets the bundle")
    add("--device", metavar="PROFILE", help="hardware profile (see `tandem profiles list`)")
    add("--graph", choices=choose.GRAPHS, default="auto", help="default: fused where it exists")
    add("--weights", choices=choose.WEIGHTS, default="auto",
        help="default: what the profile says, else int4; fp16 is for a GPU")  # fmt: skip
    add("--accuracy-level", type=int, choices=choose.ACCURACY_LEVELS,
        help="of quantised products: 4 rounds activations to int8, 0 and 1 do not "
        "(default: what the profile says, else 4)")  # fmt: skip
    add("--cache", choices=choose.CACHES, default="auto",
        help="what keys and values are stored as: int8 takes a quarter of fp32's memory, and needs "
        "onnxruntime 1.27 on the device (default: int8 where weights are rounded)")  # fmt: skip
    add("--calibration", default="own", metavar="TEXT",
        help="what int4 weights and the scales of an int8 cache are fitted to: `own`, text that the "
        "model writes itself; a text file; or `none`: weights go to the nearest value, and a few "
        "sentences give the scales (default: %(default)s)")  # fmt: skip
    add("--context", type=int, metavar="TOKENS",
        help=f"longest text (default: the model's, at most {choose.DEFAULT_CONTEXT_LEN})"
    )  # fmt: skip
    add("--force", action="store_true", help="replace an older bundle")
    add("--json", action="store_true", help="no progress; one JSON object on standard output")


@dataclass(slots=True)
class Stages:
    """Tells on stderr what is being done, and keeps the seconds each stage took."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, text: str) -> Iterator[Told]:
        """One stage, during which the libraries keep silent; gives what its progress is told to."""
        started_s = time.perf_counter()
        if not self.console.is_terminal:
            self.console.print(f"{text} …")
        with self.console.status(text) as status, quiet_libraries():
            yield lambda done, total: status.update(f"{text}: {done} of {total}")
        self.seconds[name] = time.perf_counter() - started_s
        if self.console.is_terminal:
            self.console.print(f"{text}: {self.seconds[name]:.1f} s")


def run(args: argparse.Namespace) -> int:
    """Export; 0 when the bundle stands in its place. TandemError says why it does not."""
    started_s = time.perf_counter()
    # The file is named here because the libraries' output is redirected later on.
    console = Console(file=sys.stderr, quiet=args.json, highlight=False, soft_wrap=True)
    stages = Stages(console)
    chosen = choose.choose_weights(args.weights, args.accuracy_level, args.device)
    choose.check_calibration(args.calibration)
    bundle.check_place(args.out, force=args.force)
    location = _locate(args)
    files = "config.json, generation_config.json or tokenizer_config.json"
    with refusing_malformed(ExportError, location.source, files):
        found = _describe(args, location, stages)
        graph = choose.choose_graph(args.graph, found)
        chosen = choose.fit_to_graph(chosen, graph, args.weights)
        choice = _choose(args, chosen, graph, found)
    with bundle.replacing(args.out, force=args.force) as folder:
        needed_bytes = _fetch_weights(args.out, location, found, choice)
        advice = (
            f"the export needs about {needed_bytes / 1e9:.1f} GB there; free some, or choose another "
            "place for --out"
        )
        with naming_full_disk(args.out.resolve().parent, advice):
            parity = _export(found, folder, choice, stages)
    report = _report(args, found, choice, parity, stages)
    doubts = choose.doubts(choice, args.accuracy_level, args.calibration, args.device)
    report["notes"] = [*chosen.notes, *doubts]
    report["wall_s"] = time.perf_counter() - started_s
    if args.json:
        print(json.dumps(report))
    else:
        print(_summary(report))
    return 0


def _locate(args: argparse.Namespace) -> Location:
    from export import hub

    hub.show_progress(not args.json)
    return hub.locate(args.checkpoint)


def _describe(args: argparse.Namespace, location: Location, stages: Stages) -> Checkpoint:
    """The checkpoint's description.

    Everything that can be refused is refused before the first weight is read (or downloaded).
    """
    found = checkpoint.read(location.folder, location.source)
    bundle.check_place(args.out, force=args.force, checkpoint=found.folder)
    bundle.chat_template(found)
    with stages.stage("libraries_s", "Loading the libraries"):
        from export import architecture, start_tokens

        architecture.check(found)
        start_tokens.settle(found)
    return found


def _choose(
    args: argparse.Namespace, chosen: WeightChoice, graph: str, found: Checkpoint
) -> Choice:
    """All that the options and the checkpoint leave to choose."""
    from export import architecture

    context_len = choose.choose_context(args.context, architecture.context_len(found))
    bundle.check_description(found, context_len)
    cache = choose.choose_cache(
        args.cache, chosen.weights, graph, args.device, bundle.onnxruntime_version()
    )
    calibration = choose.choose_calibration(args.calibration, chosen.weights, cache)
    return Choice(graph, chosen.weights, chosen.accuracy_level, cache, calibration, context_len)


def _fetch_weights(out: Path, location: Location, found: Checkpoint, choice: Choice) -> float:
    """Download what is not here; the bytes that the export needs on the disk of `out`.

    ExportError where the disks are too full for the weights or the export.
    """
    from export import hub

    if location.num_parameters is not None:
        needed_bytes = bundle.space_bytes(location.num_parameters, choice.graph, choice.weights)
        bundle.check_space(out, needed_bytes)
    hub.fetch_weights(location)
    num_parameters = checkpoint.count_parameters(found.folder)
    needed_bytes = bundle.space_bytes(num_parameters, choice.graph, choice.weights)
    bundle.check_space(out, needed_bytes)
    return needed_bytes


def _export(found: Checkpoint, folder: Path, choice: Choice, stages: Stages) -> Parity:
    """Fill the folder; the parity check is passed when this returns."""
    import torch

    from export import parity
    from export.calibration import batches
    from export.graph_signature import read_signature
    from export.rounding import round_weights

    path = folder / MODEL_FILE
    with stages.stage("load_s", "Reading the weights"):
        model = convert.load_model(found)
    texts = _calibration(found, model, choice, stages)
    if choice.weights != "fp32":
        with stages.stage("round_s", f"Rounding the weights to {choice.weights}") as told:
            round_weights(model, choice.weights, texts, told)
    vocab_size = model.config.get_text_config().vocab_size
    prompts = parity.encode_prompts(found.tokenizer, vocab_size, choice.context_len)
    with stages.stage("graph_s", f"Writing the {choice.graph} graph"):
        read = batches(texts) if texts is not None else [torch.tensor([ids]) for ids in prompts]
        convert.convert(found, model, path, choice, read)
        signature = read_signature(path)
    with stages.stage("parity_s", "Comparing the graph with the checkpoint"):
        result = parity.check(model, path, signature, prompts, choice.context_len)
        parity.require(result)
    with stages.stage("write_s", "Writing tokenizer and manifest"):
        bundle.write_tokenizer(found, folder)
        bundle.write_manifest(
            found, signature, folder, graph=choice.graph, weights=choice.weights,
            num_heads=model.config.num_attention_heads, context_len=choice.context_len,
        )  # fmt: skip
    return result


def _calibration(
    found: Checkpoint, model: PreTrainedModel, choice: Choice, stages: Stages
) -> Tensor | None:
    """Ids (texts, tokens) that weights and cache are fitted to; None where nothing is."""
    from export import calibration

    if choice.calibration == "none":
        return None
    if choice.calibration == "own":
        with stages.stage("calibration_s", "Writing text to fit int4 and the cache to") as told:
            return calibration.own_texts(model, choice.context_len, told)
    vocab_size = model.config.get_text_config().vocab_size
    path = Path(choice.calibration)
    return calibration.texts_of(path, found.tokenizer, vocab_size, choice.context_len)


def _report(
    args: argparse.Namespace, found: Checkpoint, choice: Choice, parity: Parity, stages: Stages
) -> dict[str, Any]:
    sizes = bundle.file_sizes(args.out)
    return {
        "bundle": str(args.out),
        "source": found.source,
        "architecture": found.model_type,
        "graph": choice.graph,
        "weights": choice.weights,
        "accuracy_level": choice.accuracy_level,
        "cache": choice.cache,
        "calibration": choice.calibration,
        "context_len": choice.context_len,
        "size_bytes": sum(sizes.values()),
        "file_sizes_bytes": sizes,
        "stages": stages.seconds,
        "parity": asdict(parity),
    }


def _summary(report: dict[str, Any]) -> str:
    parity = report["parity"]
    equal, total = parity["num_greedy_equal"], parity["num_greedy_tokens"]
    near_tie = parity["first_difference"]
    note = f" (near tie: top-two gap {near_tie['top_two_gap']:.1g})" if near_tie else ""
    lines = (
        f"{report['bundle']}: {report['architecture']}, {report['graph']} graph, "
        f"{report['weights']}, cache {report['cache']}, {report['size_bytes'] / 1e6:.1f} MB, "
        f"{report['wall_s']:.1f} s\n"
        f"parity with the checkpoint: {equal} of {total} greedy tokens equal{note}, "
        f"logits within {parity['max_abs_logit_error']:.1g} (allowed {parity['tolerance']:.1g})"
    )
    if (rounding := parity["activations"]) is not None:
        share = rounding["num_greedy_equal"] / rounding["num_rows"]
        lines += (
            f"\nrounding activations to {rounding['to']} changes logits by "
            f"{rounding['relative_rms_error']:.2%} and keeps {share:.1%} of the first choices"
        )
    return "\n".join([lines, *(f"note: {note}" for note in report["notes"])])
