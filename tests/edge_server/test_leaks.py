"""Sessions that come and go leave nothing behind: no memory, task, slot or file handle."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_states import EdgeFacts
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.schemes.base import Ask, Drafted
from edge_server.app import make_app
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.engine import TorchEngine
from edge_server.facts import edge_facts, read_tokens
from edge_server.state import EDGE
from tests.edge_client import EdgeClient
from tests.tiny_models import NUM_TOKENS

MAX_SESSIONS = 16
GENERATION = Generation(scheme_named("coupled"), Sampling(top_p=0.9), seed=5, end_ids=())


TOKENS = ("a" * 20, "b" * 20)
SYSTEM = list(range(100, 170))


@dataclass
class Served:
    client: TestClient[Any, Any]
    engine: TorchEngine
    facts: EdgeFacts
    tokens: tuple[str, ...]
    """Bearer tokens; clients that have one share the beginnings of their texts."""


@pytest.fixture(params=[(), TOKENS], ids=["without tokens", "with tokens and shared beginnings"])
async def served(
    request: pytest.FixtureRequest,
    make_engine: Callable[..., TorchEngine],
    checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> AsyncIterator[Served]:
    engine = make_engine("llama", "float32")
    opened = Checkpoint.open(checkpoint("llama"))
    facts = edge_facts(opened, read_tokens(opened.folder), engine.context_len)
    config = EdgeConfig(max_sessions=MAX_SESSIONS)
    if request.param:
        (tmp_path / "tokens").write_text("\n".join(request.param))
        config = replace(config, tokens_file=str(tmp_path / "tokens"))
    app = make_app([engine], facts, config)
    async with TestClient(TestServer(app)) as client:
        yield Served(client, engine, facts, request.param)


async def come_and_go(served: Served, number: int) -> None:
    """A prompt, a round or a stream, and an end: in order, without a word, or half way."""
    session = DeviceSession(NUM_TOKENS, served.facts.vocabulary_hash, "test")
    token = served.tokens[number % 2] if served.tokens else ""
    session.append(SYSTEM if token else [])
    session.append([4 + number % 300, 7, 9, *range(20, 20 + number % 40)])
    device = await EdgeClient.connect(served.client, session, token)
    await device.begin(GENERATION)
    if number % 3:
        block = [Drafted(5), Drafted(6)]
        session.receive_verdict(await device.exchange(session.round(block, Ask())), block)
    else:
        await device.stream(2)
    if number % 5 == 0:
        await device.socket.send_bytes(session.stream(1000))  # and is gone before the answer
    if number % 2:
        await device.socket.send_bytes(session.close())
    await device.socket.close()
    # aiohttp's test client keeps all of its own to the end, which is no leak of the edge's.
    served.client._websockets.remove(device.socket)


async def settle(served: Served) -> None:
    """Wait until the edge has noticed that all clients are gone."""
    edge = served.client.app[EDGE]
    for _ in range(500):
        if not edge.connections and edge.replicas.num_waiting == 0:
            break
        await asyncio.sleep(0.01)
    gc.collect()


def held_blocks(served: Served) -> int:
    return served.engine.max_cached // 32 - served.engine.num_free_blocks


def num_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def loop_over(served: Served, count: int) -> None:
    for first in range(0, count, 8):
        await asyncio.gather(*(come_and_go(served, number) for number in range(first, first + 8)))
    await settle(served)


def check_nothing_left(served: Served) -> None:
    """Sessions that did not say goodbye wait for their client, as many as may; no more."""
    edge = served.client.app[EDGE]
    assert len(edge.registry) <= MAX_SESSIONS
    assert not edge.connections
    assert held_blocks(served) <= MAX_SESSIONS * 5
    assert len(served.engine._shared._nodes) <= served.engine.max_blocks
    for held in list(edge.registry._held.values()):
        edge.registry.forget(held)


async def test_tasks_slots_and_files_are_given_back(served: Served) -> None:
    await loop_over(served, 16)
    tasks, files = len(asyncio.all_tasks()), num_files()
    await loop_over(served, 40)
    assert len(asyncio.all_tasks()) <= tasks
    assert num_files() <= files
    check_nothing_left(served)
    await come_and_go(served, 1)  # closes its own, and the engine drops what was forgotten
    await settle(served)
    for _ in range(100):
        if held_blocks(served) == 0:
            break
        await asyncio.sleep(0.01)
    assert held_blocks(served) == 0
    is_shared = served.engine._shared.num_idle > 0
    assert is_shared is bool(served.tokens)


@pytest.mark.slow
async def test_memory_is_flat_over_ten_thousand_sessions(served: Served) -> None:
    await loop_over(served, 1_000)
    tasks, files, memory = len(asyncio.all_tasks()), num_files(), rss_bytes()
    await loop_over(served, 10_000)
    growth = rss_bytes() / memory - 1
    print(f"RSS {memory / 2**20:.1f} MiB, growth over 10,000 sessions {growth:+.2%}")
    assert growth <= 0.05
    assert len(asyncio.all_tasks()) <= tasks
    assert num_files() <= files
    check_nothing_left(served)
