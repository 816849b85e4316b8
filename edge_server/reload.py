"""Reading the settings again while the server runs: limits, bearer tokens and the certificate.

What belongs to the model or the socket cannot change live: such a change is refused with a line in
the log, and the rest still counts. Settings that are no good change nothing at all.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import fields, replace

from aiohttp import web

from device_runtime.protocol.errors import ConfigError
from edge_server.admission import Rates
from edge_server.auth import tokens_in_force
from edge_server.config import EdgeConfig
from edge_server.connection import TOKEN_GONE
from edge_server.state import EDGE, Edge
from edge_server.tls import load_certificate

LIVE = frozenset((
    "tokens_file", "insecure", "tls_cert", "tls_key", "max_sessions", "max_sessions_per_token",
    "max_completions", "max_completions_per_token", "requests_per_minute", "tokens_per_minute",
    "max_queue", "resume_ttl_s", "idle_timeout_s", "hello_timeout_s", "heartbeat_s",
    "send_timeout_s", "drain_timeout_s", "max_refusals",
))  # fmt: skip
"""Settings that a reload can change; timeouts count for new connections."""

logger = logging.getLogger(__name__)


def reload(
    app: web.Application, read: Callable[[], EdgeConfig], tls: ssl.SSLContext | None
) -> None:
    """Take over what may change of the settings that `read` gives; never raises on bad ones."""
    edge = app[EDGE]
    try:
        wanted = read()
        wanted.check_paths()
        names = {name for name in _names() if getattr(wanted, name) != getattr(edge.config, name)}
        if bool(wanted.tls_cert) != (tls is not None):
            names -= {"tls_cert", "tls_key"}
            logger.warning("reload: TLS cannot be turned on or off; restart to do so")
        config = replace(
            edge.config, **{name: getattr(wanted, name) for name in names if name in LIVE}
        )
        tokens = tokens_in_force(config)
        if tls is not None:
            load_certificate(tls, config)
    except (ConfigError, OSError) as error:
        logger.error("reload: nothing was changed: %s", error)  # noqa: TRY400 -- a user's mistake
        return
    for name in sorted(names - LIVE):
        logger.warning(
            "reload: %s stays %r: it cannot change while the server runs; restart for %r",
            name, getattr(edge.config, name), getattr(wanted, name),
        )  # fmt: skip
    _apply(edge, config, tokens)
    changed = ", ".join(sorted(names & LIVE)) or "no setting"
    logger.warning("reload: changed %s; %d bearer tokens", changed, len(tokens))


def _names() -> list[str]:
    return [field.name for field in fields(EdgeConfig)]


def _apply(edge: Edge, config: EdgeConfig, tokens: tuple[str, ...]) -> None:
    before, edge.config = edge.config, config
    edge.tokens.replace(tokens)
    edge.replicas.set_max_queue(config.max_queue)
    edge.registry.set_limits(
        config.max_sessions, config.resume_ttl_s, config.max_sessions_per_token
    )
    rates = Rates(config.requests_per_minute, config.tokens_per_minute)
    if rates != Rates(before.requests_per_minute, before.tokens_per_minute):
        edge.admission.set_rates(rates)
    revoked = [c for c, client in edge.connections.items() if not edge.tokens.allows(client)]
    for connection in revoked:
        drained = connection.drain(config.drain_timeout_s, TOKEN_GONE)
        edge.closing.add(task := asyncio.ensure_future(drained))
        task.add_done_callback(edge.closing.discard)
    if revoked:
        logger.warning("reload: closing %d connections of tokens that are gone", len(revoked))
