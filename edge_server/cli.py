"""`tandem edge`: serve a large model to devices."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

from edge_server.address import check_address
from edge_server.config import DEVICES, DTYPES, EdgeConfig, is_loopback, load_config
from edge_server.logs import LOG_FORMATS, use_format
from edge_server.tls import tls_context

_FLAGS = (
    "model", "edge_draft", "edge_gamma", "host", "port", "device", "dtype", "replicas", "num_threads",
    "cache_gib", "tokens_file", "tls_cert", "tls_key", "insecure", "max_sessions", "log_format",
    "trace_file",
)  # fmt: skip

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem edge`. None stands for: as the file or the default says."""
    default = EdgeConfig()
    parser.add_argument("--model", metavar="CHECKPOINT", help="folder of a causal language model")
    parser.add_argument("--host", help=f"address to listen on (default: {default.host})")
    parser.add_argument(
        "--port", type=int, help=f"0 takes a free one and prints it (default: {default.port})"
    )
    parser.add_argument(
        "--edge-draft", metavar="CHECKPOINT",
        help="a small model of the same family that drafts for streams and completions, here",
    )  # fmt: skip
    parser.add_argument(
        "--edge-gamma", type=int, help=f"tokens it drafts at a time (default: {default.edge_gamma})"
    )
    parser.add_argument("--device", choices=DEVICES, help="default: auto, a GPU if there is one")
    parser.add_argument(
        "--dtype", choices=("auto", *DTYPES),
        help="default: auto, bfloat16 on a GPU and float32 on a CPU",
    )  # fmt: skip
    parser.add_argument(
        "--replicas", type=int, metavar="N",
        help=f"copies of the model on a CPU, that batch side by side (default: {default.replicas})",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, dest="num_threads",
        help="of each replica on a CPU (default: as many as make it faster, or the cores divided)",
    )  # fmt: skip
    parser.add_argument(
        "--cache-gib", type=float, help="memory for keys and values (default: a share of the free)"
    )
    _add_serving_arguments(parser, default)


def _add_serving_arguments(parser: argparse.ArgumentParser, default: EdgeConfig) -> None:
    """Those of the server rather than of the model."""
    parser.add_argument("--tokens-file", help="bearer tokens that may connect, one a line")
    parser.add_argument("--tls-cert", help="certificate chain (PEM): serve over TLS")
    parser.add_argument("--tls-key", help="private key of the certificate (PEM)")
    parser.add_argument(
        "--insecure", action="store_true", default=None,
        help="let other machines connect without tokens",
    )  # fmt: skip
    parser.add_argument(
        "--max-sessions", type=int, help=f"sessions kept (default: {default.max_sessions})"
    )
    parser.add_argument("--log-format", choices=LOG_FORMATS, help=f"default: {default.log_format}")
    parser.add_argument(
        "--trace-file", metavar="FILE",
        help="add a line of JSON to it for each job of a session: its times, never its content",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags override")
    parser.add_argument(
        "--json", action="store_true", help="print the line about readiness as JSON"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM (0) or SIGINT (130); both finish the rounds in hand. 1: no model is left."""

    def read() -> EdgeConfig:
        return load_config(args.config, {name: getattr(args, name) for name in _FLAGS})

    config = read()
    config.check_paths()
    use_format(config.log_format)
    tls = tls_context(config)
    if config.tokens_file and tls is None and not is_loopback(config.host):
        logger.warning(
            "bearer tokens cross the network in the clear: give --tls-cert and --tls-key"
        )
    from edge_server.auth import tokens_in_force
    from edge_server.engines import start

    tokens_in_force(config)  # what is wrong is told before a model loads
    check_address(config)
    starting = start(config)
    # Models load in their processes while this one imports the rest: both take seconds.
    from edge_server.server import EXIT_INTERRUPTED, build, serve

    app, summary = build(starting)
    stopped_by = asyncio.run(serve(app, config, tls, summary, read, as_json=args.json))
    return EXIT_INTERRUPTED if stopped_by is signal.SIGINT else 0
