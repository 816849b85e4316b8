"""Figures and Markdown of `tandem bench edge`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np

from benchmarks.edge_load import Heard, sessions_within
from benchmarks.record import Record
from benchmarks.spread import Spread

NOTE = (
    "Medians of the repeats, in brackets the lowest and the highest. Server CPU: the event loop's own "
    "time per round (receive, decode, plan, judge, encode, send), without the model and without "
    "logits → law. Engine time: wall time with a batch in the engine, on a GPU that of the GPU, and "
    "logits → law wherever it is done: for drafts and verdicts of every arm alike. Time per token: of "
    "split the edge's part and --think-ms, which stands for drafting and link; of edge+draft all of "
    "it, drafting included. Load generator and edge share this machine; live devices, too."
)
NO_DEVICE = "the edge's part alone, at --think-ms 0"
_LOST = (("diverged answers", "answers_flipped"), ("refused answers", "answers_refused"))
"""Columns for what should not be: there only if it was. Totals of all repeats."""


def values_of(heard: Heard) -> dict[str, Any]:
    """Results by the keys of `benchmarks.record_keys`; None where nothing was heard."""
    accounts, seconds = heard.accounts, heard.seconds
    tokens, judged = heard.num_tokens, accounts["num_judged"]
    # On a GPU laws are made within the engine's batches, on a CPU those of drafts alone.
    engine_s = accounts["engine_s"] + accounts["law_cpu_s"]
    values = {
        "verified_tokens_per_s": tokens / seconds,
        "rounds_per_s": heard.num_rounds / seconds,
        "tokens_per_round": tokens / heard.num_rounds if heard.num_rounds else None,
        "batch_jobs_mean": _mean(accounts["batch_jobs"]),
        "batch_jobs_p90": _percentile(accounts["batch_jobs"], 90),
        "batch_tokens_mean": _mean(accounts["batch_tokens"]),
        "first_token_p50_s": _percentile(heard.first_s, 50),
        "per_token_p50_s": _percentile(heard.per_token_s, 50),
        "per_token_p90_s": _percentile(heard.per_token_s, 90),
        "round_p50_s": _percentile(heard.round_s, 50),
        "round_p90_s": _percentile(heard.round_s, 90),
        "engine_s_per_token": engine_s / tokens if tokens else None,
        "engine_busy": accounts["engine_s"] / seconds,
        "server_cpu_s_per_round": (
            (accounts["loop_cpu_s"] - accounts["law_cpu_s"]) / judged if judged else None
        ),
        "law_cpu_s_per_round": accounts["law_cpu_s"] / judged if judged else None,
        "cache_bytes_per_session": _mean(accounts["session_cache_bytes"]),
        "rss_bytes": accounts["rss_bytes"],
        "answers_flipped": heard.num_flipped,
        "answers_refused": heard.num_refused,
    }
    for name, series in (("queue", "waited_s"), ("verify", "batch_s")):
        for share in (50, 90, 99):
            values[f"{name}_p{share}_s"] = _percentile(accounts[series], share)
    return values


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _percentile(values: Sequence[float], share: float) -> float | None:
    return float(np.percentile(values, share)) if values else None


def key_of(record: Record) -> tuple[str, int, float, float]:
    """What repeats have in common: arm, sessions, length ratio, arrivals."""
    settings = record.settings
    return (
        settings["arm"], settings["sessions"], settings["length_ratio"],
        settings.get("arrivals_per_s", 0.0),
    )  # fmt: skip


def medians(records: Sequence[Record]) -> dict[tuple[str, int, float, float], dict[str, float]]:
    """The median of every figure of runs that are alike."""
    found = {}
    for key, alike in _repeats(records).items():
        names = set.intersection(*(set(record.results) for record in alike))
        found[key] = {name: float(median(r.results[name] for r in alike)) for name in names}
    return found


def _repeats(records: Sequence[Record]) -> dict[tuple[str, int, float, float], list[Record]]:
    """Runs that are alike."""
    in_order = sorted(records, key=key_of)
    return {key: list(group) for key, group in groupby(in_order, key=key_of)}


_COLUMNS = (
    ("tokens/s", "verified_tokens_per_s", 1, "{:.0f}"),
    ("jobs a batch", "batch_jobs_mean", 1, "{:.1f}"),
    ("queue p50 / p90, ms", ("queue_p50_s", "queue_p90_s"), 1e3, "{:.1f}"),
    ("verify p50 / p90, ms", ("verify_p50_s", "verify_p90_s"), 1e3, "{:.1f}"),
    ("per token p50 / p90, ms", ("per_token_p50_s", "per_token_p90_s"), 1e3, "{:.1f}"),
    ("engine ms a token", "engine_s_per_token", 1e3, "{:.2f}"),
    ("server CPU µs a round", "server_cpu_s_per_round", 1e6, "{:.0f}"),
    ("law µs a round", "law_cpu_s_per_round", 1e6, "{:.0f}"),
    ("cache KiB a session", "cache_bytes_per_session", 1 / 1024, "{:.0f}"),
)


def markdown(records: Sequence[Record], limits_s: Sequence[float]) -> str:
    """All runs, then what they say of capacity."""
    found, repeats = medians(records), _repeats(records)
    lost = [column for column in _LOST if any(r.results.get(column[1]) for r in records)]
    titles = ["arm", "sessions", "rounds/s", *(title for title, *_ in _COLUMNS)]
    titles += (title for title, _ in lost)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for key, figures in found.items():
        alike = [record.results for record in repeats[key]]
        cells = [_name(key), str(key[1]) if not key[3] else f"{key[3]:.3g} answers/s"]
        cells.append(Spread.of(results["rounds_per_s"] for results in alike).shown(1, 0))
        for _, names, scale, form in _COLUMNS:
            of = (names,) if isinstance(names, str) else names
            cells.append(
                " / ".join(form.format(figures[n] * scale) if n in figures else "–" for n in of)
            )
        cells += (str(sum(results.get(name, 0) for results in alike)) for _, name in lost)
        lines.append(f"| {' | '.join(cells)} |")
    alone = {record.settings["arm"] for record in records if record.settings.get("think_s") == 0}
    held = _held(found, limits_s, {"split"} & alone)
    return "\n".join([*lines, "", *_speedups(found), "", *held, "", NOTE])


def _name(key: tuple[str, int, float, float]) -> str:
    return f"{key[0]}, length-aware" if key[2] else key[0]


def _closed(
    found: dict[tuple[str, int, float, float], dict[str, float]],
) -> dict[str, dict[int, dict[str, float]]]:
    """Arm → sessions → figures of closed loops, first come, first served."""
    arms: dict[str, dict[int, dict[str, float]]] = {}
    for (arm, sessions, ratio, arrivals), figures in found.items():
        if not ratio and not arrivals:
            arms.setdefault(arm, {})[sessions] = figures
    return arms


def _speedups(found: dict[tuple[str, int, float, float], dict[str, float]]) -> list[str]:
    lines = []
    for arm, by_sessions in _closed(found).items():
        if 1 in by_sessions and len(by_sessions) > 1 and by_sessions[1]["rounds_per_s"]:
            alone = by_sessions[1]["rounds_per_s"]
            shares = (
                f"{figures['rounds_per_s'] / alone:.1f}× at {sessions}"
                for sessions, figures in by_sessions.items()
                if sessions > 1
            )
            lines.append(f"{arm}: {alone:.0f} rounds/s with one session; {', '.join(shares)}.")
    return lines


def held(records: Sequence[Record], limits_s: Sequence[float]) -> Iterator[Record]:
    """One an arm and limit; where even the fewest sessions tried miss it, none is told."""
    for arm, points in _times(medians(records)).items():
        for limit_s in limits_s:
            num_held, most = sessions_within(points, limit_s), max(points)[0]
            values = {"arm": arm, "limit_s": limit_s, "sessions": most, "sessions_held": num_held}
            if num_held or min(points)[0] == 1:
                yield Record.of("edge-held", records[0].machine, values)


def _held(
    found: dict[tuple[str, int, float, float], dict[str, float]],
    limits_s: Sequence[float],
    partial: Collection[str],
) -> Iterator[str]:
    """A line an arm; of the arms in `partial` the time leaves out device and link."""
    for arm, points in _times(found).items():
        of = f" ({NO_DEVICE})" if arm in partial else ""
        told = ", ".join(_sessions_held(points, limit_s) for limit_s in limits_s)
        yield f"{arm}: sessions held within a time per token{of}: {told}."


def _times(
    found: dict[tuple[str, int, float, float], dict[str, float]],
) -> dict[str, list[tuple[int, float]]]:
    """Arm → sessions and their time per token, where there is any."""
    times = {
        arm: [(n, own["per_token_p50_s"]) for n, own in runs.items() if "per_token_p50_s" in own]
        for arm, runs in _closed(found).items()
    }
    return {arm: points for arm, points in times.items() if points}


def _sessions_held(points: Sequence[tuple[int, float]], limit_s: float) -> str:
    """How many, as far as they were tried: perhaps more than the most, or fewer than the fewest."""
    num_held, (fewest, _), (most, _) = sessions_within(points, limit_s), min(points), max(points)
    shown = f"≥ {most}" if num_held == most else str(num_held)
    if num_held < fewest > 1:
        shown = f"< {fewest}"
    return f"{shown} at {limit_s * 1e3:g} ms"
