"""The server over real sockets: sessions, refusals, limits, taking over, draining."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import WSCloseCode, WSMsgType, WSServerHandshakeError, web
from aiohttp.test_utils import TestClient, TestServer

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ErrorCode, RefusedError
from device_runtime.protocol.messages import (
    MAX_MESSAGE_BYTES,
    Begin,
    Begun,
    Cancel,
    Close,
    Flags,
    Hello,
    Refusal,
    Round,
    Tokens,
    Verdict,
    decode,
    encode,
)  # fmt: skip
from device_runtime.protocol.randomness import stream_key
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES, scheme_named
from device_runtime.protocol.schemes.base import Ask, Drafted
from device_runtime.protocol.tokens import TokenList
from edge_server.app import drain, make_app
from edge_server.auth import OPEN_PATHS
from edge_server.config import EdgeConfig
from edge_server.connection import HASHED_AT_ONCE, SHUTTING_DOWN, TAKEN_OVER
from edge_server.state import EDGE
from tests.edge_client import SESSION_PATH, EdgeClient
from tests.table_engine import TableEngine
from tests.table_model import TableDrafter, random_table, vocabulary_hash, wandering_table

VOCAB = 16
LLM = wandering_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)
PROMPT = [3, 1, 4, 1, 5]
GREEDY = Sampling(temperature=0.0)
COUPLED = Generation(scheme_named("coupled"), Sampling(), seed=7, end_ids=())

Serve = Callable[..., Awaitable[TestClient[Any, Any]]]


@pytest.fixture
def engine() -> TableEngine:
    return TableEngine(LLM)


@pytest.fixture
async def serve(engine: TableEngine) -> AsyncIterator[Serve]:
    """Starts the application on a free port; keyword arguments are settings."""
    clients = []

    async def start(**settings: object) -> TestClient[Any, Any]:
        config = EdgeConfig(**settings)  # type: ignore[arg-type]
        client = TestClient(TestServer(make_app([engine], engine.facts(), config)))
        await client.start_server()
        clients.append(client)
        return client

    yield start
    engine.gate.set()
    for client in clients:
        await client.close()


def a_session(prompt: list[int] | None = None) -> DeviceSession:
    session = DeviceSession(VOCAB, vocabulary_hash, "test")
    session.append(PROMPT if prompt is None else prompt)
    return session


def a_generation(scheme: str = "greedy-draft", sampling: Sampling = GREEDY) -> Generation:
    return Generation(scheme_named(scheme), sampling, seed=7, end_ids=())


async def connect(client: TestClient[Any, Any], **more: Any) -> EdgeClient:
    return await EdgeClient.connect(client, a_session(**more))


def greedy_text(prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(LLM[tokens[-1]].argmax()))
    return tokens[len(prompt) :]


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")


# sessions that go well


@pytest.mark.parametrize("scheme", [name for name, s in SCHEMES.items() if s.lossless])
async def test_greedy_text_is_the_llm_s_by_every_scheme(serve: Serve, scheme: str) -> None:
    device = await connect(await serve())
    written = await device.write(TableDrafter(SLM), a_generation(scheme), 4, 30)
    assert written == greedy_text(PROMPT, 30)


async def test_generations_follow_each_other_and_history_can_shrink(serve: Serve) -> None:
    device = await connect(await serve())
    await device.write(TableDrafter(SLM), a_generation(), 4, 10)
    device.session.truncate(8)
    device.session.append([2, 2])
    kept = list(device.session.tokens.ids)
    written = await device.write(TableDrafter(SLM), a_generation(), 3, 10)
    assert written == greedy_text(kept, 10)


async def test_interleaved_sessions_write_what_each_writes_alone(
    serve: Serve, engine: TableEngine
) -> None:
    client = await serve()
    prompts = [[i, 3, i] for i in range(8)]

    async def write(prompt: list[int]) -> list[int]:
        device = await connect(client, prompt=prompt)
        return await device.write(TableDrafter(SLM), COUPLED, 1 + prompt[0] % 4, 25)

    together = await asyncio.gather(*map(write, prompts))
    num_batches = len(engine.batches)
    alone = [await write(prompt) for prompt in prompts]
    assert together == alone
    assert num_batches < len(engine.batches) - num_batches  # they did share batches


async def test_the_stream_is_the_llm_s_text_and_the_one_coupled_gives(serve: Serve) -> None:
    client = await serve()
    device = await connect(client)
    await device.begin(COUPLED)
    streamed = await device.stream(20)
    split = await (await connect(client)).write(TableDrafter(SLM), COUPLED, 4, 20)
    assert streamed == split


async def test_a_stream_can_be_cancelled_and_the_session_goes_on(
    serve: Serve, engine: TableEngine
) -> None:
    device = await connect(await serve())
    await device.begin(a_generation())
    await device.socket.send_bytes(device.session.stream(100_000))
    for _ in range(3):
        device.session.receive_tokens(await device.receive())
    await device.socket.send_bytes(device.session.cancel())
    num_tokens = 0
    while not (tokens := device.session.receive_tokens(await device.receive())).last:
        num_tokens += 1
        assert num_tokens < 400, "the stream went on"
    assert tokens.ids
    written = list(device.session.tokens.ids[len(PROMPT) :])
    assert written == greedy_text(PROMPT, len(written))
    more = await device.write(TableDrafter(SLM), a_generation(), 4, 5)
    assert more == greedy_text([*PROMPT, *written], 5)


async def test_a_cancel_that_crosses_the_end_of_a_stream_is_no_message_of_its_own(
    serve: Serve,
) -> None:
    """A refusal of it would be taken for the answer to whatever comes next."""
    device = await connect(await serve())
    await device.begin(a_generation())
    written = await device.stream(3)
    await device.socket.send_bytes(device.session.cancel())
    more = await device.write(TableDrafter(SLM), a_generation(), 4, 5)
    assert more == greedy_text([*PROMPT, *written], 5)


async def test_a_long_prompt_leaves_other_sessions_their_turn(
    serve: Serve, engine: TableEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hashes are made some at a time: between two turns of the event loop never all of them."""
    engine.context_len = 10_000
    device = await connect(await serve())
    prompt = [i % VOCAB for i in range(8 * HASHED_AT_ONCE)]
    prefix_hash = TokenList(prompt).prefix_hash(len(prompt))
    begin = Begin(0, 0, tuple(prompt), len(prompt), 1, GREEDY, 7, ())
    first_round = Round(0, 0, len(prompt), prefix_hash, (), 0, 0, b"")
    num_hashed = most_at_once = 0

    def counted(*words: int) -> int:
        nonlocal num_hashed
        num_hashed += 1
        return stream_key(*words)

    async def watch() -> None:
        nonlocal most_at_once
        while True:
            before = num_hashed
            await asyncio.sleep(0)
            most_at_once = max(most_at_once, num_hashed - before)

    monkeypatch.setattr("device_runtime.protocol.tokens.stream_key", counted)
    watching = asyncio.create_task(watch())
    assert decode(await device.exchange(encode(begin))) == Begun(len(prompt))
    verdict = decode(await device.exchange(encode(first_round)))
    watching.cancel()
    assert isinstance(verdict, Verdict)
    assert num_hashed >= len(prompt)
    assert most_at_once <= HASHED_AT_ONCE


async def test_what_a_stream_does_not_allow_is_refused_while_it_runs(
    serve: Serve, engine: TableEngine
) -> None:
    device = await connect(await serve())
    await device.begin(a_generation())
    engine.gate.clear()
    await device.socket.send_bytes(device.session.stream(3))
    await device.socket.send_bytes(device.session.begin_again())
    await device.socket.send_bytes(b"\1\xff")
    await asyncio.sleep(0.05)
    engine.gate.set()
    answers = [decode(await device.receive()) for _ in range(5)]
    refused = [answer.code for answer in answers if isinstance(answer, Refusal)]
    assert refused == [ErrorCode.UNEXPECTED_MESSAGE, ErrorCode.MALFORMED]
    tokens = [i for answer in answers if isinstance(answer, Tokens) for i in answer.ids]
    assert tokens == greedy_text(PROMPT, 3)


# what is refused leaves the session unharmed


async def test_a_repeated_round_gets_the_same_verdict(serve: Serve) -> None:
    device = await connect(await serve())
    await device.begin(COUPLED)
    data = device.session.round([Drafted(2), Drafted(3)], Ask())
    first = await device.exchange(data)
    assert isinstance(decode(first), Verdict)
    assert await device.exchange(data) == first


async def test_altered_skipped_and_older_rounds_are_refused(serve: Serve) -> None:
    device = await connect(await serve())
    await device.begin(a_generation())
    right = greedy_text(PROMPT, 20)
    for number in range(6):
        block = [Drafted(token_id) for token_id in right[2 * number : 2 * number + 1]]
        data = device.session.round(block, Ask())
        message = decode(data)
        assert isinstance(message, Round)
        if number == 0:
            oldest = data
        skipped = Round(0, number + 1, message.base, message.prefix_hash, (), 0, 0, b"")
        assert await device.refusal(skipped) is ErrorCode.WRONG_ROUND
        answer = device.session.receive_verdict(await device.exchange(data), block)
        assert (answer.num_accepted, answer.next_token) == (1, right[2 * number + 1])
        altered = Round(0, number, message.base, message.prefix_hash, (), 0, 0, b"")
        assert await device.refusal(altered) is ErrorCode.WRONG_ROUND
    assert await device.refusal(oldest) is ErrorCode.WRONG_ROUND  # its verdict is forgotten
    assert list(device.session.tokens.ids[len(PROMPT) :]) == right[:12]


async def test_wrong_token_ids_are_refused(serve: Serve) -> None:
    client = await serve()
    device = await connect(client, prompt=[1, VOCAB])
    assert await device.refusal(device.session.begin(a_generation())) is ErrorCode.BAD_TOKEN_ID
    device.session.truncate(1)
    device.session.forget_edge()
    await device.begin(a_generation())
    bad = Round(0, 0, 1, device.session.tokens.prefix_hash(1), (VOCAB,), 0, 0, b"")
    assert await device.refusal(bad) is ErrorCode.BAD_TOKEN_ID
    assert await device.stream(5) == greedy_text([1], 5)


async def test_logits_of_a_whole_text_are_not_given(serve: Serve, engine: TableEngine) -> None:
    device = await connect(await serve())
    await device.begin(a_generation())
    hash_ = device.session.tokens.prefix_hash(len(PROMPT))
    many = Round(0, 0, len(PROMPT), hash_, (1,) * 200, 0, 0, b"", Flags.LOGPROBS)
    assert await device.refusal(many) is ErrorCode.TOO_LARGE
    assert max(job.num_rows for batch in engine.batches for job in batch) == 0
    assert await device.stream(5) == greedy_text(PROMPT, 5)


async def test_after_a_wrong_prefix_all_tokens_help(serve: Serve) -> None:
    device = await connect(await serve())
    await device.write(TableDrafter(SLM), a_generation(), 4, 10)
    session = device.session
    wrong = Round(*session._next, len(session.tokens), 12345, (), 0, 0, b"")
    assert await device.refusal(wrong) is ErrorCode.WRONG_PREFIX
    session.forget_edge()
    session.receive_begun(await device.exchange(session.begin_again()))
    kept = list(session.tokens.ids)
    assert await device.stream(5) == greedy_text(kept, 5)


async def test_rubbish_is_refused_and_the_session_goes_on(serve: Serve) -> None:
    device = await connect(await serve(max_refusals=1000))
    await device.begin(a_generation())
    rng = np.random.default_rng(0)
    for length in (0, 1, 2, 3, 10, 1000):
        for kind in range(16):
            data = bytes([1, kind]) + rng.bytes(length)
            if kind in (12, 14) or data[:2] == b"\1\n":  # Cancel, Close and Stream can be right
                continue
            assert isinstance(await device.refusal(data), ErrorCode)
    await device.socket.send_str("hello")
    assert decode(await device.receive()) == Refusal(ErrorCode.MALFORMED)
    assert await device.stream(5) == greedy_text(PROMPT, 5)


async def test_a_client_that_only_sends_rubbish_is_sent_away_and_others_notice_nothing(
    serve: Serve,
) -> None:
    client = await serve(max_refusals=5)
    good, bad = await connect(client), await connect(client)
    await good.begin(a_generation())
    await bad.begin(a_generation())
    for _ in range(5):
        assert await bad.refusal(b"\1\6rubbish") is not None
    assert await bad.close_code() == WSCloseCode.POLICY_VIOLATION
    assert await good.stream(10) == greedy_text(PROMPT, 10)
    edge = client.app[EDGE]
    await until(lambda: len(edge.connections) == 1)
    assert edge.registry.num_connected == 1  # the other session waits for its client


async def test_refusals_count_only_in_a_row(serve: Serve) -> None:
    device = await connect(await serve(max_refusals=2))
    for _ in range(5):
        assert await device.refusal(b"rubbish") is ErrorCode.UNSUPPORTED_VERSION
        await device.begin(a_generation())


async def test_an_oversized_message_closes_the_connection_and_harms_nobody(serve: Serve) -> None:
    client = await serve()
    good, bad = await connect(client), await connect(client)
    with suppress(ConnectionError):  # the edge hangs up at the frame's header
        await bad.socket.send_bytes(bytes(MAX_MESSAGE_BYTES + 10))
    assert await bad.close_code() in (WSCloseCode.MESSAGE_TOO_BIG, WSCloseCode.ABNORMAL_CLOSURE)
    await good.begin(a_generation())
    assert await good.stream(10) == greedy_text(PROMPT, 10)


async def test_too_many_messages_at_once_close_the_connection(
    serve: Serve, engine: TableEngine
) -> None:
    device = await connect(await serve())
    engine.gate.clear()
    for _ in range(20):
        await device.socket.send_bytes(device.session.begin(a_generation()))
    assert await device.close_code() == WSCloseCode.POLICY_VIOLATION


async def test_pings_are_answered_beside_a_prompt(serve: Serve, engine: TableEngine) -> None:
    client = await serve()
    socket = await client.ws_connect(SESSION_PATH, compress=0, autoping=False)
    device = EdgeClient(socket, a_session())
    device.session.receive_welcome(await device.exchange(device.session.hello()))
    engine.gate.clear()
    await socket.send_bytes(device.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1)
    await socket.ping(b"there?")
    message = await socket.receive(5)
    assert (message.type, message.data) == (WSMsgType.PONG, b"there?")
    engine.gate.set()
    device.session.receive_begun(await device.receive())


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("politely", [False, True])
async def test_who_goes_beside_a_long_job_takes_it_along(
    serve: Serve, engine: TableEngine, streams: bool, politely: bool
) -> None:
    client = await serve()
    device, other = await connect(client), await connect(client)
    if streams:
        await device.begin(a_generation())
    engine.gate.clear()
    await other.socket.send_bytes(other.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1 + streams)
    message = device.session.stream(5) if streams else device.session.begin(a_generation())
    await device.socket.send_bytes(message)
    replicas = client.app[EDGE].replicas
    await until(lambda: replicas.num_waiting == 2)  # the other's is in a batch, and waits as well
    if politely:
        await device.socket.close()
    else:
        device.socket._response.connection.transport.abort()  # type: ignore[union-attr]
    await until(lambda: len(client.app[EDGE].connections) == 1)
    engine.gate.set()
    other.session.receive_begun(await other.receive())
    await asyncio.sleep(0.05)
    assert len(engine.batches) == 1 + streams


async def test_a_bug_becomes_one_code_and_the_log_holds_no_text(
    serve: Serve, engine: TableEngine, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    good, bad = await connect(client), await connect(client, prompt=[11])
    engine.fail, engine.poison = RuntimeError("secret words"), 11
    code = await bad.refusal(bad.session.begin(a_generation()))
    assert code is ErrorCode.INTERNAL
    assert await bad.close_code() == WSCloseCode.INTERNAL_ERROR
    assert "RuntimeError" in caplog.text
    assert "secret" not in caplog.text
    await good.begin(a_generation())
    assert await good.stream(5) == greedy_text(PROMPT, 5)
    engine.fail = None
    again = await EdgeClient.connect(client, bad.session)
    assert bad.session.facts.resumed
    again.session.receive_begun(await again.exchange(again.session.begin_again()))
    assert await again.stream(5) == greedy_text([11], 5)


async def test_a_server_whose_scheduler_died_says_so_and_nobody_waits_for_ever(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve()
    device = await connect(client)

    def on_batch(_: object) -> None:
        raise KeyError("a bug")

    (scheduler,) = client.app[EDGE].replicas.schedulers
    scheduler.on_batch = on_batch
    code = await asyncio.wait_for(device.refusal(device.session.begin(a_generation())), 5)
    assert code is ErrorCode.INTERNAL
    await until(lambda: "the scheduler 0 stopped: KeyError" in caplog.text)
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 503
    assert "tandem_ready 0.0" in await (await client.get("/metrics")).text()
    late = await connect(client)
    code = await asyncio.wait_for(late.refusal(late.session.begin(a_generation())), 5)
    assert code is ErrorCode.INTERNAL


async def test_a_client_that_vanishes_in_the_handshake_leaves_no_traceback(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Anyone can do that as often as they like."""
    client = await serve()
    handshake = (
        f"GET {SESSION_PATH} HTTP/1.1\r\nHost: {client.host}:{client.port}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    for _ in range(20):
        with socket.create_connection((client.host, client.port)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(handshake)  # and a reset, not a farewell
        await asyncio.sleep(0.005)
    await connect(client)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("message", [Cancel(), Round(0, 0, 0, 0, (), 0, 0, b"")])
async def test_the_first_message_must_be_a_hello(serve: Serve, message: Any) -> None:
    client = await serve()
    socket = await client.ws_connect(SESSION_PATH)
    await socket.send_bytes(encode(message))
    answer = decode((await socket.receive()).data)
    assert answer == Refusal(ErrorCode.UNEXPECTED_MESSAGE)
    assert len(client.app[EDGE].registry) == 0
    await EdgeClient(socket, a_session()).exchange(encode(Hello("late", VOCAB)))


# limits


async def test_more_sessions_than_allowed_are_told_to_come_back(serve: Serve) -> None:
    client = await serve(max_sessions=2)
    first, _ = await connect(client), await connect(client)
    with pytest.raises(RefusedError) as refusal:
        await connect(client)
    assert refusal.value.code is ErrorCode.BUSY
    assert refusal.value.retry_after_s > 0
    await first.socket.send_bytes(first.session.close())
    assert await first.close_code() == WSCloseCode.OK
    await connect(client)


async def test_a_session_that_waits_for_its_client_makes_room(serve: Serve) -> None:
    client = await serve(max_sessions=2)
    first, second = await connect(client), await connect(client)
    await first.socket.close()
    registry = client.app[EDGE].registry
    await until(lambda: any(held.owner is None for held in registry._held.values()))
    await connect(client)
    await EdgeClient.connect(client, second.session)  # still there
    assert second.session.facts.resumed
    with pytest.raises(RefusedError):  # its place is taken
        await EdgeClient.connect(client, first.session)


async def test_more_connections_than_twice_the_sessions_are_refused(serve: Serve) -> None:
    client = await serve(max_sessions=1)
    for _ in range(2):
        await client.ws_connect(SESSION_PATH)
    with pytest.raises(WSServerHandshakeError, match="503"):
        await client.ws_connect(SESSION_PATH)


async def test_the_connections_of_one_client_leave_room_for_those_of_others(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("\n".join(letter * 20 for letter in "ab"))
    tokens = str(tmp_path / "tokens")
    client = await serve(tokens_file=tokens, max_sessions=2, max_sessions_per_token=1)
    alice, bob = ({"Authorization": f"Bearer {letter * 20}"} for letter in "ab")
    for _ in range(2):
        await client.ws_connect(SESSION_PATH, headers=alice)
    with pytest.raises(WSServerHandshakeError, match="429"):
        await client.ws_connect(SESSION_PATH, headers=alice)
    await client.ws_connect(SESSION_PATH, headers=bob)


async def test_a_full_queue_refuses_and_changes_nothing(serve: Serve, engine: TableEngine) -> None:
    client = await serve(max_queue=1)
    first, second = await connect(client), await connect(client)
    engine.gate.clear()
    await first.socket.send_bytes(first.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1)
    begin = second.session.begin(a_generation())
    answer = decode(await second.exchange(begin))
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.BUSY
    assert answer.retry_after_s > 0
    engine.gate.set()
    first.session.receive_begun(await first.receive())
    second.session.receive_begun(await second.exchange(begin))


async def test_who_says_nothing_is_sent_away(serve: Serve) -> None:
    client = await serve(hello_timeout_s=0.05, idle_timeout_s=0.3)
    silent = EdgeClient(await client.ws_connect(SESSION_PATH), a_session())
    assert await silent.close_code() == WSCloseCode.POLICY_VIOLATION
    device = await connect(client)
    await asyncio.sleep(0.1)
    await device.begin(a_generation())  # after a hello there is more time
    assert await device.close_code() == WSCloseCode.POLICY_VIOLATION


async def test_who_answers_pings_and_says_nothing_else_is_sent_away(serve: Serve) -> None:
    client = await serve(idle_timeout_s=0.3, heartbeat_s=0.1)
    device = await connect(client)
    assert await device.close_code() == WSCloseCode.POLICY_VIOLATION


async def test_a_client_that_waits_for_its_answer_is_not_idle(
    serve: Serve, engine: TableEngine
) -> None:
    device = await connect(await serve(idle_timeout_s=0.05))
    engine.gate.clear()
    await device.socket.send_bytes(device.session.begin(a_generation()))
    await asyncio.sleep(0.3)
    engine.gate.set()
    device.session.receive_begun(await device.receive())


async def test_rates_refuse_a_generation_but_not_the_session(serve: Serve) -> None:
    device = await connect(await serve(requests_per_minute=2))
    for _ in range(2):
        await device.begin(a_generation())
    answer = decode(await device.exchange(device.session.begin_again()))
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.BUSY
    assert 20 < answer.retry_after_s <= 30
    assert await device.stream(5) == greedy_text(PROMPT, 5)  # what has begun goes on


async def test_tokens_are_charged_and_a_client_in_debt_waits(serve: Serve) -> None:
    client = await serve(tokens_per_minute=10)
    device = await connect(client, prompt=[3] * 30)
    await device.begin(a_generation())
    answer = decode(await device.exchange(device.session.round([Drafted(2)], Ask())))
    assert isinstance(answer, Refusal)
    assert answer.code is ErrorCode.BUSY
    assert 115 < answer.retry_after_s <= 126  # 20 in debt, and one to go on with
    text = await (await client.get("/metrics")).text()
    assert 'tandem_refused_total{limit="client"} 1.0' in text


async def test_a_stream_that_has_begun_goes_on_at_its_client_s_rate(
    serve: Serve, engine: TableEngine
) -> None:
    device = await connect(await serve(tokens_per_minute=60))
    await device.begin(a_generation())
    await device.socket.send_bytes(device.session.stream(100_000))
    # A minute's worth may come at once, the five of the prompt among it, and then one a second.
    await until(lambda: len(engine.batches) >= 56)
    before = len(engine.batches)
    await asyncio.sleep(2.5)
    assert 1 <= len(engine.batches) - before <= 4
    await device.socket.send_bytes(device.session.cancel())
    start_s = asyncio.get_running_loop().time()
    while not device.session.receive_tokens(await device.receive()).last:
        pass
    assert asyncio.get_running_loop().time() - start_s < 1.0


async def test_a_refusal_by_the_queue_spends_no_request(serve: Serve, engine: TableEngine) -> None:
    client = await serve(max_queue=1, requests_per_minute=2)
    first, second = await connect(client), await connect(client)
    engine.gate.clear()
    await first.socket.send_bytes(first.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1)
    begin = second.session.begin(a_generation())
    for _ in range(3):
        assert decode(await second.exchange(begin)).code is ErrorCode.BUSY  # type: ignore[union-attr]
    engine.gate.set()
    first.session.receive_begun(await first.receive())
    second.session.receive_begun(await second.exchange(begin))


async def test_a_client_that_waits_politely_is_never_sent_away(serve: Serve) -> None:
    device = await connect(await serve(max_refusals=3, tokens_per_minute=10), prompt=[3] * 30)
    await device.begin(a_generation())
    for _ in range(10):
        assert await device.refusal(device.session.round([Drafted(2)], Ask())) is ErrorCode.BUSY


async def test_one_client_holds_only_its_share_of_sessions(serve: Serve, tmp_path: Path) -> None:
    tokens = ["a" * 20, "b" * 20]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    client = await serve(tokens_file=str(tmp_path / "tokens"), max_sessions_per_token=2)
    first = await EdgeClient.connect(client, a_session(), tokens[0])
    await EdgeClient.connect(client, a_session(), tokens[0])
    with pytest.raises(RefusedError) as refusal:
        await EdgeClient.connect(client, a_session(), tokens[0])
    assert refusal.value.code is ErrorCode.BUSY
    other = await EdgeClient.connect(client, a_session(), tokens[1])
    await other.socket.close()
    await first.socket.close()
    registry = client.app[EDGE].registry
    await until(lambda: sum(held.owner is None for held in registry._held.values()) == 2)
    await EdgeClient.connect(client, a_session(), tokens[0])  # in the place of its own
    again = await EdgeClient.connect(client, other.session, tokens[1])
    assert again.session.facts.resumed


# connections that are lost


async def test_a_dropped_connection_is_resumed_where_it_was(serve: Serve) -> None:
    client = await serve()
    device = await connect(client)
    await device.begin(COUPLED)
    data = device.session.round([Drafted(2)], Ask())
    lost = await device.exchange(data)
    device.socket._response.connection.transport.abort()  # type: ignore[union-attr]
    again = await EdgeClient.connect(client, device.session)
    assert again.session.facts.resumed
    assert await again.exchange(data) == lost
    again.session.receive_verdict(lost, [Drafted(2)])


async def test_a_newer_connection_takes_the_session_over(serve: Serve, engine: TableEngine) -> None:
    client = await serve()
    old = await connect(client)
    await old.begin(a_generation())
    engine.gate.clear()
    data = old.session.round([Drafted(2)], Ask())
    await old.socket.send_bytes(data)
    await until(lambda: len(engine.batches) == 2)
    new = await EdgeClient.connect(client, old.session)
    assert new.session.facts.resumed
    assert await old.close_code() == TAKEN_OVER
    await new.socket.send_bytes(data)
    engine.gate.set()
    assert isinstance(decode(await new.receive()), Verdict)
    assert len(client.app[EDGE].registry) == 1


async def test_a_stream_that_was_cut_can_be_asked_for_again(serve: Serve) -> None:
    client = await serve()
    device = await connect(client)
    await device.begin(a_generation())
    await device.socket.send_bytes(device.session.stream(100_000))
    device.session.receive_tokens(await device.receive())
    await device.socket.close()
    again = await EdgeClient.connect(client, device.session)
    again.session.receive_begun(await again.exchange(again.session.begin_again()))
    kept = list(again.session.tokens.ids)
    assert await again.stream(5) == greedy_text(kept, 5)


async def test_an_unknown_token_or_another_client_s_opens_a_new_session(
    serve: Serve, tmp_path: Path
) -> None:
    tokens = ["a" * 20, "b" * 20]
    (tmp_path / "tokens").write_text("\n".join(tokens))
    client = await serve(tokens_file=str(tmp_path / "tokens"))
    session = a_session()
    await EdgeClient.connect(client, session, tokens[0])
    stolen = session.facts.resume_token
    assert len(stolen) == 16
    other = await EdgeClient.connect(client, session, tokens[1])
    assert not other.session.facts.resumed
    assert other.session.facts.resume_token != stolen


async def test_a_session_nobody_comes_back_for_is_forgotten(
    serve: Serve, engine: TableEngine
) -> None:
    client = await serve(resume_ttl_s=0.05)
    device = await connect(client)
    await device.begin(a_generation())
    await device.socket.close()
    registry = client.app[EDGE].registry
    await until(lambda: any(held.owner is None for held in registry._held.values()))
    await asyncio.sleep(0.06)
    again = await EdgeClient.connect(client, device.session)
    assert not again.session.facts.resumed
    await until(lambda: len(engine.dropped) == 1)


async def test_sessions_that_come_and_go_leave_nothing_behind(
    serve: Serve, engine: TableEngine
) -> None:
    client = await serve()
    edge = client.app[EDGE]
    for _ in range(30):
        device = await connect(client)
        await device.begin(a_generation())
        await device.socket.send_bytes(encode(Close()))
        assert await device.close_code() == WSCloseCode.OK
    await until(lambda: len(engine.dropped) == 30 and not edge.connections)
    assert len(edge.registry) == 0
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert len([name for name in names if name.startswith("Task-")]) < 8


# draining


async def test_draining_finishes_the_round_in_hand_and_refuses_new_ones(
    serve: Serve, engine: TableEngine
) -> None:
    client = await serve()
    busy, idle, fresh = [await connect(client) for _ in range(3)]
    await busy.begin(a_generation())
    engine.gate.clear()
    await busy.socket.send_bytes(busy.session.round([Drafted(2)], Ask()))
    await until(lambda: len(engine.batches) == 2)
    draining = asyncio.create_task(drain(client.app))
    assert await idle.close_code() == WSCloseCode.GOING_AWAY
    assert await fresh.close_code() == WSCloseCode.GOING_AWAY
    assert (await client.get("/readyz")).status == 503
    assert (await client.get("/healthz")).status == 200
    with pytest.raises(WSServerHandshakeError, match="503"):
        await client.ws_connect(SESSION_PATH)
    engine.gate.set()
    busy.session.receive_verdict(await busy.receive(), [Drafted(2)])
    await draining
    assert await busy.close_code() == WSCloseCode.GOING_AWAY


async def test_a_message_behind_the_round_in_hand_is_refused_while_draining(
    serve: Serve, engine: TableEngine
) -> None:
    client = await serve()
    device = await connect(client)
    engine.gate.clear()
    await device.socket.send_bytes(device.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1)
    connection = next(iter(client.app[EDGE].connections))
    connection._leaving = SHUTTING_DOWN
    await device.socket.send_bytes(encode(Hello("again", VOCAB)))
    engine.gate.set()
    device.session.receive_begun(await device.receive())
    assert decode(await device.receive()) == Refusal(ErrorCode.DRAINING)
    assert await device.close_code() == WSCloseCode.GOING_AWAY


async def test_draining_ends_streams_early(serve: Serve) -> None:
    client = await serve()
    device = await connect(client)
    await device.begin(a_generation())
    await device.socket.send_bytes(device.session.stream(1 << 20))
    device.session.receive_tokens(await device.receive())
    await drain(client.app)
    while not device.session.receive_tokens(await device.receive()).last:
        pass
    assert await device.close_code() == WSCloseCode.GOING_AWAY


async def test_draining_does_not_wait_for_ever(serve: Serve, engine: TableEngine) -> None:
    client = await serve(drain_timeout_s=0.05)
    device = await connect(client)
    engine.gate.clear()
    await device.socket.send_bytes(device.session.begin(a_generation()))
    await until(lambda: len(engine.batches) == 1)
    await asyncio.wait_for(drain(client.app), 5)
    assert await device.close_code() == WSCloseCode.GOING_AWAY


# who may speak


def every_path(app: web.Application) -> set[tuple[str, str]]:
    return {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None
    }


async def test_every_route_but_the_health_checks_needs_a_token(
    serve: Serve, tmp_path: Path
) -> None:
    good = "only-for-this-test"
    (tmp_path / "tokens").write_text(f"# mine\n{good}  # the first\n\nanother-long-token\n")
    client = await serve(tokens_file=str(tmp_path / "tokens"))
    paths = every_path(client.app)
    assert ("GET", SESSION_PATH) in paths
    for method, path in paths | {("GET", "/nothing"), ("POST", SESSION_PATH)}:
        for header in (
            "",
            "Bearer",
            "Bearer wrong-token-wrong",
            f"Basic {good}",
            f"Bearer {good}x",
        ):
            headers = {"Authorization": header} if header else {}
            status = (await client.request(method, path, headers=headers)).status
            assert status == (200 if path in OPEN_PATHS else 401), (method, path, header)
        allowed = await client.request(method, path, headers={"Authorization": f"Bearer {good}"})
        assert allowed.status != 401
    await EdgeClient.connect(client, a_session(), good)
    await EdgeClient.connect(client, a_session(), "another-long-token")


@pytest.mark.parametrize(
    "origin", ["http://evil.test", "https://evil.test:8600", "null", "http://10.0.0.1:1", "x", ""]
)
async def test_a_foreign_web_page_cannot_use_an_edge_without_tokens(
    serve: Serve, origin: str
) -> None:
    """It runs in a browser on this machine, for which an edge on the loopback address is open."""
    client = await serve()
    with pytest.raises(WSServerHandshakeError, match="403"):
        await client.ws_connect(SESSION_PATH, headers={"Origin": origin})
    assert (await client.get("/v1/status", headers={"Origin": origin})).status == 403
    name = {"Origin": "http://evil.test", "Host": "evil.test"}  # a name that was bound to us
    with pytest.raises(WSServerHandshakeError, match="403"):
        await client.ws_connect(SESSION_PATH, headers=name)


async def test_a_page_of_this_very_address_and_programs_may_use_it(
    serve: Serve, tmp_path: Path
) -> None:
    client = await serve()
    own = str(client.make_url("/")).rstrip("/")
    await client.ws_connect(SESSION_PATH, headers={"Origin": own})
    await client.ws_connect(SESSION_PATH)
    (tmp_path / "tokens").write_text("only-for-this-test")
    guarded = await serve(tokens_file=str(tmp_path / "tokens"))
    headers = {"Origin": "http://evil.test", "Authorization": "Bearer only-for-this-test"}
    await guarded.ws_connect(SESSION_PATH, headers=headers)  # who knows the token may


async def test_tokens_never_reach_the_log(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "tokens").write_text("only-for-this-test")
    client = await serve(tokens_file=str(tmp_path / "tokens"))
    device = await EdgeClient.connect(client, a_session(), "only-for-this-test")
    with pytest.raises(WSServerHandshakeError):
        await client.ws_connect(SESSION_PATH, headers={"Authorization": "Bearer wrong-token-wrong"})
    assert "session 1" in caplog.text
    for secret in ("only-for-this", "wrong-token", device.session.facts.resume_token.hex()):
        assert secret not in caplog.text


async def test_a_plain_request_to_the_session_route_is_no_server_error(serve: Serve) -> None:
    client = await serve()
    assert (await client.get(SESSION_PATH)).status == 400
    assert (await client.get("/readyz")).status == 200
