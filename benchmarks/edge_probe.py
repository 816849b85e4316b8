"""The edge that `tandem bench edge` measures: the real one, with accounts of where its time goes.

It answers `/bench/accounts` with running totals; a bench takes the difference of two of them. CPU time
is that of one thread: the event loop's, with logits → law taken out, and the engine's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from aiohttp import web

from device_runtime.cli import end_with_stdin
from device_runtime.protocol.edge_states import Job, Result, Rows
from device_runtime.protocol.judging import DraftedRows
from device_runtime.protocol.law import Law
from device_runtime.protocol.sampling import Sampling
from edge_server.config import EdgeConfig
from edge_server.engines import start
from edge_server.job_times import Ran
from edge_server.server import build
from edge_server.state import EDGE

ACCOUNTS_PATH = "/bench/accounts"

_LAWS_PER_TIMED = 8
"""One law in so many is timed: the clock takes half a microsecond, which is not the server's."""


@dataclass
class Accounts:
    """Totals since the start, and one entry per batch."""

    loop_cpu_s: float = 0.0
    law_cpu_s: float = 0.0
    """Logits → law, wherever it is done: from those that were timed, for all of them."""
    num_laws: int = 0
    engine_s: float = 0.0
    """Wall time with a batch in the engine, its laws included where they are made there."""
    num_judged: int = 0
    """Jobs whose rows are judged: rounds, and steps of streams."""
    batch_jobs: list[int] = field(default_factory=list)
    batch_tokens: list[int] = field(default_factory=list)
    batch_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    session_cache_bytes: list[float] = field(default_factory=list)
    """Of the blocks that a session holds after a batch, on average; draft model's included."""
    rss_bytes: int = 0


def _clock_s() -> float:
    """What one reading of the clock takes."""
    readings = [time.thread_time() for _ in range(1001)]
    return (readings[-1] - readings[0]) / 1000


_CLOCK_S = _clock_s()


class TimedRows:
    """Rows whose laws are made on the clock, some of them."""

    def __init__(self, rows: Rows, accounts: Accounts) -> None:
        self._rows = rows
        self._accounts = accounts

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        accounts = self._accounts
        accounts.num_laws += 1
        if accounts.num_laws % _LAWS_PER_TIMED:
            return self._rows.law(row, sampling, generated)
        start_s = time.thread_time()
        law = self._rows.law(row, sampling, generated)
        seconds = time.thread_time() - start_s - _CLOCK_S
        accounts.law_cpu_s += _LAWS_PER_TIMED * seconds
        return law


class ProbedEngine:
    """The engine with a clock; everything else is the engine's own."""

    def __init__(self, engine: Any, accounts: Accounts) -> None:
        self._engine = engine
        self._accounts = accounts
        self._reads_together = getattr(engine, "target", engine).reads_together

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: Sequence[tuple[Any, Job]]) -> list[Result]:
        accounts = self._accounts
        if not self._reads_together:  # or laws are made in here
            batch = [
                (slot, replace(job, read=partial(self._timed, job.read))) for slot, job in batch
            ]
        start_s = time.perf_counter()
        results: list[Result] = self._engine.run(batch)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        accounts.engine_s += time.perf_counter() - start_s
        accounts.num_judged += sum(job.num_rows > 0 for _, job in batch)
        return results

    def _timed(self, read: Callable[[Rows], Any], rows: Rows) -> Any:
        if isinstance(rows, DraftedRows):
            return read(DraftedRows(TimedRows(rows.rows, self._accounts), rows.judging))
        return read(TimedRows(rows, self._accounts))

    def held_bytes(self) -> int:
        """Cache that sessions hold."""
        models = getattr(self._engine, "target", None), getattr(self._engine, "draft", None)
        engines = [engine for engine in models if engine is not None] or [self._engine]
        return sum(
            (engine.max_blocks - 1 - engine.num_free_blocks) * engine.runner.block_bytes
            for engine in engines
        )


def probed(config: EdgeConfig) -> tuple[web.Application, dict[str, object]]:
    """The application of `tandem edge` with accounts."""
    app, summary = build(start(config))
    accounts, schedulers = Accounts(), app[EDGE].replicas.schedulers
    engines = [ProbedEngine(scheduler.engine, accounts) for scheduler in schedulers]
    told = schedulers[0].on_batch

    def on_batch(ran: Ran) -> None:
        accounts.batch_jobs.append(ran.num_jobs)
        accounts.batch_tokens.append(ran.num_tokens)
        accounts.batch_s.append(ran.seconds)
        accounts.waited_s.extend(done.waited_s for done in ran.done)
        held_bytes = sum(engine.held_bytes() for engine in engines)
        accounts.session_cache_bytes.append(held_bytes / max(1, len(app[EDGE].registry)))
        told(ran)

    for scheduler, engine in zip(schedulers, engines, strict=True):
        scheduler.engine, scheduler.on_batch = engine, on_batch

    async def answer(_: web.Request) -> web.Response:
        accounts.loop_cpu_s = time.thread_time()
        accounts.rss_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return web.json_response(asdict(accounts))

    app.router.add_get(ACCOUNTS_PATH, answer)
    return app, summary


async def _serve(app: web.Application, summary: dict[str, object]) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    sys.stdout.write(json.dumps({"url": f"http://{host}:{port}", **summary}) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed, or until standard input ends; settings as one JSON object."""
    parser = argparse.ArgumentParser(description="the edge that is measured")
    parser.add_argument("settings", help="fields of EdgeConfig as JSON")
    config = EdgeConfig(**json.loads(parser.parse_args().settings))
    end_with_stdin()
    asyncio.run(_serve(*probed(config)))


if __name__ == "__main__":
    main()
