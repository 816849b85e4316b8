"""`tandem bench`: what is measured stands behind a second verb, whose module is imported when named."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from device_runtime.protocol.errors import ConfigError
from hw_profiles import ProfileError

BENCHES = {
    "run": ("benchmarks.run.cli", "every arm over emulated links: latency, bytes, joules"),
    "report": ("benchmarks.report.cli", "tables, sentences and pictures from a run's results"),
    "compare": ("benchmarks.report.compare_cli", "what became faster or slower between two runs"),
    "papers": ("benchmarks.papers_cli", "a run beside the papers' tables and models"),
    "schemes": ("benchmarks.schemes", "bytes, acceptance and time of every scheme"),
    "packing": ("benchmarks.packing_cli", "ways to write a row, against its entropy"),
    "edge": ("benchmarks.edge", "what one edge carries: sessions, batches, GPU time"),
    "device": ("benchmarks.device.cli", "speed and memory of the drafter, beside its peers"),
    "weights": ("benchmarks.weights_cli", "what quantising the SLM costs in acceptance"),
    "link": ("benchmarks.link.accuracy_cli", "how close the link emulator comes to its numbers"),
}
"""Name → module with `add_arguments` and `run`, and its line of help."""


class _BenchParser(argparse.ArgumentParser):
    """Declares its arguments when it is to parse some: torch alone takes seconds to import."""

    def __init__(self, *args: Any, module: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._module = module

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's, with the arguments of the bench's own module."""
        bench = importlib.import_module(self._module)
        bench.add_arguments(self)
        self.set_defaults(run_bench=bench.run)
        return super().parse_known_args(args, namespace)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benches."""
    benches = parser.add_subparsers(
        dest="bench", required=True, metavar="BENCH", parser_class=_BenchParser
    )
    for name, (module, text) in BENCHES.items():
        benches.add_parser(name, help=text, description=f"{text}.", module=module)


def run(args: argparse.Namespace) -> int:
    """Run the bench that was named; ConfigError where it was given a profile that cannot be."""
    try:
        status: int = args.run_bench(args)
    except ProfileError as error:
        raise ConfigError(str(error)) from None
    return status
