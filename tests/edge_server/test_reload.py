"""Settings read again while the server runs."""

from __future__ import annotations

import asyncio
import shutil
import ssl
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
from edge_server.tls import tls_context
from tests.certificates import a_certificate
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
    app = make_app([engine], engine.facts(), config)
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
    assert await device.close_code() == WSCloseCode.POLICY_VIOLATION
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


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe" + b"a" * 40, None])
async def test_bad_settings_change_nothing(
    running: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    if content is None:
        (tmp_path / "tokens").unlink()
    else:
        (tmp_path / "tokens").write_bytes(content)
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


async def name_of(server: TestServer) -> str:
    """Of the certificate that a new connection is shown."""
    port = server.port
    assert port is not None
    pem = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
    der = ssl.PEM_cert_to_DER_cert(pem)
    return "new" if b"new" in der else "old"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
async def test_a_certificate_that_is_no_good_leaves_the_old_one_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = a_certificate(tmp_path, "old")
    new_cert, new_key = a_certificate(tmp_path, "new")
    _, locked = a_certificate(tmp_path, "locked", "-passout", "pass:secret")
    (tmp_path / "rubbish").write_text("x")
    engine = TableEngine(random_table(VOCAB, seed=1))
    config = EdgeConfig(model=str(tmp_path), tls_cert=cert, tls_key=key)
    context = tls_context(config)
    assert context is not None
    server = TestServer(make_app([engine], engine.facts(), config), scheme="https")
    await server.start_server(ssl=context)
    try:
        assert await name_of(server) == "old"
        for bad_key in (key, locked, str(tmp_path / "rubbish")):
            wanted = replace(config, tls_cert=new_cert, tls_key=bad_key, max_sessions=7)
            reload(server.app, lambda wanted=wanted: wanted, context)  # type: ignore[misc]
            assert "nothing was changed" in caplog.text
            caplog.clear()
            assert await name_of(server) == "old"
            assert server.app[EDGE].config == config
        good = replace(config, tls_cert=new_cert, tls_key=new_key)
        reload(server.app, lambda: good, context)
        assert await name_of(server) == "new"
    finally:
        await server.close()


def test_every_live_setting_is_one() -> None:
    assert {field.name for field in fields(EdgeConfig)} >= LIVE
