"""What `tandem top` shows, from statuses that a test makes up and from a real server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from rich.console import Console

from device_runtime import cli
from device_runtime.protocol.device_session import DeviceSession
from device_runtime.protocol.edge_states import Outcome
from edge_server.app import make_app
from edge_server.config import EdgeConfig
from edge_server.state import EDGE
from edge_server.top import duration, frame, rates
from tests.edge_client import EdgeClient
from tests.table_engine import TableEngine
from tests.table_model import random_table, vocabulary_hash

TALLY = {
    "rounds": 100, "proposed": 400, "evaluated": 300, "accepted": 240, "corrections": 60,
    "bonus": 40, "full_rounds": 40, "partial_rounds": 50, "zero_rounds": 10, "streamed": 0,
}  # fmt: skip


def a_status(**more: Any) -> dict[str, Any]:
    session = {"number": 1, "connected": True, "tokens": 1234, "idle_s": 0.5, "alpha": 0.8}
    other = {"number": 2, "connected": False, "tokens": 9, "idle_s": 90.0, "alpha": None}
    status = {
        "model": "llama", "ready": True, "draining": False, "replicas": 2, "replicas_lost": 0,
        "uptime_s": 100.0, "queue_jobs": 3,
        "completions": 2, "batches": 50, "batch_jobs": 200, "batch_tokens": 1000,
        "total": dict(TALLY), "cache_capacity_tokens": 1000, "cache_used_tokens": 250,
        "evictions": 7, "gpu": None, "connected": 1, "waiting": 1,
        "sessions": [
            {**session, "tally": dict(TALLY)},
            {**other, "tally": dict.fromkeys(TALLY, 0)},
        ],
    }  # fmt: skip
    return {**status, **more}


def shown(status: dict[str, Any], now: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(frame(status, now))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_lost_replica_is_seen() -> None:
    status = a_status(replicas=1, replicas_lost=1)
    assert "1 of 2 replicas lost" in shown(status, rates(status, later(status, 2.0)))
    whole = a_status()
    assert "ready" in shown(whole, rates(whole, later(whole, 2.0)))


def later(status: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The same server some rounds on: 10 rounds, 24 of 30 accepted, 4 bonus tokens."""
    after = deepcopy(status)
    after["uptime_s"] += seconds
    after["batches"] += 5
    after["batch_jobs"] += 10
    after["batch_tokens"] += 60
    for tally in (after["total"], after["sessions"][0]["tally"]):
        for name, gain in (
            ("rounds", 10), ("evaluated", 30), ("accepted", 24), ("corrections", 6), ("bonus", 4),
        ):  # fmt: skip
            tally[name] += gain
    return after


def test_rates_are_of_the_time_between_two_looks() -> None:
    before = a_status()
    now = rates(before, later(before, 2.0))
    assert now["tokens_per_s"] == 17.0
    assert now["rounds_per_s"] == 5.0
    assert now["batches_per_s"] == 2.5
    assert now["jobs_per_batch"] == 2.0
    assert now["model_tokens_per_s"] == 30.0
    assert now["alpha"] == 0.8
    assert now["session_tokens_per_s"] == {"1": 17.0, "2": 0.0}


def test_a_server_at_rest_has_no_rates() -> None:
    status = a_status()
    now = rates(status, a_status(uptime_s=101.0))
    assert (now["tokens_per_s"], now["jobs_per_batch"], now["alpha"]) == (0.0, 0, None)


def test_a_restart_between_two_looks_counts_nothing() -> None:
    now = rates(a_status(), a_status(uptime_s=2.0, total=dict.fromkeys(TALLY, 0)))
    assert now["tokens_per_s"] == 0.0


def test_the_picture_holds_what_counts() -> None:
    before = a_status(gpu=None)
    gpu = {"name": "H200", "used_bytes": 7 << 30, "total_bytes": 140 << 30, "utilization": 0.42}
    after = later(before, 2.0) | {"gpu": gpu}
    text = shown(after, rates(before, after))
    for words in (
        "llama  ready  up 2 min", "tokens/s 17.0", "rounds/s 5.0", "0.80 now", "batch 2.0 jobs",
        "queue 3 jobs", "completions 2", "1 connected, 1 waiting", "cache 25% of 1,000 tokens",
        "evictions 7", "H200 7.0 of 140.0 GiB, 42% busy",
    ):  # fmt: skip
        assert words in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("1 ", "2 "))]
    assert rows[0][:5] == ["1", "connected", "1,234", "17.0", "110"]
    assert rows[1][:4] == ["2", "waiting", "9", "0.0"]


@pytest.mark.parametrize(
    ("more", "word"), [({"draining": True, "ready": False}, "draining"), ({"ready": False}, "fail")]
)
def test_trouble_shows(more: dict[str, Any], word: str) -> None:
    status = a_status(**more)
    assert word in shown(status, rates(status, status))


def test_many_sessions_are_cut() -> None:
    status = a_status()
    status["sessions"] = [status["sessions"][0] | {"number": n} for n in range(100)]
    text = shown(status, rates(status, status))
    assert "70 more" in text
    assert len(text.splitlines()) < 40


def test_sessions_of_others_are_a_number() -> None:
    status = a_status(connected=5, waiting=2)
    text = shown(status, rates(status, status))
    assert "5 connected, 2 waiting" in text
    assert "sessions of this token: 2 of 7" in text
    assert "of this token" not in shown(a_status(), rates(status, status))
    nobody = a_status(connected=5, waiting=2, sessions=[])
    text = shown(nobody, rates(nobody, nobody))
    assert "no sessions" in text
    assert "0 of 7" in text


def test_durations_have_their_unit() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 7200)] == ["0 s", "59 s", "1 min", "2.0 h"]


# against a server


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    (tmp_path / "tokens").write_text("only-for-this-test")
    engine = TableEngine(random_table(16, seed=1))
    app = make_app([engine], engine.facts(), EdgeConfig(tokens_file=str(tmp_path / "tokens")))
    async with TestServer(app) as server:
        app[EDGE].metrics.total.add(Outcome(num_streamed=3, is_round=False))
        yield str(server.make_url("/"))


async def top(*arguments: str) -> int:
    """As typed; it has an event loop of its own, so it runs in a thread."""
    return await asyncio.to_thread(cli.main, ["top", "--interval", "0.05", *arguments])


async def test_once_as_json(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--edge", url, "--token-file", str(tmp_path / "tokens"))
    assert await top(*arguments, "--once", "--json") == 0
    look = json.loads(capsys.readouterr().out)
    assert look["status"]["model"] == "table"
    assert look["status"]["total"]["streamed"] == 3
    assert look["rates"]["tokens_per_s"] == 0
    assert await top(*arguments, "--once") == 0
    assert "table  ready" in capsys.readouterr().out


async def test_a_client_sees_its_own_sessions_and_how_many_others_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens = ["a" * 20, "b" * 20]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    (tmp_path / "mine").write_text(tokens[0])
    engine = TableEngine(random_table(16, seed=1))
    app = make_app([engine], engine.facts(), EdgeConfig(tokens_file=str(tmp_path / "tokens")))
    async with TestClient(TestServer(app)) as client:
        for owner in (0, 1, 1):
            session = DeviceSession(16, vocabulary_hash, "test")
            await EdgeClient.connect(client, session, tokens[owner])
        for owner, numbers in ((0, [1]), (1, [2, 3])):
            headers = {"Authorization": f"Bearer {tokens[owner]}"}
            status = await (await client.get("/v1/status", headers=headers)).json()
            assert [session["number"] for session in status["sessions"]] == numbers
            assert (status["connected"], status["waiting"]) == (3, 0)
        url = str(client.make_url("/"))
        mine = str(tmp_path / "mine")
        assert await top("--edge", url, "--token-file", mine, "--once") == 0
        shown_text = capsys.readouterr().out
        assert "3 connected, 0 waiting" in shown_text
        assert "sessions of this token: 1 of 3" in shown_text
        text = await (await client.get("/metrics", headers=headers)).text()
        assert 'tandem_sessions{state="connected"} 3.0' in text


async def test_what_is_wrong_is_one_line(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong").write_text("not-the-one-that-is-known")
    (tmp_path / "list").write_text("one\ntwo\n")
    wrong, lists = (("--token-file", str(tmp_path / name)) for name in ("wrong", "list"))
    for arguments, words in (
        (("--edge", url), "wants a bearer token"),
        (("--edge", "http://127.0.0.1:9"), "no edge answers"),
        (("--edge", url + "nothing"), "--token-file"),
        (("--edge", url, *wrong), "does not accept the bearer token"),
        (("--edge", url, *lists), "holds 2 lines"),
        (("--edge", "https" + url[4:]), "write http://"),
        (("--edge", url, "--ca-file", "none.pem"), "--ca-file is for TLS"),
        (
            ("--edge", "https://x", "--ca-file", "none.pem"),
            "--ca-file none.pem gives no certificates",
        ),
        (("--edge", "ftp://x"), "no edge URL"),
        (("--interval", "0"), "--interval"),
    ):
        assert await top(*arguments, "--once") == 1
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
