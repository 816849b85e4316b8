"""The device's own link and loops against the real server, where it drains or puts devices off."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestServer

from device_runtime.edge_errors import EdgeLostError
from device_runtime.edge_options import trusted
from device_runtime.generate import write_edge_only, write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.transcript import FinishReason, Piece, Transcript
from device_runtime.turn import Counts
from edge_server.app import drain, make_app
from edge_server.config import EdgeConfig
from edge_server.tls import tls_context
from tests.certificates import a_certificate
from tests.table_engine import TableEngine
from tests.table_model import TableDrafter, random_table, vocabulary_hash, wandering_table

VOCAB = 16
LLM = wandering_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4, 1, 5]
NUM_TOKENS = 200


class Place:
    """One address, at which one edge after another serves."""

    def __init__(self, **settings: object) -> None:
        self._config = EdgeConfig(**settings)  # type: ignore[arg-type]
        self._server: TestServer | None = None
        self._port: int | None = None
        self.num_edges = 0

    async def start(self) -> str:
        """The next edge, which knows nothing of the one before."""
        engine = TableEngine(LLM)
        app = make_app([engine], engine.facts(), self._config)
        self._server = TestServer(app, port=self._port)
        await self._server.start_server()
        self._port = self._server.port
        self.num_edges += 1
        return str(self._server.make_url("/"))

    async def stop(self) -> None:
        """As on SIGTERM."""
        await self.drain()
        assert self._server is not None
        await self._server.close()

    async def drain(self) -> None:
        """Its first part."""
        assert self._server is not None
        await drain(self._server.app)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    one = Place()
    yield one
    await one.stop()


def pieces_of(link: EdgeLink, transcript: Transcript, *, edge_only: bool) -> AsyncIterator[Piece]:
    link.session.append(PROMPT)
    generation = Generation(scheme_named("dssd-thinned"), Sampling(0.0), seed=7, end_ids=())
    if edge_only:
        return write_edge_only(link, generation, transcript)
    return write_split(
        link, TableDrafter(SLM), generation, 4, device_coins(5), transcript, Counts()
    )


def a_transcript() -> Transcript:
    return Transcript(Detokenizer(lambda i: bytes([97 + i]), ()), frozenset(), NUM_TOKENS)


def a_session() -> DeviceSession:
    return DeviceSession(VOCAB, vocabulary_hash, "test")


def greedy_text() -> list[int]:
    tokens = list(PROMPT)
    for _ in range(NUM_TOKENS):
        tokens.append(int(LLM[tokens[-1]].argmax()))
    return tokens[len(PROMPT) :]


@pytest.mark.parametrize("edge_only", [False, True])
async def test_edges_are_restarted_one_after_another_beneath_an_answer(
    place: Place, edge_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    transcript = a_transcript()
    async with EdgeLink(LinkSettings(await place.start()), a_session()) as link:
        async for _ in pieces_of(link, transcript, edge_only=edge_only):
            if len(transcript.token_ids) > 50 * place.num_edges:
                await place.stop()
                await place.start()
    assert place.num_edges == 4
    assert caplog.text.count("shut down in order; trying again") == 3
    assert transcript.token_ids == greedy_text()
    assert transcript.finish_reason is FinishReason.LENGTH


async def test_a_draining_edge_that_takes_no_device_says_what_it_may_be(place: Place) -> None:
    link = EdgeLink(LinkSettings(await place.start()), a_session())
    await place.drain()
    with pytest.raises(EdgeLostError, match=r"at its limit, shutting down or away \(HTTP 503\)"):
        async with link:
            pass


@pytest.mark.parametrize("edge_only", [False, True])
async def test_a_device_in_debt_waits_and_goes_on(edge_only: bool) -> None:
    one = Place(tokens_per_minute=6000)
    transcript, session = a_transcript(), a_session()
    long_prompt = [3] * 250  # of which 25 are charged four times
    url = await one.start()
    for number in range(25):
        async with EdgeLink(LinkSettings(url), a_session()) as link:
            link.session.append(long_prompt[number:])
            link.session.receive_begun(
                await link.exchange(
                    link.session.begin(
                        Generation(scheme_named("dssd-thinned"), Sampling(0.0), seed=7, end_ids=())
                    )
                )
            )
    async with EdgeLink(LinkSettings(url), session) as link:
        async for _ in pieces_of(link, transcript, edge_only=edge_only):
            pass
    assert transcript.token_ids == greedy_text()
    await one.stop()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes certificates with openssl")
async def test_with_the_wrong_kind_of_address_a_device_is_told_the_right_one(
    tmp_path: Path,
) -> None:
    cert, key = a_certificate(tmp_path, "edge")
    config = EdgeConfig(model="m", tls_cert=cert, tls_key=key)
    context = tls_context(config)
    assert context is not None
    engine = TableEngine(LLM)
    with_tls = TestServer(make_app([engine], engine.facts(), config), scheme="https")
    await with_tls.start_server(ssl=context)
    plain = Place()
    address = (await plain.start()).removeprefix("http://")
    tls_address = f"127.0.0.1:{with_tls.port}"

    async def error_of(url: str, ca_file: str | None = None) -> str:
        with pytest.raises((EdgeLostError, ConfigError)) as caught:
            async with EdgeLink(LinkSettings(url, tls=trusted(ca_file, url)), a_session()):
                pass
        return str(caught.value)

    try:
        assert "write http://" in await error_of(f"https://{address}")
        assert "write https://" in await error_of(f"http://{tls_address}")
        assert "pass that of its authority with --ca-file" in await error_of(
            f"https://{tls_address}"
        )
        url = f"https://{tls_address}"
        async with EdgeLink(LinkSettings(url, tls=trusted(cert, url)), a_session()):
            pass
        by_name = f"https://localhost:{with_tls.port}"
        assert (await error_of(by_name, cert)).endswith("subjectAltName=DNS:localhost")
    finally:
        await with_tls.close()
        await plain.stop()
