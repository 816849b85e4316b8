"""What Prometheus scrapes, read back by its own parser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.schemes.base import Ask
from edge_server.app import make_app
from edge_server.config import EdgeConfig
from edge_server.job_times import Done, Ran
from edge_server.metrics import Metrics, Usage
from edge_server.scheduler import BusyError
from edge_server.state import EDGE, Edge
from edge_server.status import GpuStatus, Status
from edge_server.tally import Tally
from tests.edge_client import EdgeClient
from tests.table_engine import TableEngine
from tests.table_model import TableDrafter, random_table, vocabulary_hash

Client = TestClient[Any, Any]

LLM = random_table(16, seed=1)
SLM = (LLM + random_table(16, seed=2, spread=1.0)).astype(np.float32)


def samples(text: bytes) -> dict[str, float]:
    """`name{label="value"}` → value, of everything but buckets and times of creation."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    engine = TableEngine(LLM)
    app = make_app([engine], engine.facts(), EdgeConfig())
    async with TestClient(TestServer(app)) as started:
        yield started


async def a_device(client: Client) -> EdgeClient:
    session = DeviceSession(16, vocabulary_hash, "test")
    session.append([3, 1, 4])
    return await EdgeClient.connect(client, session)


def a_generation() -> Generation:
    return Generation(scheme_named("dssd"), Sampling(), seed=7, end_ids=())


async def test_rounds_are_counted_as_the_device_counts_them(
    client: Client,
) -> None:
    device = await a_device(client)
    await device.write(TableDrafter(SLM), a_generation(), 4, 40)
    edge: Edge = client.app[EDGE]
    (session,) = edge.status(b"").sessions
    tally = session.tally
    assert tally.proposed == 4 * tally.rounds
    assert tally.full_rounds + tally.partial_rounds + tally.zero_rounds == tally.rounds
    assert tally.evaluated == tally.accepted + tally.corrections
    assert tally.bonus == tally.full_rounds
    assert 40 <= tally.written <= 44
    assert edge.metrics.total == tally
    answer = await client.get("/metrics")
    assert answer.content_type == "text/plain"
    found = samples(await answer.read())
    assert found["tandem_speculation_tokens_total{kind=accepted}"] == tally.accepted
    assert found["tandem_speculation_tokens_total{kind=proposed}"] == tally.proposed
    assert found["tandem_speculation_rounds_total{outcome=zero}"] == tally.zero_rounds
    assert found["tandem_job_seconds_count{kind=round}"] == tally.rounds
    assert found["tandem_job_seconds_count{kind=prompt}"] == 1
    assert found["tandem_batch_jobs_sum"] == found["tandem_queue_wait_seconds_count"]
    assert found["tandem_sessions{state=connected}"] == 1


async def test_a_verdict_asked_for_again_is_not_counted_again(
    client: Client,
) -> None:
    device = await a_device(client)
    await device.begin(a_generation())
    data = device.session.round([], Ask())
    first = await device.exchange(data)
    assert await device.exchange(data) == first
    edge: Edge = client.app[EDGE]
    assert edge.metrics.total.rounds == 1


async def test_streams_are_counted(client: Client) -> None:
    device = await a_device(client)
    await device.begin(a_generation())
    await device.stream(9)
    found = samples(await (await client.get("/metrics")).read())
    assert found["tandem_streamed_tokens_total"] == 9
    assert found["tandem_speculation_rounds_total{outcome=full}"] == 0


def a_status() -> Status:
    return Status(
        model="m", ready=True, draining=False, replicas=2, replicas_lost=1, uptime_s=1.0,
        queue_jobs=3, completions=2,
        batches=0, batch_jobs=0, batch_tokens=0, total=Tally(), cache_capacity_tokens=100,
        cache_used_tokens=32, evictions=4, gpu=GpuStatus("H200", 10, 40, 0.5), connected=5,
        waiting=6, sessions=(),
    )  # fmt: skip


def test_what_stands_is_read_at_the_scrape() -> None:
    found = samples(Metrics(a_status).text())
    assert found["tandem_replicas{state=serving}"] == 2
    assert found["tandem_replicas{state=lost}"] == 1
    assert found["tandem_queue_jobs"] == 3
    assert found["tandem_completions"] == 2
    assert found["tandem_cache_used_tokens"] == 32
    assert found["tandem_cache_evictions_total"] == 4
    assert found["tandem_gpu_memory_used_bytes"] == 10
    assert found["tandem_sessions{state=connected}"] == 5
    assert found["tandem_sessions{state=waiting}"] == 6
    assert found["tandem_ready"] == 1


def test_completions_and_refusals_are_counted() -> None:
    metrics = Metrics(a_status)
    metrics.completion_done("chat", Usage(10, 5, 2.0, 0.5, 0.25), "")
    metrics.completion_done("chat", Usage(10, 0, 1.0, None, None), "cancelled")
    metrics.refused(BusyError("full", 1.0))
    metrics.batch_ran(Ran(3, 12, 0.1, (Done(True, 0.01, 0.11), Done(False, 0.02, 0.12))))
    found = samples(metrics.text())
    chat = "gen_ai_operation_name=chat"
    assert found[f"tandem_completion_tokens_total{{{chat},gen_ai_token_type=input}}"] == 20
    assert found[f"tandem_completion_tokens_total{{{chat},gen_ai_token_type=output}}"] == 5
    assert found[f"gen_ai_server_time_to_first_token_seconds_sum{{{chat}}}"] == 0.5
    assert found[f"gen_ai_server_time_per_output_token_seconds_count{{{chat}}}"] == 1
    duration = "gen_ai_server_request_duration_seconds_count"
    assert found[f"{duration}{{error_type=cancelled,{chat}}}"] == 1
    assert found["tandem_refused_total{limit=server}"] == 1
    assert found["tandem_batch_tokens_sum"] == 12
    assert found["tandem_queue_wait_seconds_sum"] == pytest.approx(0.03)
    assert found["tandem_job_seconds_sum{kind=prompt}"] == pytest.approx(0.11)
    assert found["tandem_job_seconds_sum{kind=round}"] == pytest.approx(0.12)


def test_the_documentation_names_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    first_cells = re.findall(r"^\| (`(?:tandem|gen_ai)_[^|]*)\|", page, re.MULTILINE)
    documented = set(re.findall(r"`([a-z_]+)`", " ".join(first_cells)))
    metrics = Metrics(a_status)
    metrics.completion_done("chat", Usage(1, 2, 1.0, 0.5, 0.25), "")
    metrics.refused(BusyError("full", 1.0))
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(metrics.text().decode())
        if not family.name.endswith("_created")
    }
    assert documented == families
