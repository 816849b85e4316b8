"""Figures and Markdown of `tandem bench edge`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any

import numpy as np

from benchmarks.edge_load import Heard, sessions_within
from benchmarks.record import Record

NOTE = (
    "Medians of the repeats. Server CPU: the event loop's own time per round (receive, decode, plan, "
    "judge, encode, send), without the model and without logits → law. Engine time: wall time with a "
    "batch in the engine, on a GPU that of the GPU, and logits → law wherever it is done: for drafts "
    "and verdicts of every arm alike. Load generator and edge share this machine; live devices, too."
)


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
        "cache_bytes_per_session": accounts["cache_bytes"] / max(1, accounts["num_sessions"]),
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
        round(settings.get("arrivals_per_s", 0.0), 1),
    )  # fmt: skip


def medians(records: Sequence[Record]) -> dict[tuple[str, int, float, float], dict[str, float]]:
    """The median of every figure of runs that are alike."""
    found = {}
    for key, group in groupby(sorted(records, key=key_of), key=key_of):
        alike = [record.results for record in group]
        names = set.intersection(*(set(results) for results in alike))
        found[key] = {name: float(median([results[name] for results in alike])) for name in names}
    return found


_COLUMNS = (
    ("tokens/s", "verified_tokens_per_s", 1, "{:.0f}"),
    ("rounds/s", "rounds_per_s", 1, "{:.0f}"),
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
    found = medians(records)
    titles = ["arm", "sessions", *(title for title, *_ in _COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for key, figures in found.items():
        cells = [_name(key), str(key[1]) if not key[3] else f"{key[3]:g} answers/s"]
        for _, names, scale, form in _COLUMNS:
            of = (names,) if isinstance(names, str) else names
            cells.append(
                " / ".join(form.format(figures[n] * scale) if n in figures else "–" for n in of)
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_speedups(found), "", *_held(found, limits_s), "", NOTE, ""])


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


def _held(
    found: dict[tuple[str, int, float, float], dict[str, float]], limits_s: Sequence[float]
) -> list[str]:
    lines = []
    for arm, by_sessions in _closed(found).items():
        points = [
            (sessions, figures["per_token_p50_s"])
            for sessions, figures in by_sessions.items()
            if "per_token_p50_s" in figures
        ]
        held = (
            f"{sessions_within(points, limit_s)} at {limit_s * 1e3:g} ms" for limit_s in limits_s
        )
        lines.append(f"{arm}: sessions held within a time per token: {', '.join(held)}.")
    return lines
