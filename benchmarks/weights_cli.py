"""`tandem bench weights`: what each kind of weights costs the drafter, and what it saves.

The SLM is exported once per kind, and the device's own drafter runs each bundle token by token over
held-out text, as it runs while drafting. Beside it the LLM's law p gives acceptance: alpha at
temperature 1 is the mean of 1 − D(p, q), at temperature 0 the share of places where both have the
same first choice. Differences to fp32 are taken place by place, which takes the text's own noise out.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.counts import check_count
from benchmarks.demo import PAIR
from benchmarks.machine import collect
from benchmarks.progress import progress_bar
from benchmarks.record import Record, keep
from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.protocol.errors import ConfigError, TandemError
from device_runtime.protocol.law import log_prob
from device_runtime.settings import RuntimeSettings
from export.choose import ACCURACY_LEVELS, CALIBRATED, GRAPHS, WEIGHTS

NEAREST = "-nearest"
"""After a kind whose rounding is fitted to text: every weight goes to the nearest value instead."""
WIDE_CACHE = "-fp32-cache"
"""After a kind whose keys and values are stored in 8 bits by default: in float32 instead."""
KINDS = (
    *(kind for kind in WEIGHTS if kind != "auto"),
    *(f"{kind}{NEAREST}" for kind in CALIBRATED),
    f"int4{WIDE_CACHE}",
)
DEFAULT_KINDS = tuple(kind for kind in KINDS if kind not in ("fp32", "fp16"))
"""fp16 is for a GPU: a CPU is slow with it, and it costs next to nothing of acceptance."""
WINDOW_TOKENS = 256
"""Each stretch of text starts with an empty cache; shorter where a model has fewer positions."""

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Cost:
    """What one kind of weights does, place by place."""

    weights: str
    graph: str
    context_len: int
    model_bytes: int
    drafter: OnnxDrafter
    nats: list[float] = field(default_factory=list)
    """−log q of the text's own token."""
    overlap: list[float] = field(default_factory=list)
    """1 − D(p, q)."""
    same_choice: list[bool] = field(default_factory=list)
    run_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Text:
    """What is scored."""

    windows: list[list[int]]
    """Stretches of ids, each one id longer than its places."""
    bytes_per_token: float
    """Of the tokens that are scored."""

    def error(self, values: Floats) -> float | None:
        """Half of the 95 % interval of a mean over all places (n,); None of one window.

        Neighbours in a text are alike, so windows are what is drawn, and places belong to them.
        """
        sizes = [len(window) - 1 for window in self.windows]
        if len(sizes) < 2:
            return None
        beside = np.add.reduceat(values - values.mean(), np.cumsum([0, *sizes[:-1]]))
        freedom = len(sizes) - 1
        variance = float(np.square(beside).sum()) * len(sizes) / freedom
        return _student(freedom) * math.sqrt(variance) / len(values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem bench weights`."""
    add = parser.add_argument
    add("--text", type=Path, required=True, help="held-out text, UTF-8")
    add("--checkpoint", default=str(PAIR / "slm"), help="the SLM (default: the demo pair's)")
    add("--against", default=str(PAIR / "llm"), help="the LLM (default: the demo pair's)")
    add("--graph", choices=GRAPHS, default="auto", help="kind of graph (default: %(default)s)")
    add("--weights", action="append", choices=[kind for kind in KINDS if kind != "fp32"],
        help="beside fp32; may be repeated (default: all but fp16)")  # fmt: skip
    add("--accuracy-level", type=int, choices=ACCURACY_LEVELS, default=4,
        help="of quantised products (default: 4)")  # fmt: skip
    add("--tokens", type=int, default=2048, help="places to measure at (default: %(default)s)")
    add("--threads", type=int, default=1, help="of the drafter (default: %(default)s)")
    add("--out", type=Path, default=Path("bench-weights"), help="folder of results")
    add("--json", action="store_true", help="no progress; the results as JSON on standard output")


def run(args: argparse.Namespace) -> int:
    """Export, measure, print the table, write results.jsonl and table.md; exit code 0."""
    console = Console(highlight=False, stderr=True, quiet=args.json)
    check_count("--tokens", args.tokens)
    check_count("--threads", args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    kinds = ("fp32", *(args.weights or DEFAULT_KINDS))
    with tempfile.TemporaryDirectory(prefix="bench-weights-") as scratch:
        costs = [_export(args, kind, Path(scratch, kind), console) for kind in kinds]
        target = _Target(args.against)
        size = min(WINDOW_TOKENS, costs[0].context_len, target.context_len)
        text = _read(args.text, Path(scratch, "fp32"), args.tokens, size)
        _measure(costs, text.windows, target, console)
    values = [_values(cost, costs[0], args, text) for cost in costs]
    facts = collect()
    table = "\n".join(markdown(values))
    keep(args.out, [Record.of("weights", facts, line) for line in values], table)
    print(json.dumps(values, indent=2) if args.json else table)
    console.print(f"results: {args.out}")
    return 0


def _export(args: argparse.Namespace, kind: str, out: Path, console: Console) -> Cost:
    console.print(f"exporting {kind} …")
    command = [sys.executable, "-m", "device_runtime", "export", args.checkpoint, "--json"]
    weights = kind.removesuffix(NEAREST).removesuffix(WIDE_CACHE)
    command += ["--out", str(out), "--graph", args.graph, "--weights", weights]
    command += ["--cache", "fp32"] if kind.endswith(WIDE_CACHE) else []
    command += ["--accuracy-level", str(args.accuracy_level)]
    command += ["--calibration", "none"] if kind.endswith(NEAREST) else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TandemError(f"the export of {kind} failed: {done.stderr.strip()}")
    report = json.loads(done.stdout)
    sizes = report["file_sizes_bytes"].items()
    model_bytes = sum(size for name, size in sizes if name.startswith("model.onnx"))
    drafter = OnnxDrafter.open(out, RuntimeSettings(num_threads=args.threads))
    return Cost(kind, report["graph"], report["context_len"], model_bytes, drafter)


def _read(text: Path, bundle: Path, num_tokens: int, size: int) -> Text:
    """The beginning of a text in windows of `size` places; ConfigError where there is none."""
    from tokenizers import Tokenizer

    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--text: {error}") from None
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    encoding = tokenizer.encode(content, add_special_tokens=False)
    wanted = encoding.ids[: num_tokens + 1]
    if len(wanted) < 2:
        raise ConfigError(f"--text: {text} is too short to measure anything")
    (_, start), (_, end) = encoding.offsets[0], encoding.offsets[len(wanted) - 1]
    num_bytes = len(content[start:end].encode())  # the first token is read and not scored
    starts = range(0, len(wanted) - 1, size)
    windows = [wanted[start : start + size + 1] for start in starts]
    return Text(windows, num_bytes / (len(wanted) - 1))


def _measure(
    costs: Sequence[Cost], windows: Sequence[Sequence[int]], target: _Target, console: Console
) -> None:
    """Every kind at every place, one kind after the other within each window."""
    with progress_bar(console) as progress:
        task = progress.add_task("measuring", total=len(windows) * len(costs))
        for window in windows:
            laws = target.laws(window[:-1])
            for cost in costs:
                _append_places(cost, window, laws)
                progress.advance(task)


def _append_places(cost: Cost, window: Sequence[int], laws: NDArray[np.float32]) -> None:
    cost.drafter.truncate(0)
    for place, (id_, following) in enumerate(pairwise(window)):
        started_s = time.perf_counter()
        row = cost.drafter.append(np.array([id_]))
        cost.run_s.append(time.perf_counter() - started_s)
        q, p = _law(row), laws[place]
        shared = min(len(p), len(q))
        cost.nats.append(-log_prob(q[following]))
        cost.overlap.append(float(np.minimum(p[:shared], q[:shared]).sum()))
        cost.same_choice.append(int(p.argmax()) == int(q.argmax()))


def _law(row: NDArray[np.float32]) -> Floats:
    weights = np.exp(row.astype(np.float64) - float(row.max()))
    law: Floats = weights / weights.sum()
    return law


class _Target:
    """The LLM on torch, float32."""

    def __init__(self, checkpoint: str) -> None:
        from export import checkpoint as description
        from export import convert, hub
        from export.quiet import quiet_libraries

        location = hub.locate(checkpoint)
        found = description.read(location.folder, location.source)
        hub.fetch_weights(location)
        with quiet_libraries():
            from export import architecture

            self._model = convert.load_model(found)
        self.context_len = architecture.context_len(found)

    def laws(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """p after every id (n,): (n, vocabulary)."""
        import torch

        with torch.inference_mode():
            logits = self._model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
            laws: NDArray[np.float32] = logits.float().softmax(-1).numpy()
        return laws


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t, within 3 % from two degrees on (Abramowitz, Stegun 26.7.5)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / float(freedom) ** power for power, term in enumerate(terms, start=1))


def _values(cost: Cost, plain: Cost, args: argparse.Namespace, text: Text) -> dict[str, Any]:
    nats = statistics.fmean(cost.nats)
    lost = np.subtract(plain.overlap, cost.overlap)
    return {
        "slm": Path(args.checkpoint).name,
        "llm": Path(args.against).name,
        "weights": cost.weights,
        "graph": cost.graph,
        "accuracy_level": args.accuracy_level,
        "num_threads": args.threads,
        "num_places": len(cost.nats),
        "model_bytes": cost.model_bytes,
        "token_s": statistics.median(cost.run_s),
        "nats_per_token": nats,
        "bits_per_byte": nats / math.log(2) / text.bytes_per_token,
        "overlap": statistics.fmean(cost.overlap),
        "overlap_lost_weights": float(lost.mean()),
        "overlap_lost_weights_error": text.error(lost),
        "same_choice": statistics.fmean(cost.same_choice),
    }


def markdown(values: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The table, a line at a time."""
    yield (
        "| weights | graph | MB | ms per token | perplexity | bits per byte | alpha, T=1 "
        "| lost against fp32 | alpha, greedy |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for v in values:
        error = v.get("overlap_lost_weights_error")
        lost = f"{v['overlap_lost_weights']:+.4f}" + ("" if error is None else f" ± {error:.4f}")
        yield (
            f"| {v['weights']} | {v['graph']} | {v['model_bytes'] / 1e6:.1f} "
            f"| {v['token_s'] * 1e3:.2f} | {math.exp(v['nats_per_token']):.2f} "
            f"| {v['bits_per_byte']:.3f} | {v['overlap']:.4f} | {lost} | {v['same_choice']:.4f} |"
        )
