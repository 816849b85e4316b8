"""The aiohttp application: routes, and what lives as long as the server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.messages import MAX_MESSAGE_BYTES, SESSION_PATH
from edge_server import openai_routes
from edge_server.admission import Admission, Rates
from edge_server.auth import IDENTITY, KnownTokens, bearer_auth, tokens_in_force
from edge_server.config import EdgeConfig
from edge_server.connection import Connection, ConnectionLimits
from edge_server.engine import TargetEngine
from edge_server.failures import describe
from edge_server.front import Front
from edge_server.http_errors import draining, json_errors
from edge_server.job_times import Ran
from edge_server.logs import REQUEST
from edge_server.metrics import CONTENT_TYPE, Metrics
from edge_server.openai_requests import MAX_BODY_BYTES
from edge_server.openapi import describe_api
from edge_server.replicas import Replicas
from edge_server.scheduler import BusyError, Scheduler
from edge_server.sessions import Registry
from edge_server.state import EDGE, Edge, Probes
from edge_server.status import STATUS_PATH, Status
from edge_server.tally import BatchTally
from edge_server.text import EdgeText
from edge_server.trace import Trace

METRICS_PATH = "/metrics"

_CLOSE_TIMEOUT_S = 2.0
"""How long a client may take to answer our closing of a connection."""
_EXPIRY_PERIOD_S = 15.0

logger = logging.getLogger(__name__)


def make_app(
    engines: Sequence[TargetEngine[Any]],
    facts: EdgeFacts,
    config: EdgeConfig,
    text: EdgeText | None = None,
    probes: Probes | None = None,
) -> web.Application:
    """The application that serves these engines, all alike; without `text`, to device sessions only.

    ConfigError if the tokens file is no good.
    """
    tokens = KnownTokens(tokens_in_force(config))
    app = web.Application(
        middlewares=[_numbered(), json_errors, bearer_auth(tokens)], client_max_size=MAX_BODY_BYTES
    )

    def status() -> Status:
        return app[EDGE].status()

    metrics, batches = Metrics(status), BatchTally()

    def on_batch(ran: Ran) -> None:
        batches.add(ran.num_jobs, ran.num_tokens)
        metrics.batch_ran(ran)

    replicas = Replicas([_scheduler(e, config, on_batch) for e in engines], config.max_queue)
    registry = Registry(
        facts, replicas, max_sessions=config.max_sessions, resume_ttl_s=config.resume_ttl_s,
        max_per_client=config.max_sessions_per_token,
    )  # fmt: skip
    admission = Admission(Rates(config.requests_per_minute, config.tokens_per_minute))
    trace = Trace(Path(config.trace_file) if config.trace_file else None)
    app[EDGE] = Edge(
        facts, config, tokens, replicas, registry, admission, metrics,
        Front(replicas, admission, metrics, trace), batches, text, probes or Probes(),
    )  # fmt: skip
    _add_routes(app, with_completions=text is not None)
    app.cleanup_ctx.append(_background)
    app.on_shutdown.append(drain)
    return app


def _scheduler(
    engine: TargetEngine[Any], config: EdgeConfig, on_batch: Callable[[Ran], None]
) -> Scheduler[Any]:
    return Scheduler(
        engine,
        max_rows=config.max_batch_rows,
        max_tokens=config.max_batch_tokens,
        prefill_tokens=config.prefill_tokens,
        length_ratio=config.length_ratio,
        on_batch=on_batch,
    )


def _add_routes(app: web.Application, *, with_completions: bool) -> None:
    router = app.router
    router.add_get(SESSION_PATH, _session)
    router.add_get("/healthz", _healthz)
    router.add_get("/readyz", _readyz)
    router.add_get(METRICS_PATH, _metrics)
    router.add_get(STATUS_PATH, _status)
    router.add_get("/openapi.json", _openapi)
    router.add_get(openai_routes.MODELS_PATH, openai_routes.models)
    router.add_get(openai_routes.MODELS_PATH + "/{model}", openai_routes.model)
    if with_completions:
        router.add_post(openai_routes.COMPLETIONS_PATH, openai_routes.completions)
        router.add_post(openai_routes.CHAT_PATH, openai_routes.chat_completions)


async def drain(app: web.Application) -> None:
    """Take nothing new, finish what is in hand, close all connections; again does no harm.

    Completions that take longer than the time for draining end where they are.
    """
    edge = app[EDGE]
    if not edge.draining:
        counts = (len(edge.connections), len(edge.completions))
        logger.info("draining %d connections, %d completions", *counts)
    edge.draining = True
    timeout_s = edge.config.drain_timeout_s
    closing = [connection.drain(timeout_s) for connection in edge.connections]
    await asyncio.gather(_drain_completions(edge, timeout_s), *closing)


async def _drain_completions(edge: Edge, timeout_s: float) -> None:
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(edge.no_completions.wait(), timeout_s)
    for completion in edge.completions:
        completion.cut()


async def _background(app: web.Application) -> AsyncIterator[None]:
    """The schedulers, and the expiry of sessions nobody came back for."""
    edge = app[EDGE]
    schedulers = edge.replicas.schedulers
    tasks = [
        asyncio.create_task(each.serve(), name=f"scheduler {number}")
        for number, each in enumerate(schedulers)
    ]
    tasks.append(asyncio.create_task(_expire(edge.registry), name="expiry"))
    for task in tasks:
        task.add_done_callback(_report)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for scheduler in schedulers:
        scheduler.engine.close()
    edge.front.trace.close()


async def _expire(registry: Registry[Any]) -> None:
    while True:
        await asyncio.sleep(_EXPIRY_PERIOD_S)
        registry.expire()


def _report(task: asyncio.Task[None]) -> None:
    """A background task never ends by itself: say so if one does."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the %s stopped: %s", task.get_name(), describe(error))


def _numbered() -> Any:
    """Middleware that numbers requests, so that the lines of a log can be told apart."""
    numbers = itertools.count(1)

    @web.middleware
    async def number(request: web.Request, handler: Handler) -> web.StreamResponse:
        REQUEST.set(next(numbers))
        return await handler(request)

    return number


async def _session(request: web.Request) -> web.StreamResponse:
    edge = request.app[EDGE]
    config = edge.config
    if edge.draining:
        raise draining()
    try:
        edge.check_connections(request[IDENTITY])
    except BusyError as error:
        edge.metrics.refused(error)
        raise
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
        socket, request.transport, request[IDENTITY], edge.registry, edge.front, limits
    )
    edge.connections[connection] = request[IDENTITY]
    try:
        await connection.serve()
    finally:
        del edge.connections[connection]
    return socket


async def _healthz(request: web.Request) -> web.Response:
    """The process can still serve; if not, nothing but starting it again helps."""
    stopped = request.app[EDGE].replicas.num_stopped
    return web.Response(text="stopped\n" if stopped else "ok\n", status=503 if stopped else 200)


async def _readyz(request: web.Request) -> web.Response:
    """New sessions are welcome: what a load balancer asks."""
    ready = request.app[EDGE].ready
    return web.Response(text="ready\n" if ready else "not ready\n", status=200 if ready else 503)


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=request.app[EDGE].metrics.text(), headers={"Content-Type": CONTENT_TYPE}
    )


async def _status(request: web.Request) -> web.Response:
    return web.json_response(asdict(request.app[EDGE].status(request[IDENTITY])))


async def _openapi(request: web.Request) -> web.Response:
    edge = request.app[EDGE]
    return web.json_response(describe_api(edge.facts.model, with_completions=edge.text is not None))
