"""`tandem bench`: what is measured stands behind a second verb."""

from __future__ import annotations

import argparse

from benchmarks import edge, packing_cli, papers_cli, schemes, weights_cli
from benchmarks.device import cli as device_cli
from benchmarks.link import accuracy_cli
from benchmarks.report import cli as report_cli
from benchmarks.report import compare_cli
from benchmarks.run import cli as run_cli


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benches."""
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")
    bench = benches.add_parser("run", help="every arm over emulated links: latency, bytes, joules")
    run_cli.add_arguments(bench)
    bench.set_defaults(run_bench=run_cli.run)
    bench = benches.add_parser("report", help="tables, sentences and pictures from a run's results")
    report_cli.add_arguments(bench)
    bench.set_defaults(run_bench=report_cli.run)
    bench = benches.add_parser("compare", help="what became faster or slower between two runs")
    compare_cli.add_arguments(bench)
    bench.set_defaults(run_bench=compare_cli.run)
    bench = benches.add_parser("papers", help="a run beside the papers' tables and models")
    papers_cli.add_arguments(bench)
    bench.set_defaults(run_bench=papers_cli.run)
    bench = benches.add_parser("schemes", help="bytes, acceptance and time of every scheme")
    schemes.add_arguments(bench)
    bench.set_defaults(run_bench=schemes.run)
    bench = benches.add_parser("packing", help="ways to write a row, against its entropy")
    packing_cli.add_arguments(bench)
    bench.set_defaults(run_bench=packing_cli.run)
    bench = benches.add_parser("edge", help="what one edge carries: sessions, batches, GPU time")
    edge.add_arguments(bench)
    bench.set_defaults(run_bench=edge.run)
    bench = benches.add_parser("device", help="speed and memory of the drafter, beside its peers")
    device_cli.add_arguments(bench)
    bench.set_defaults(run_bench=device_cli.run)
    bench = benches.add_parser("weights", help="what quantising the SLM costs in acceptance")
    weights_cli.add_arguments(bench)
    bench.set_defaults(run_bench=weights_cli.run)
    bench = benches.add_parser("link", help="how close the link emulator comes to its numbers")
    accuracy_cli.add_arguments(bench)
    bench.set_defaults(run_bench=accuracy_cli.run)


def run(args: argparse.Namespace) -> int:
    """Run the bench that was named."""
    status: int = args.run_bench(args)
    return status
