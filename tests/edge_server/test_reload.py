"""Settings read again while the server runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from aiohttp import WSCloseCode, web
from aiohttp.test_utils import TestClient, TestServer

from device_runtime.protocol.device_session import DeviceSession
from device_runtime.protocol.errors import ConfigError, ErrorCode, RefusedError
from edge_server.admission import RateError
from edge_server.app import make_app
from edge_server.config import EdgeConfig
from edge_server.reload import LIVE, reload
from edge_server.state import EDGE, Edge
from tests.edge_client import EdgeClient
from tests.table_engine import TableEngine
from tests.table_model import random_table, vocabulary_hash

VOCAB = 16
OLD, NEW = "the-old-token-here", "the-new-token-here"


class Running:
    """A server with tokens, and its settings as a file would give them."""

    def __init__(
        self, client: TestClient[web.Request, web.Application], config: EdgeConfig
    ) -> None:
        self.client = client
        self.config = config

    @property
    def edge(self) -> Edge:
        return self.client.app[EDGE]

    def reload(self, **settings: object) -> None:
        self.config = replace(self.config, **settings)  # type: ignore[arg-type]
        reload(self.client.app, lambda: self.config, None)

    async def connect(self, token: str = OLD) -> EdgeClient:
        session = DeviceSession(VOCAB, vocabulary_hash, "test")
        session.append([1, 2])
        return await EdgeClient.connect(self.client, session, token)

    async def status(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return (await self.client.get("/v1/models", headers=headers)).status


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "tokens").write_text(OLD)
    engine = TableEngine(random_table(VOCAB, seed=1))
    config = EdgeConfig(model=str(tmp_path), tokens_file=str(tmp_path / "tokens"), max_sessions=1)
    app = make_app(engine, engine.facts(), config)
    async with TestClient(TestServer(app)) as client:
        yield Running(client, config)


async def test_limits_change_at_once(running: Running) -> None:
    await running.connect()
    with pytest.raises(RefusedError):
        await running.connect()
    running.reload(max_sessions=2)
    await running.connect()
    running.reload(max_sessions=9, max_sessions_per_token=2)
    with pytest.raises(RefusedError) as refused:
        await running.connect()
    assert refused.value.code is ErrorCode.BUSY
    running.reload(requests_per_minute=1)
    running.edge.admission.begin(b"me")
    with pytest.raises(RateError):
        running.edge.admission.begin(b"me")
    running.reload(max_queue=5)
    assert running.edge.config == running.config


async def test_rates_that_stay_keep_their_debts(running: Running) -> None:
    running.reload(requests_per_minute=1)
    running.edge.admission.begin(b"me")
    running.reload(max_sessions=3)
    with pytest.raises(RateError):
        running.edge.admission.begin(b"me")


async def test_new_tokens_are_let_in_and_old_ones_sent_away(
    running: Running, tmp_path: Path
) -> None:
    device = await running.connect()
    assert (await running.status(OLD), await running.status(NEW)) == (200, 401)
    (tmp_path / "tokens").write_text(NEW)
    running.reload()
    assert (await running.status(OLD), await running.status(NEW)) == (401, 200)
    assert await device.close_code() == WSCloseCode.GOING_AWAY
    (tmp_path / "tokens").write_text(f"{NEW}\n{OLD}")
    running.reload(max_sessions=5)
    stays = await running.connect(NEW)
    running.reload()
    await asyncio.sleep(0.02)
    assert not stays.socket.closed


async def test_what_cannot_change_stays_and_the_rest_changes(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    running.reload(port=1, dtype="bfloat16", max_sessions=7, log_format="json")
    config = running.edge.config
    assert (config.port, config.dtype, config.log_format) == (8600, "auto", "text")
    assert config.max_sessions == 7
    for name in ("port", "dtype", "log_format"):
        assert f"{name} stays" in caplog.text
    assert "changed max_sessions" in caplog.text


@pytest.mark.parametrize("content", ["", "short", None])
async def test_bad_settings_change_nothing(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    if content is None:
        (tmp_path / "tokens").unlink()
    else:
        (tmp_path / "tokens").write_text(content)
    running.reload(max_sessions=7)
    assert running.edge.config.max_sessions == 1
    assert await running.status(OLD) == 200
    assert "nothing was changed" in caplog.text


async def test_a_file_that_cannot_be_read_changes_nothing(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> EdgeConfig:
        raise ConfigError("the file has the unknown key 'x'")

    reload(running.client.app, read, None)
    assert "unknown key 'x'" in caplog.text
    assert await running.status(OLD) == 200


async def test_tls_is_not_turned_on(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cert").write_text("x")
    running.reload(tls_cert=str(tmp_path / "cert"), tls_key=str(tmp_path / "cert"), max_sessions=4)
    assert "restart" in caplog.text
    assert running.edge.config.tls_cert == ""
    assert running.edge.config.max_sessions == 4


def test_every_live_setting_is_one() -> None:
    assert {field.name for field in fields(EdgeConfig)} >= LIVE
