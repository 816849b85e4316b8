"""The aiohttp application: routes, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES
from edge_server.auth import IDENTITY, bearer_auth, read_tokens_file
from edge_server.config import EdgeConfig
from edge_server.connection import Connection, ConnectionLimits
from edge_server.engine import TargetEngine
from edge_server.failures import describe
from edge_server.scheduler import Scheduler
from edge_server.sessions import Registry

SESSION_PATH = "/v1/session"

_CLOSE_TIMEOUT_S = 2.0
"""How long a client may take to answer our closing of a connection."""
_EXPIRY_PERIOD_S = 15.0
_RETRY_AFTER_S = 5

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Edge:
    """What all routes share."""

    facts: EdgeFacts
    config: EdgeConfig
    scheduler: Scheduler[Any]
    registry: Registry[Any]
    connections: set[Connection[Any]] = field(default_factory=set)
    draining: bool = False

    @property
    def ready(self) -> bool:
        """Whether new sessions are welcome."""
        return self.scheduler.healthy and not self.draining


EDGE = web.AppKey("edge", Edge)


def make_app(engine: TargetEngine[Any], facts: EdgeFacts, config: EdgeConfig) -> web.Application:
    """The application that serves this engine. ConfigError if the tokens file is no good."""
    tokens = read_tokens_file(Path(config.tokens_file)) if config.tokens_file else ()
    app = web.Application(middlewares=[bearer_auth(tokens)])
    scheduler = Scheduler(
        engine,
        max_queue=config.max_queue,
        max_rows=config.max_batch_rows,
        max_tokens=config.max_batch_tokens,
        prefill_tokens=config.prefill_tokens,
    )
    registry = Registry(
        facts, scheduler, max_sessions=config.max_sessions, resume_ttl_s=config.resume_ttl_s
    )
    app[EDGE] = Edge(facts, config, scheduler, registry)
    app.router.add_get(SESSION_PATH, _session)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.cleanup_ctx.append(_background)
    app.on_shutdown.append(drain)
    return app


async def drain(app: web.Application) -> None:
    """Take nothing new, finish the rounds in hand, close all connections; again does no harm."""
    edge = app[EDGE]
    edge.draining = True
    logger.info("draining %d connections", len(edge.connections))
    timeout_s = edge.config.drain_timeout_s
    await asyncio.gather(*(connection.drain(timeout_s) for connection in edge.connections))


async def _background(app: web.Application) -> AsyncIterator[None]:
    """The scheduler, and the expiry of sessions nobody came back for."""
    edge = app[EDGE]
    tasks = [
        asyncio.create_task(edge.scheduler.serve(), name="scheduler"),
        asyncio.create_task(_expire(edge.registry), name="expiry"),
    ]
    for task in tasks:
        task.add_done_callback(_report)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _expire(registry: Registry[Any]) -> None:
    while True:
        await asyncio.sleep(_EXPIRY_PERIOD_S)
        registry.expire()


def _report(task: asyncio.Task[None]) -> None:
    """A background task never ends by itself: say so if one does."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the %s stopped: %s", task.get_name(), describe(error))


async def _session(request: web.Request) -> web.StreamResponse:
    edge = request.app[EDGE]
    config = edge.config
    if edge.draining or len(edge.connections) >= 2 * config.max_sessions:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": str(_RETRY_AFTER_S)})
    socket = web.WebSocketResponse(
        timeout=_CLOSE_TIMEOUT_S,
        heartbeat=config.heartbeat_s,
        compress=False,
        max_msg_size=MAX_MESSAGE_BYTES,
    )
    await socket.prepare(request)
    limits = ConnectionLimits(
        config.hello_timeout_s, config.idle_timeout_s, config.send_timeout_s, config.max_refusals
    )
    connection = Connection(
        socket, request.transport, request[IDENTITY], edge.registry, edge.scheduler, limits
    )
    edge.connections.add(connection)
    try:
        await connection.serve()
    finally:
        edge.connections.discard(connection)
    return socket


async def _healthz(_: web.Request) -> web.Response:
    """The process answers."""
    return web.Response(text="ok\n")


async def _readyz(request: web.Request) -> web.Response:
    """New sessions are welcome: what a load balancer asks."""
    ready = request.app[EDGE].ready
    return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)
