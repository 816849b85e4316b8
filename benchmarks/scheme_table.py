"""Results of `tandem bench schemes` as records and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.overhead import Direction, wire_bytes
from benchmarks.scheme_watch import Measured
from device_runtime.lossy import METHODS

ROUNDED = ("dssd", "dssd-fp32")
"""Exact up to the float format of the row they send."""


EMPTY = "–"
"""What does not apply."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scheme, vocabulary and way of sampling."""

    num_ids: int
    sampling: str
    scheme: str
    measured: Measured
    num_own: int
    """Ids that the models have; more are made by a recipe (`wide_vocabulary`)."""


def values_of(cell: Cell, gamma: int) -> dict[str, Any]:
    """One cell by the keys of the registry."""
    measured, counts = cell.measured, cell.measured.counts
    return {
        "scheme": cell.scheme,
        "lossless": METHODS[cell.scheme].lossless,
        "sampling": cell.sampling,
        "num_ids": cell.num_ids,
        "widened": cell.num_ids > cell.num_own,
        "gamma": gamma,
        "rounds": counts.rounds,
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "rejected": counts.rejected,
        "bonus": counts.bonus,
        "more_requests": counts.more_requests,
        "alpha": counts.alpha,
        "alpha_expected": _mean(measured.expected),
        "overlap": _mean(measured.overlaps),
        "tokens_per_round": measured.num_tokens / counts.rounds if counts.rounds else None,
        "kept_share": counts.unverified / measured.num_tokens,
        "law_distance": _mean(measured.distances),
        **_bytes(measured),
        "draft_s": _median(measured.draft_s),
        "encode_s": _median(measured.encode_s),
        "decode_s": _median(measured.decode_s),
        "judge_s": _median(measured.judge_s),
        "settle_s": _median(measured.settle_s),
        "protocol_round_s": _median([
            sum(parts) for parts in zip(measured.encode_s, measured.decode_s, measured.judge_s,
                                        measured.settle_s, strict=True)
        ]),
        "law_s": _median(measured.law_s),
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _bytes(measured: Measured) -> dict[str, float | None]:
    """Payload and all bytes down to IP, per token and per rejecting round."""
    found: dict[str, float | None] = {}
    ways = ((Direction.UP, measured.bytes_up), (Direction.DOWN, measured.bytes_down))
    for direction, rounds in ways:
        way = direction.value
        payload = np.array([sum(sizes) for sizes in rounds])
        wire = np.array([sum(wire_bytes(size, direction) for size in sizes) for sizes in rounds])
        rejecting = np.array(measured.rejecting, bool)
        found[f"bytes_{way}_per_token"] = float(payload.sum()) / measured.num_tokens
        found[f"wire_bytes_{way}_per_token"] = float(wire.sum()) / measured.num_tokens
        for share, name in ((50, "p50"), (90, "p90")):
            found[f"bytes_{way}_rejected_{name}"] = _percentile(payload[rejecting], share)
            found[f"wire_bytes_{way}_rejected_{name}"] = _percentile(wire[rejecting], share)
    return found


def _percentile(values: Any, share: int) -> float | None:
    return float(np.percentile(values, share)) if len(values) else None


COLUMNS = (
    "sampling", "scheme", "bytes per token ↑ / ↓", "with headers ↑ / ↓",
    "rejected round ↑ / ↓ median, ↓ p90", "with headers ↑ / ↓ median", "alpha measured ± s.e.",
    "alpha expected", "1 − D", "tokens per round", "more", "device µs: draft, encode, settle",
    "edge µs: decode, judge", "logits → law µs", "kept unseen, distance to p",
)  # fmt: skip


_BRIEF = (
    "sampling", "scheme", "bytes per token ↑ / ↓", "rejected round ↑ / ↓ median, ↓ p90",
    "alpha measured ± s.e.", "tokens per round",
)  # fmt: skip


def markdown(values: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One table a vocabulary, folded."""
    for num_ids in dict.fromkeys(line["num_ids"] for line in values):
        yield f"<details><summary>{_vocabulary(values, num_ids)}</summary>"
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---|---|" + "--:|" * (len(COLUMNS) - 2)
        for line in values:
            if line["num_ids"] == num_ids:
                yield f"| {' | '.join(_line(line))} |"
        yield ""
        yield "</details>"
        yield ""


def brief(values: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """One table a vocabulary with the columns that fit a terminal, without the page's marks."""
    shown = [COLUMNS.index(name) for name in _BRIEF]
    for num_ids in dict.fromkeys(line["num_ids"] for line in values):
        table = Table(*_BRIEF, title=_vocabulary(values, num_ids), box=None, title_justify="left")
        for line in values:
            if line["num_ids"] == num_ids:
                entries = list(_line(line))
                table.add_row(*(entries[i].replace("`", "").replace("**", "") for i in shown))
        yield table


def _vocabulary(values: Sequence[dict[str, Any]], num_ids: int) -> str:
    """A size, and whether it is a model's own."""
    own = [line["num_ids"] for line in values if not line["widened"]]
    if any(line["widened"] for line in values if line["num_ids"] == num_ids):
        of_pair = f" of {max(own):,}" if own else ""
        return f"{num_ids:,} ids, widened by a recipe from the demo pair's laws{of_pair}"
    return f"{num_ids:,} ids, the demo pair's own"


def _line(line: dict[str, Any]) -> Iterator[str]:
    yield line["sampling"]
    mark = " (row rounded)" if line["scheme"] in ROUNDED else ""
    yield f"`{line['scheme']}`{mark if line['lossless'] else ' **lossy**'}"
    yield _pair(line, "bytes_{}_per_token", 1)
    yield _pair(line, "wire_bytes_{}_per_token")
    p90 = _shown(line["bytes_down_rejected_p90"])
    yield f"{_pair(line, 'bytes_{}_rejected_p50')}, {p90}"
    yield _pair(line, "wire_bytes_{}_rejected_p50")
    yield _measured_alpha(line["alpha"], line["accepted"] + line["rejected"])
    yield _shown(line["alpha_expected"], 3)
    yield _shown(line["overlap"], 3)
    yield _shown(line["tokens_per_round"], 2)
    yield f"{line['more_requests'] / max(1, line['rejected']):.1%}"
    yield _micros(line, "draft_s", "encode_s", "settle_s")
    yield _micros(line, "decode_s", "judge_s")
    yield _micros(line, "law_s")
    yield EMPTY if line["lossless"] else f"{line['kept_share']:.0%}, {line['law_distance']:.3f}"


def _measured_alpha(alpha: float | None, judged: int) -> str:
    if alpha is None:
        return EMPTY
    return f"{alpha:.3f} ± {math.sqrt(alpha * (1 - alpha) / judged):.3f}"


def _micros(line: dict[str, Any], *keys: str) -> str:
    values = [line[key] for key in keys]
    return ", ".join(EMPTY if value is None else f"{value * 1e6:,.0f}" for value in values)


def _pair(line: dict[str, Any], key: str, digits: int = 0) -> str:
    return f"{_shown(line[key.format('up')], digits)} / {_shown(line[key.format('down')], digits)}"


def _shown(value: float | None, digits: int = 0) -> str:
    return EMPTY if value is None else f"{value:,.{digits}f}"
