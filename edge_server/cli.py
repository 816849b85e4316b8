"""`tandem edge`: serve a large model to devices."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.web_log import AccessLogger

from device_runtime.protocol.errors import TandemError
from edge_server.app import drain, make_app
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig, is_loopback, load_config
from edge_server.engines import find_models, load_engines
from edge_server.facts import edge_facts, read_tokens
from edge_server.gauges import gpu_probe, used_tokens
from edge_server.loading import DEVICES, DTYPES, resolve_device, resolve_dtype
from edge_server.logs import LOG_FORMATS, use_format
from edge_server.reload import reload
from edge_server.state import Probes
from edge_server.text import EdgeText
from edge_server.tls import tls_context

EXIT_INTERRUPTED = 130

_KEEPALIVE_TIMEOUT_S = 20.0
_LAST_WORDS_S = 5.0
"""After draining, for answers that are on their way."""
_MAX_HEADERS = 64
"""Of a request, each at most 8,190 bytes, which is aiohttp's own limit."""
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
        help="of each replica on a CPU (default: the cores, divided among them)",
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
    """Serve until SIGTERM (0) or SIGINT (130); both finish the rounds in hand."""

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
    app, summary = build(config)

    def on_hangup() -> None:
        reload(app, read, tls)

    stopped_by = asyncio.run(_serve(app, config, tls, summary, on_hangup, as_json=args.json))
    return EXIT_INTERRUPTED if stopped_by is signal.SIGINT else 0


def build(config: EdgeConfig) -> tuple[web.Application, dict[str, object]]:
    """Load the model and make the application; and what is printed about it."""
    checkpoint = Checkpoint.open(Path(config.model))
    tokens = read_tokens(checkpoint.folder)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    models = find_models(checkpoint, tokens, config.edge_draft)
    engines = load_engines(config, models, device, dtype)
    facts = edge_facts(checkpoint, tokens, engines[0].context_len)
    if config.edge_draft:
        facts = replace(facts, edge_gamma=config.edge_gamma)
    if facts.context_len < checkpoint.context_len:
        logger.warning(
            "texts end at %d tokens, not at the model's %d: the cache has no room for more "
            "(--cache-gib)", facts.context_len, checkpoint.context_len,
        )  # fmt: skip
    summary = {
        "model": facts.model,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "replicas": len(engines),
        "context_len": facts.context_len,
        "cache_tokens": sum(engine.max_cached for engine in engines),
    }
    probes = Probes(partial(used_tokens, engines), gpu_probe(device))
    text = _open_text(checkpoint.folder)
    return make_app(engines, facts, config, text, probes), summary


def _open_text(folder: Path) -> EdgeText | None:
    """The tokenizer for HTTP clients; devices bring their own, so they are served without."""
    try:
        return EdgeText.open(folder)
    except (TandemError, OSError, ValueError) as error:
        logger.warning("completions over HTTP are off: %s", error)
        return None


async def _serve(
    app: web.Application,
    config: EdgeConfig,
    tls: ssl.SSLContext | None,
    summary: dict[str, object],
    on_hangup: Callable[[], None],
    *,
    as_json: bool,
) -> signal.Signals:
    """Listen until a signal comes; the signal."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stop.done():  # asked twice: do not wait for anyone
            os._exit(EXIT_INTERRUPTED)
        stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    runner = web.AppRunner(
        app, access_log=None, access_log_class=AccessLogger,
        keepalive_timeout=_KEEPALIVE_TIMEOUT_S, shutdown_timeout=_LAST_WORDS_S,
        handler_cancellation=True, max_headers=_MAX_HEADERS,
    )  # fmt: skip
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port, ssl_context=tls).start()
        host, port = runner.addresses[0][:2]
        host = f"[{host}]" if ":" in host else host
        _announce(f"http{'s' if tls else ''}://{host}:{port}", summary, as_json=as_json)
        number = await stop
        await drain(app)
        return number
    finally:
        await runner.cleanup()


def _announce(url: str, summary: dict[str, object], *, as_json: bool) -> None:
    """One line when clients may connect: scripts wait for it."""
    if as_json:
        print(json.dumps({"event": "ready", "url": url, "pid": os.getpid(), **summary}))
    else:
        print(
            f"tandem edge: {summary['model']} ({summary['dtype']}, {summary['device']}, "
            f"context {summary['context_len']}) at {url}"
        )
    sys.stdout.flush()
