"""Table, CSV and records of a run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.device.measure import Measured, Round
from benchmarks.device.models import Contender
from benchmarks.spread import Spread


@dataclass(frozen=True, slots=True)
class Run:
    """What the table needs to know of a run."""

    shape: str
    num_threads: int
    contexts: tuple[int, ...]
    contenders: tuple[Contender, ...]
    versions: dict[str, str]
    cache_bytes_per_token: int
    spinning: bool
    """Whether Tandem's own threads spin in a run."""
    measured: Measured

    def rounds(self, contender: str, context: int) -> list[Round]:
        """Those that count."""
        return [
            r for r in self.measured.rounds
            if (r.contender, r.context) == (contender, context) and r.number
        ]  # fmt: skip

    def token_s(self, contender: str, context: int) -> Spread:
        """Time per token."""
        rounds = self.rounds(contender, context)
        return Spread.of(statistics.median(r.steps_s) for r in rounds)

    @property
    def read_bytes_per_s(self) -> float:
        """The fastest pass is nearest to what the memory can do."""
        return 1 / min(self.measured.read_s_per_byte)

    def floor_share(self, contender: Contender) -> float:
        """Least time for the model's bytes over the time a token took."""
        least_s = contender.model_bytes / self.read_bytes_per_s
        return least_s / self.token_s(contender.name, self.contexts[0]).median


def markdown(run: Run) -> Iterator[str]:
    """Lines of the report."""
    first = run.contexts[0]
    yield f"## {run.shape}, {run.num_threads} threads"
    yield ""
    yield (
        "Time per token: median of the rounds' medians, with the lowest and highest round. Every "
        "contender ran one token, gave its logits and found the largest; one contender at a time, in "
        f"turns. Memory read speed in the same run: {run.read_bytes_per_s / 1e9:.1f} GB/s."
    )
    yield ""
    if len(run.contenders) > 1:
        yield _fairness(run.spinning)
        yield ""
    heads = ["contender", "weights", "model MB"]
    heads += [f"ms per token at {context}" for context in run.contexts]
    heads += ["times ours", "share of floor", "prefill tokens/s", "CPU ms per token"]
    heads += ["resident MB", "peak MB", "beyond model and cache MB", "of that not libraries' files"]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    ours = run.token_s(run.contenders[0].name, first).median
    for contender in run.contenders:
        yield _line(_row(run, contender, ours))
    yield ""
    yield from _own(run)
    yield "Versions: " + "; ".join(f"{name}: {v}" for name, v in run.versions.items()) + "."


def _fairness(spinning: bool) -> str:
    how = "spin in a run and stop with it" if spinning else "sleep whenever they wait, as asked for"
    return (
        f"Threads: Tandem's {how}; its peers keep their own defaults, which spin. Same number of "
        "threads, same ids, same kind of weights (transformers: float32, as torch has no other "
        "kernels here). The floor is the time to read a contender's whole file once; an embedding "
        "stored apart from the head counts in it, though a token reads one row of it."
    )


def _row(run: Run, contender: Contender, ours_s: float) -> list[str]:
    name, first, last = contender.name, run.contexts[0], run.contexts[-1]
    rounds = run.rounds(name, first)
    cpu_s = statistics.median(r.cpu_s / len(r.steps_s) for r in rounds)
    prefill = Spread.of(last / r.prefill_s for r in run.rounds(name, last))
    return [
        name,
        contender.weights,
        f"{contender.model_bytes / 1e6:.0f}",
        *(run.token_s(name, context).shown(1e3, 2) for context in run.contexts),
        f"{run.token_s(name, first).median / ours_s:.2f}",
        f"{run.floor_share(contender):.0%}",
        prefill.shown(1, 0),
        f"{cpu_s * 1e3:.1f}",
        *(f"{size / 1e6:.0f}" for size in memory(run, contender)),
    ]


def memory(run: Run, contender: Contender) -> tuple[int, int, int, int]:
    """Bytes: resident at the end of the first context; the most; beyond model and filled cache.

    The last one leaves out pages of files, such as libraries, which the system can drop and share.
    """
    first = run.rounds(contender.name, run.contexts[0])[-1]
    peak = max(
        r.memory.get("peak", 0) for r in run.measured.rounds if r.contender == contender.name
    )
    known = contender.model_bytes + run.cache_bytes_per_token * (first.context + len(first.steps_s))
    steady, anonymous = first.memory.get("rss", 0), first.memory.get("anonymous", 0)
    return steady, peak, max(0, steady - known), max(0, anonymous - known)


def _own(run: Run) -> Iterator[str]:
    """What only our own arm tells."""
    rounds = run.rounds(run.contenders[0].name, run.contexts[0])
    bare = Spread.of(statistics.median(r.own["bare"]) for r in rounds)
    drafting = Spread.of(statistics.median(r.own["drafting"]) for r in rounds)
    added = Spread.of(
        statistics.median(r.own["drafting"]) / statistics.median(r.own["bare"]) - 1 for r in rounds
    )
    outside = Spread.of(statistics.median(r.own["outside"]) for r in rounds)
    yield (
        f"Drafting at T = 1 over the whole vocabulary takes {drafting.shown(1e3, 2)} ms per token, "
        f"the bare run {bare.shown(1e3, 2)} ms: {added.shown(100, 1)} % on top. "
        f"{outside.shown(100, 1)} % of drafting is spent outside onnxruntime."
    )
    yield ""
    if run.measured.starts_s:
        starts = Spread.of(run.measured.starts_s)
        yield f"First token {starts.shown(1, 2)} s after the start of the process, disk warm."
        yield ""
    meter = run.measured.meter
    if meter is None:
        yield "Energy: no meter on this machine."
    else:
        joules = run.measured.joules_per_token.items()
        each = ", ".join(f"{own * 1e3:.1f} at {context}" for context, own in joules)
        yield (
            f"Energy: mJ per token {each}, gross; idle {run.measured.idle_w:.1f} W "
            f"({meter.kind} at {meter.point}, {meter.name}: {meter.covers})."
        )
    yield ""


def records(run: Run) -> Iterator[dict[str, Any]]:
    """One set of values for each contender and round, by the keys of `record_keys`."""
    contenders = {contender.name: contender for contender in run.contenders}
    for r in run.measured.rounds:
        contender = contenders[r.contender]
        yield {
            "repeat": r.number,
            "slm": run.shape,
            "runtime": r.contender,
            "runtime_version": run.versions[r.contender],
            "weights": contender.weights,
            "num_threads": run.num_threads,
            "context_tokens": r.context,
            "model_bytes": contender.model_bytes,
            "token_s": statistics.median(r.steps_s),
            "prefill_s": r.prefill_s,
            "cpu_s_per_token": r.cpu_s / len(r.steps_s),
            "runtime_rss_bytes": r.memory.get("rss"),
            "runtime_peak_rss_bytes": r.memory.get("peak"),
            "runtime_anonymous_bytes": r.memory.get("anonymous"),
            "read_bytes_per_s": run.read_bytes_per_s,
            **_own_values(run, r),
        }


def _own_values(run: Run, r: Round) -> dict[str, Any]:
    if not r.own:
        return {}
    values: dict[str, Any] = {
        "bare_run_s": statistics.median(r.own["bare"]),
        "draft_token_s": statistics.median(r.own["drafting"]),
        "outside_share": statistics.median(r.own["outside"]),
    }
    if r.contender == run.contenders[0].name:  # the only one that is started again and metered
        starts_s = run.measured.starts_s
        values["start_s"] = statistics.median(starts_s) if starts_s else None
        values["j_per_token"] = run.measured.joules_per_token.get(r.context)
        if (meter := run.measured.meter) is not None:
            values |= {
                "energy_kind": meter.kind, "energy_meter": meter.name, "energy_point": meter.point,
            }  # fmt: skip
    return values


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
