"""`tandem bench`: what is measured stands behind a second verb."""

from __future__ import annotations

import argparse

from benchmarks import schemes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benches."""
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    bench = benches.add_parser("schemes", help="bytes, acceptance and time of every scheme")
    schemes.add_arguments(bench)
    bench.set_defaults(run_bench=schemes.run)


def run(args: argparse.Namespace) -> int:
    """Run the bench that was named."""
    status: int = args.run_bench(args)
    return status
