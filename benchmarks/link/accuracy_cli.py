"""`tandem bench link`: how close the link emulator comes to its numbers."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console

from benchmarks.link.accuracy import RATES_BPS, RTTS_S, Accuracy, measure
from benchmarks.progress import progress_bar
from device_runtime.protocol.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much to send."""
    parser.add_argument("--messages", type=int, default=200, help="per delay (default: 200)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per rate (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print delays and rates; 1 if a median is off by more than 1 ms or 3 %."""
    if args.messages < 10 or args.seconds <= 0:
        raise ConfigError("--messages must be 10 or more, --seconds above 0")
    with progress_bar(Console(stderr=True)) as bar:
        task = bar.add_task("link", total=len(RTTS_S) + len(RATES_BPS))
        accuracy = measure(args.messages, args.seconds, lambda: bar.advance(task))
    print(to_json(accuracy) if args.json else to_text(accuracy))
    return 0 if accuracy.ok else 1


def to_json(accuracy: Accuracy) -> str:
    """All figures; units are in the keys."""
    delays = [{**asdict(delay), "error_s": delay.error_s} for delay in accuracy.delays]
    rates = [{**asdict(rate), "error_ratio": rate.error} for rate in accuracy.rates]
    return json.dumps({"delays": delays, "rates": rates, "ok": accuracy.ok}, indent=2)


def to_text(accuracy: Accuracy) -> str:
    """Two tables and the verdict."""
    lines = [
        "round trip   way   expected   median      p90     error   without proxy (ms, one way)"
    ]
    for d in accuracy.delays:
        times = (d.expected_s, d.median_s, d.p90_s, d.error_s, d.direct_s)
        cells = "".join(f"{1e3 * time_s:9.3f}" for time_s in times)
        lines.append(f"{1e3 * d.rtt_s:7.0f} ms   {d.way:<4}{cells}")
    lines += ["", "        rate   way    measured    error"]
    for r in accuracy.rates:
        expected, measured = r.expected_bps / 1e6, r.measured_bps / 1e6
        lines.append(f"{expected:5.0f} Mbit/s   {r.way:<5}{measured:9.3f}  {100 * r.error:+6.2f} %")
    verdict = "within" if accuracy.ok else "not within"
    return "\n".join([*lines, "", f"{verdict} 1 ms and 3 %"])
