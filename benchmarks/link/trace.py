"""Recorded links: files in mahimahi's format, and CSV with a rate per time."""

from __future__ import annotations

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

from benchmarks.link.capacity import Rates
from hw_profiles import ProfileError

MAX_TRACE_BYTES = 64 << 20
PACKET_BITS = 8 * 1500
"""What one line of a mahimahi trace stands for."""
CSV_HEADER = ["time_s", "rate_bps"]


def load(path: Path) -> Rates:
    """A trace by its ending: `.csv` is time_s,rate_bps; all else mahimahi's. ProfileError."""
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise ProfileError(f"{path} is larger than {MAX_TRACE_BYTES >> 20} MiB; cut the trace")
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"cannot read the trace {path}: {error}") from None
    try:
        return from_csv(text) if path.suffix == ".csv" else from_mahimahi(text)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def from_mahimahi(text: str) -> Rates:
    """Each line: the millisecond at which one packet of 1,500 bytes may go; repeats after the last.

    A line becomes 1,500 bytes spread over the millisecond before it, so that a packet has left at
    its time, and small packets share an opportunity.
    """
    times_ms = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if not word:
            continue
        if not word.isdecimal():
            raise ProfileError(f"line {number} is {word[:40]!r}, expected whole milliseconds")
        times_ms.append(int(word))
    if not times_ms or any(a > b for a, b in pairwise(times_ms)):
        raise ProfileError("a mahimahi trace is a list of milliseconds that never falls")
    period_ms = max(times_ms[-1], 1)
    # A packet at 0 ms is one at the end of the pass before.
    packets = Counter((ms - 1) % period_ms for ms in times_ms)
    steps: list[tuple[float, float]] = [(0.0, packets[0] * PACKET_BITS * 1e3)]
    for ms in sorted(packets):
        for start_ms, count in ((ms, packets[ms]), (ms + 1, packets[ms + 1])):
            if steps[-1][0] < start_ms / 1e3 < period_ms / 1e3:
                steps.append((start_ms / 1e3, count * PACKET_BITS * 1e3))
    return Rates(steps, period_ms / 1e3)


def from_csv(text: str) -> Rates:
    """Header `time_s,rate_bps`; a rate holds until the next time, the last as long as the one before.

    A single line is a constant rate.
    """
    rows = list(csv.reader(text.splitlines()))
    if not rows or [cell.strip() for cell in rows[0]] != CSV_HEADER:
        raise ProfileError(f"the first line must be {','.join(CSV_HEADER)}")
    steps = []
    for number, row in enumerate(rows[1:], 2):
        try:
            time, rate = map(float, row)
        except ValueError:
            raise ProfileError(
                f"line {number} is {','.join(row)[:40]!r}, not two numbers"
            ) from None
        steps.append((time, rate))
    if len(steps) < 2:
        return Rates(steps, 1.0)
    first_s = steps[0][0]
    last_s, before_s = steps[-1][0], steps[-2][0]
    shifted = [(time - first_s, rate) for time, rate in steps]
    return Rates(shifted, last_s - first_s + (last_s - before_s))
