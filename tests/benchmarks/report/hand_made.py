"""Answers whose figures can be computed by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.record import Record
from benchmarks.report.cells import Group, cells_of, groups_of

MACHINE = {"board": "Raspberry Pi 5", "cpu_model": "Cortex-A76", "num_usable_cpus": 4}
EDGE: dict[str, Any] = {"arm": "edge", "mode": "edge", "rounds": 0}
EDGE_DRAFT: dict[str, Any] = {**EDGE, "arm": "edge-draft"}
DEVICE: dict[str, Any] = {**EDGE, "arm": "device", "mode": "device", "lossless": False}
LOSSY: dict[str, Any] = {"arm": "u-hlm/4", "scheme": "u-hlm", "lossless": False}


def answer(repeat: int = 0, *, is_warmup: bool = False, **changes: Any) -> Record:
    """One answer of dssd-thinned/4 over lte: eleven tokens in 0.4 s, the first after 0.2 s.

    A change of None leaves the value out.
    """
    values = {
        "arm": "dssd-thinned/4", "mode": "split", "scheme": "dssd-thinned", "lossless": True,
        "gamma": 4, "sampling": "T=1", "temperature": 1.0, "link": "lte", "link_rtt_s": 0.0645,
        "link_up_bps": 31e6, "link_down_bps": 117e6, "prompt": "tale", "seed": 1, "llm": "L",
        "slm": "S", "token_ids": tuple(range(11)), "first_tokens": 1,
        "ttft_s": 0.2, "wall_s": 0.4, "rounds": 4,
        "accepted": 6, "rejected": 2, "bytes_up": 110, "bytes_down": 220, "wire_bytes_up": 330,
        "wire_bytes_down": 440, "engine_s": 0.11,
    }  # fmt: skip
    return Record.of("run", MACHINE, {**values, **changes}, repeat=repeat, is_warmup=is_warmup)


def at(
    ms_per_token: float, spread: float = 0.0, repeats: int = 5, **changes: Any
) -> Iterator[Record]:
    """Repeats that write a token in so many ms, from `spread` below to as much above."""
    for repeat in range(repeats):
        offset = spread * (2 * repeat / (repeats - 1) - 1) if repeats > 1 else 0.0
        yield answer(repeat, wall_s=0.2 + (ms_per_token + offset) / 100, **changes)


def group(*records: Iterator[Record] | Sequence[Record]) -> Group:
    """The one group of these records."""
    (found,) = groups_of(cells_of([record for part in records for record in part]))
    return found
