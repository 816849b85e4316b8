"""The server of `tandem edge`: it serves models once they are loaded, until it is told to end."""

from __future__ import annotations

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
from edge_server.address import unavailable
from edge_server.app import drain, make_app
from edge_server.config import EdgeConfig
from edge_server.engines import Starting
from edge_server.facts import edge_facts
from edge_server.gauges import gpu_probe, used_tokens
from edge_server.reload import reload
from edge_server.state import EDGE, Probes
from edge_server.text import EdgeText

EXIT_INTERRUPTED = 130

_KEEPALIVE_TIMEOUT_S = 20.0
_LAST_WORDS_S = 5.0
"""After draining, for answers that are on their way."""
_MAX_HEADERS = 64
"""Of a request, each at most 8,190 bytes, which is aiohttp's own limit."""
logger = logging.getLogger(__name__)


class NoReplicaError(TandemError):
    """Every engine has ended."""

    def __init__(self) -> None:
        super().__init__(
            "the model can run no more, for the reason that the log names; start the edge again (a "
            "supervisor does so on this exit code)"
        )


def build(starting: Starting) -> tuple[web.Application, dict[str, object]]:
    """The application, once the models are loaded; and what is printed about it."""
    config, checkpoint, device = starting.config, starting.checkpoint, starting.device
    engines = starting.engines()
    facts = edge_facts(checkpoint, starting.tokens, engines[0].context_len)
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
        "dtype": str(starting.dtype).removeprefix("torch."),
        "replicas": len(engines),
        "threads": starting.num_threads,
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
    except Exception as error:  # noqa: BLE001 -- tokenizers raises nothing narrower
        logger.warning("completions over HTTP are off: %s", error)
        return None


async def serve(
    app: web.Application,
    config: EdgeConfig,
    tls: ssl.SSLContext | None,
    summary: dict[str, object],
    read: Callable[[], EdgeConfig],
    *,
    as_json: bool,
) -> signal.Signals:
    """Listen until a signal comes; the signal. SIGHUP has the settings read again.

    NoReplicaError where no model is left to serve, once everyone has been told to go on elsewhere.
    """
    stop = _stop_signal()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload, app, read, tls)
    runner = web.AppRunner(
        app, access_log=None, access_log_class=AccessLogger,
        keepalive_timeout=_KEEPALIVE_TIMEOUT_S, shutdown_timeout=_LAST_WORDS_S,
        handler_cancellation=True, max_headers=_MAX_HEADERS,
    )  # fmt: skip
    await runner.setup()
    try:
        _announce(await _listen(runner, config, tls), summary, as_json=as_json)
        none_left = asyncio.ensure_future(app[EDGE].replicas.none_left())
        await asyncio.wait((stop, none_left), return_when=asyncio.FIRST_COMPLETED)
        await drain(app)
        if none_left.done():
            raise NoReplicaError
        none_left.cancel()
        return await stop
    finally:
        await runner.cleanup()


def _stop_signal() -> asyncio.Future[signal.Signals]:
    """The signal that tells the server to end, once it comes."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def on_signal(number: signal.Signals) -> None:
        if stop.done():  # asked twice: do not wait for anyone
            os._exit(EXIT_INTERRUPTED)
        stop.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


async def _listen(runner: web.AppRunner, config: EdgeConfig, tls: ssl.SSLContext | None) -> str:
    """Take the address; the URL. ConfigError where it cannot be had."""
    try:
        await web.TCPSite(runner, config.host, config.port, ssl_context=tls).start()
    except OSError as error:
        raise unavailable(config, error) from None
    host, port = runner.addresses[0][:2]
    host = f"[{host}]" if ":" in host else host
    return f"http{'s' if tls else ''}://{host}:{port}"


def _announce(url: str, summary: dict[str, object], *, as_json: bool) -> None:
    """One line when clients may connect: scripts wait for it."""
    if as_json:
        line = json.dumps({"event": "ready", "url": url, "pid": os.getpid(), **summary})
    else:
        several = f", {summary['replicas']} replicas" if summary["replicas"] != 1 else ""
        if summary["threads"]:
            several += f", --threads {summary['threads']}"
        line = (
            f"tandem edge: {summary['model']} ({summary['dtype']}, {summary['device']}{several}, "
            f"context {summary['context_len']}) at {url}"
        )
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
