"""A line of times for each job of a session, and nothing of its content."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from edge_server.app import make_app
from edge_server.config import EdgeConfig
from edge_server.state import EDGE
from edge_server.trace import read_trace
from tests.edge_client import EdgeClient
from tests.table_engine import TableEngine
from tests.table_model import TableDrafter, random_table, vocabulary_hash

LLM = random_table(16, seed=1)
SLM = (LLM + random_table(16, seed=2, spread=1.0)).astype(np.float32)


async def answer_traced(path: Path) -> int:
    """Let an edge that writes its trace judge an answer's rounds; how many these were."""
    engine = TableEngine(LLM)
    app = make_app([engine], engine.facts(), EdgeConfig(trace_file=str(path)))
    async with TestClient(TestServer(app)) as client:
        session = DeviceSession(16, vocabulary_hash, "test")
        session.append([3, 1, 4])
        device = await EdgeClient.connect(client, session)
        generation = Generation(scheme_named("dssd"), Sampling(), seed=7, end_ids=())
        await device.write(TableDrafter(SLM), generation, 4, 40)
        num_rounds: int = app[EDGE].metrics.total.rounds
    return num_rounds


async def test_every_job_has_a_line_whose_parts_fit_between_its_ends(tmp_path: Path) -> None:
    before_s = time.monotonic()
    num_rounds = await answer_traced(tmp_path / "trace.jsonl")
    after_s = time.monotonic()
    lines = read_trace((tmp_path / "trace.jsonl").read_text())
    assert [line.kind for line in lines] == ["begin"] + ["round"] * num_rounds
    assert num_rounds > 5
    for line in lines:
        assert before_s < line.received_s < line.sent_s < after_s
        assert line.queue_s >= 0 and line.engine_s > 0
        assert line.queue_s + line.engine_s < line.sent_s - line.received_s
    for earlier, later in pairwise(lines):
        assert earlier.sent_s < later.received_s


async def test_a_trace_goes_on_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    first_rounds = await answer_traced(path)
    first = path.read_text()
    second_rounds = await answer_traced(path)
    assert path.read_text().startswith(first)
    assert len(read_trace(path.read_text())) == first_rounds + second_rounds + 2


async def test_a_full_disk_ends_the_trace_and_no_session(caplog: pytest.LogCaptureFixture) -> None:
    assert await answer_traced(Path("/dev/full")) > 5
    assert caplog.text.count("the trace ends here") == 1
