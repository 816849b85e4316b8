"""Results of `tandem bench schemes` as records and as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.overhead import Direction, wire_bytes
from benchmarks.scheme_rounds import Measured
from device_runtime.protocol.schemes import SCHEMES

ROUNDED = ("dssd", "dssd-fp32")
"""Exact up to the float format of the row they send."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One scheme, vocabulary and way of sampling."""

    num_ids: int
    sampling: str
    scheme: str
    measured: Measured


def values_of(cell: Cell, gamma: int) -> dict[str, Any]:
    """One cell by the keys of the registry."""
    measured, counts = cell.measured, cell.measured.counts
    return {
        "scheme": cell.scheme,
        "lossless": SCHEMES[cell.scheme].lossless,
        "sampling": cell.sampling,
        "num_ids": cell.num_ids,
        "gamma": gamma,
        "rounds": counts.rounds,
        "drafted": counts.drafted,
        "accepted": counts.accepted,
        "rejected": counts.rejected,
        "bonus": counts.bonus,
        "more_requests": counts.more_requests,
        "alpha": counts.alpha,
        "alpha_expected": float(np.mean(measured.expected)) if measured.expected else None,
        "overlap": float(np.mean(measured.overlaps)),
        "tokens_per_round": measured.num_tokens / counts.rounds,
        **_bytes(measured),
        "encode_s": median(measured.encode_s),
        "decode_s": median(measured.decode_s),
        "judge_s": median(measured.judge_s),
        "settle_s": median(measured.settle_s),
        "protocol_round_s": median(
            map(sum, zip(measured.encode_s, measured.decode_s, measured.judge_s,
                         measured.settle_s, strict=True))
        ),
        "law_s": median(measured.law_s),
    }  # fmt: skip


def _bytes(measured: Measured) -> dict[str, float | None]:
    """Payload and all bytes down to IP, per token and per rejecting round."""
    found: dict[str, float | None] = {}
    ways = ((Direction.UP, measured.bytes_up), (Direction.DOWN, measured.bytes_down))
    for direction, rounds in ways:
        way = direction.value
        payload = np.array([sum(sizes) for sizes in rounds])
        wire = np.array([sum(wire_bytes(size, direction) for size in sizes) for sizes in rounds])
        rejecting = np.array(measured.rejecting)
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
    "alpha expected", "1 − D", "tokens per round", "more", "device µs: encode, settle",
    "edge µs: decode, judge", "logits → law µs",
)  # fmt: skip


def markdown(values: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One table a vocabulary, folded."""
    for num_ids in dict.fromkeys(line["num_ids"] for line in values):
        yield f"<details><summary>{num_ids:,} ids</summary>"
        yield ""
        yield f"| {' | '.join(COLUMNS)} |"
        yield "|---|---|" + "--:|" * (len(COLUMNS) - 2)
        for line in values:
            if line["num_ids"] == num_ids:
                yield f"| {' | '.join(_line(line))} |"
        yield ""
        yield "</details>"
        yield ""


def _line(line: dict[str, Any]) -> Iterator[str]:
    yield line["sampling"]
    yield f"`{line['scheme']}`" + (" (row rounded)" if line["scheme"] in ROUNDED else "")
    yield _pair(line, "bytes_{}_per_token", 1)
    yield _pair(line, "wire_bytes_{}_per_token")
    p90 = _shown(line["bytes_down_rejected_p90"])
    yield f"{_pair(line, 'bytes_{}_rejected_p50')}, {p90}"
    yield _pair(line, "wire_bytes_{}_rejected_p50")
    alpha, judged = line["alpha"], line["accepted"] + line["rejected"]
    yield f"{alpha:.3f} ± {math.sqrt(alpha * (1 - alpha) / judged):.3f}"
    yield _shown(line["alpha_expected"], 3)
    yield f"{line['overlap']:.3f}"
    yield f"{line['tokens_per_round']:.2f}"
    yield f"{line['more_requests'] / max(1, line['rejected']):.1%}"
    yield f"{line['encode_s'] * 1e6:,.0f}, {line['settle_s'] * 1e6:,.0f}"
    yield f"{line['decode_s'] * 1e6:,.0f}, {line['judge_s'] * 1e6:,.0f}"
    yield f"{line['law_s'] * 1e6:,.0f}"


def _pair(line: dict[str, Any], key: str, digits: int = 0) -> str:
    return f"{_shown(line[key.format('up')], digits)} / {_shown(line[key.format('down')], digits)}"


def _shown(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
