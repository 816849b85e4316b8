"""The OpenAI-compatible routes, asked by the `openai` client over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.schemes.base import Ask, Drafted
from edge_server.app import drain, make_app
from edge_server.auth import OPEN_PATHS
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.engine import TorchEngine
from edge_server.facts import edge_facts, read_tokens
from edge_server.state import EDGE, Edge
from edge_server.text import EdgeText
from tests.table_engine import TableEngine
from tests.table_model import random_table
from tests.tiny_models import END_ID, NUM_TOKENS, SPECIAL_TOKENS

PROMPT = "The fox and the wind"
CHAT: Any = [{"role": "user", "content": "Who is there?"}]


class Served:
    """A server, its state, and a client of it."""

    def __init__(self, server: TestServer, app: Any, text: EdgeText) -> None:
        self.url = str(server.make_url("/"))
        self.app = app
        self.edge: Edge = app[EDGE]
        self.text = text
        self.client = self.client_with("none")

    def client_with(self, token: str, **more: Any) -> openai.AsyncOpenAI:
        settings = {"max_retries": 0, **more}
        return openai.AsyncOpenAI(base_url=f"{self.url}v1", api_key=token, **settings)

    async def complete(self, prompt: Any = PROMPT, **more: Any) -> Any:
        more = {"max_tokens": 12, "seed": 3, **more}
        return await self.client.completions.create(model="llama", prompt=prompt, **more)

    async def chat(self, messages: Any = CHAT, **more: Any) -> Any:
        more = {"max_tokens": 12, "seed": 3, **more}
        return await self.client.chat.completions.create(model="llama", messages=messages, **more)


Serve = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve(llama: TorchEngine, checkpoint: Callable[[str], Path]) -> AsyncIterator[Serve]:
    """Starts a server as `tandem edge` does; keyword arguments are settings."""
    running: list[tuple[TestServer, Served]] = []

    async def start(engine: Any = llama, end_ids: Any = (END_ID,), **settings: Any) -> Served:
        opened = Checkpoint.open(checkpoint("llama"))
        facts = edge_facts(opened, read_tokens(opened.folder), engine.context_len)
        text = EdgeText.open(opened.folder)
        app = make_app([engine], facts, EdgeConfig(**settings), text)
        server = TestServer(app)
        await server.start_server()
        served = Served(server, app, text)
        running.append((server, served))
        return served

    yield start
    for server, served in running:
        await served.client.close()
        await server.close()


@pytest.fixture
def slow_engine() -> TableEngine:
    """An engine that a test can stop; its tokens are the tiny tokenizer's."""
    return TableEngine(random_table(NUM_TOKENS, seed=4))


# what comes back


async def test_greedy_text_is_generate_s(serve: Serve, generated: Callable[..., list[int]]) -> None:
    served = await serve()
    prompt_ids = served.text.prompt_ids(PROMPT)
    answer = await served.complete(temperature=0, max_tokens=24)
    ids = generated(prompt_ids, 24)
    ids = ids[: ids.index(END_ID)] if END_ID in ids else ids
    stream = served.text.detokenizer(prompt_ids, ())
    assert answer.choices[0].text == stream.feed(ids) + stream.flush()
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.prompt_tokens == len(prompt_ids)
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == len(prompt_ids) + 24
    assert answer.model == "llama"


async def test_a_completion_continues_its_prompt_and_an_answer_in_a_chat_is_a_text_of_its_own(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SentencePiece tokenizer's space before a text is shown in the one, not in the other."""
    served = await serve()
    contexts: list[tuple[int, ...]] = []
    decoder = served.text.detokenizer

    def detokenizer(context: Sequence[int], stops: Sequence[str]) -> Detokenizer:
        contexts.append(tuple(context))
        return decoder(context, stops)

    monkeypatch.setattr(served.text, "detokenizer", detokenizer)
    await served.complete(max_tokens=2)
    await served.chat(max_tokens=2)
    assert contexts == [tuple(served.text.prompt_ids(PROMPT)), ()]


async def test_the_seed_gives_the_text_of_the_stream_that_a_device_asks_for(
    serve: Serve, checkpoint: Callable[[str], Path]
) -> None:
    """The protocol's own stream, as `tandem run --edge-only --seed 3` asks for it."""
    served = await serve()
    sampling = Sampling(temperature=0.8, top_p=0.9, frequency_penalty=0.5)
    session = DeviceSession(NUM_TOKENS, served.edge.facts.vocabulary_hash, "test")
    prompt_ids = served.text.prompt_ids(PROMPT)
    session.append(prompt_ids)
    async with ClientSession() as http, http.ws_connect(f"{served.url}v1/session") as socket:
        await socket.send_bytes(session.hello())
        session.receive_welcome(await socket.receive_bytes())
        generation = Generation(scheme_named("coupled"), sampling, 3, (END_ID,))
        await socket.send_bytes(session.begin(generation))
        session.receive_begun(await socket.receive_bytes())
        await socket.send_bytes(session.stream(20))
        while not session.receive_tokens(await socket.receive_bytes()).last:
            pass
    ids = [i for i in session.tokens.ids[len(prompt_ids) :] if i != END_ID]
    stream = served.text.detokenizer(prompt_ids, ())
    wanted = stream.feed(ids) + stream.flush()
    settings = {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.5, "max_tokens": 20}
    assert (await served.complete(**settings)).choices[0].text == wanted
    other = await served.complete(**settings, seed=4)
    assert other.choices[0].text != wanted
    ids_as_prompt = await served.complete(prompt_ids, **settings)
    assert ids_as_prompt.choices[0].text == wanted
    assert (await served.complete([PROMPT], **settings)).choices[0].text == wanted


@pytest.mark.parametrize("stops", [None, ["e"], "an"])
async def test_streams_add_up_to_the_whole(serve: Serve, stops: Any) -> None:
    served = await serve()
    more = {"stop": stops, "logprobs": 2, "max_tokens": 24}
    whole = await served.complete(**more)
    chunks = [
        chunk
        async for chunk in await served.complete(
            **more, stream=True, stream_options={"include_usage": True}
        )
    ]
    *texts, last = chunks
    assert "".join(chunk.choices[0].text for chunk in texts) == whole.choices[0].text
    reasons = [chunk.choices[0].finish_reason for chunk in texts]
    assert reasons == [None] * (len(texts) - 1) + [whole.choices[0].finish_reason]
    assert last.choices == []
    assert last.usage == whole.usage
    parts = [chunk.choices[0].logprobs for chunk in texts if chunk.choices[0].logprobs]
    for field in ("tokens", "token_logprobs", "text_offset", "top_logprobs"):
        joined = [item for part in parts for item in getattr(part, field)]
        assert joined == getattr(whole.choices[0].logprobs, field)


async def test_chat_streams_add_up_to_the_whole(serve: Serve) -> None:
    served = await serve()
    more = {"logprobs": True, "top_logprobs": 3, "max_tokens": 30}
    whole = await served.chat(**more)
    message = whole.choices[0].message
    assert message.role == "assistant"
    assert whole.object == "chat.completion"
    chunks = [chunk async for chunk in await served.chat(**more, stream=True)]
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    joined = [token for part in parts if part for token in part.content]
    assert joined == whole.choices[0].logprobs.content


async def test_stop_strings_end_the_text_and_do_not_show(serve: Serve) -> None:
    served = await serve()
    full = (await served.complete(max_tokens=60)).choices[0].text
    stop = full[20:23]
    at = full.index(stop)
    answer = await served.complete(max_tokens=60, stop=[stop, "never comes"])
    assert answer.choices[0].text == full[:at]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 60


async def test_an_end_token_ends_the_text(serve: Serve) -> None:
    served = await serve()
    answer = await served.complete(logit_bias={str(END_ID): 100}, logprobs=0)
    assert answer.choices[0].text == ""
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 1
    assert answer.choices[0].logprobs.tokens == []


async def test_a_chat_is_answered_until_the_context_ends(serve: Serve) -> None:
    served = await serve(TableEngine(random_table(NUM_TOKENS, seed=4), context_len=64))
    answer = await served.client.chat.completions.create(
        model="llama",
        messages=CHAT,
        seed=1,
        logit_bias={str(END_ID): -100},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.total_tokens == served.edge.facts.context_len
    short = await served.chat(max_tokens=openai.omit, max_completion_tokens=3)
    assert short.usage.completion_tokens == 3


async def test_logprobs_are_the_model_s_own(serve: Serve, llama: TorchEngine) -> None:
    """At temperature 1 and with nothing cut, whatever the text was drawn with."""
    served = await serve()
    answer = await served.chat(
        temperature=0.5, extra_body={"top_k": 5}, logprobs=True, top_logprobs=4, max_tokens=8
    )
    ids = served.text.chat_ids(CHAT)
    id_of = {served.text.token_bytes(i): i for i in range(len(SPECIAL_TOKENS), NUM_TOKENS)}
    for token in answer.choices[0].logprobs.content:
        (row,) = llama.logits([(llama.open(), Job(tuple(ids), 1))])
        logits = row[0, :NUM_TOKENS].numpy()
        own = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        token_id = id_of[bytes(token.bytes)]
        assert token.logprob == pytest.approx(own[token_id])
        assert token_id in np.argsort(-own)[:5]
        best = np.argsort(-own)[:4]
        assert [top.logprob for top in token.top_logprobs] == pytest.approx(list(own[best]))
        assert [id_of[bytes(top.bytes)] for top in token.top_logprobs] == list(best)
        ids.append(token_id)


async def test_half_characters_are_held_back(serve: Serve) -> None:
    """Only bytes of a snowman may be written: chunks hold whole ones."""
    served = await serve()
    snowman = served.text.prompt_ids("\N{SNOWMAN}")
    bias = {str(token_id): 100 for token_id in snowman}
    chunks = [
        chunk.choices[0].text
        async for chunk in await served.complete(
            logit_bias=bias, stream=True, max_tokens=16, temperature=2
        )
    ]
    whole = (await served.complete(logit_bias=bias, max_tokens=16, temperature=2)).choices[0].text
    assert "".join(chunks) == whole
    assert "\N{SNOWMAN}" in whole


async def test_completions_and_sessions_share_batches(
    serve: Serve, slow_engine: TableEngine
) -> None:
    served = await serve(slow_engine)
    session = DeviceSession(NUM_TOKENS, served.edge.facts.vocabulary_hash, "test")
    session.append(served.text.prompt_ids(PROMPT))
    generation = Generation(scheme_named("coupled"), Sampling(), 3, ())
    async with ClientSession() as http, http.ws_connect(f"{served.url}v1/session") as socket:
        await socket.send_bytes(session.hello())
        session.receive_welcome(await socket.receive_bytes())
        await socket.send_bytes(session.begin(generation))
        session.receive_begun(await socket.receive_bytes())
        slow_engine.gate.clear()
        num_before = len(slow_engine.batches)
        asked = [asyncio.ensure_future(served.complete(seed=0))]
        await until(
            lambda: len(slow_engine.batches) > num_before
        )  # held; the others come behind it
        asked += [asyncio.ensure_future(served.complete(seed=i)) for i in range(1, 4)]
        await until(lambda: served.edge.replicas.num_waiting == 4)
        block = [Drafted(7), Drafted(8)]
        await socket.send_bytes(session.round(block, Ask()))
        await until(lambda: served.edge.replicas.num_waiting == 5)
        slow_engine.gate.set()
        session.receive_verdict(await socket.receive_bytes(), block)
        await asyncio.gather(*asked)
        later = slow_engine.batches[num_before:]
        mixed = [batch for batch in later if 3 in {job.num_rows for job in batch}]
        assert len(mixed) == 1
        assert {job.num_rows for job in mixed[0]} > {3}  # the round, and completions beside it
    await until(lambda: len(slow_engine.dropped) >= 4)


async def test_models_are_listed(serve: Serve) -> None:
    served = await serve()
    (model,) = (await served.client.models.list()).data
    assert model.id == "llama"
    assert (await served.client.models.retrieve("llama")) == model
    with pytest.raises(openai.NotFoundError):
        await served.client.models.retrieve("gpt-4")
    with pytest.raises(openai.NotFoundError) as missing:
        await served.client.completions.create(model="gpt-4", prompt="x")
    assert missing.value.code == "model_not_found"


# what is refused


async def test_what_is_not_supported_is_named(serve: Serve) -> None:
    served = await serve()
    for more in (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"n": 2},
        {"user": "me"},
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await served.chat(**more)
        (name,) = more
        assert refused.value.param == name
        assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as refused:
        await served.complete(suffix="x")
    assert (refused.value.param, refused.value.code) == ("suffix", "unsupported_parameter")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompt": [NUM_TOKENS]}, "below 384"),
        ({"prompt": "x " * 400}, "context holds 256"),
        ({"prompt": [5] * 256}, "context holds 256"),
        ({"logit_bias": {"384": 1}}, "384"),
    ],
)
async def test_prompts_that_do_not_fit_are_refused(
    serve: Serve, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        await (await serve()).complete(**more)


async def test_bodies_are_limited(serve: Serve) -> None:
    served = await serve()
    with pytest.raises(openai.APIStatusError) as refused:
        await served.complete("x" * (5 << 20))
    assert refused.value.status_code == 413


async def raw(
    served: Served, data: Any, kind: str = "application/json", **more: str
) -> tuple[int, Any]:
    headers = {"Content-Type": kind, **more}
    async with (
        ClientSession(headers=headers) as http,
        http.post(f"{served.url}v1/completions", data=data) as answer,
    ):
        return answer.status, json.loads(await answer.text())


async def test_only_json_is_read(serve: Serve) -> None:
    served = await serve()
    body = json.dumps({"model": "llama", "prompt": "x"}).encode()
    assert (await raw(served, body))[0] == 200
    for kind in ("text/plain", "multipart/form-data", "application/x-www-form-urlencoded"):
        assert (await raw(served, body, kind))[0] == 415
    for rubbish in (b"", b"\xff\xfe", b"[" * 10_000, body[:-1], b"null"):
        status, answer = await raw(served, rubbish)
        assert status == 400
        assert answer["error"]["type"] == "invalid_request_error"


async def test_a_body_that_is_not_compressed_as_it_says_is_the_client_s_fault(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve()
    encoding = {"Content-Encoding": "gzip"}
    status, answer = await raw(served, b'{"model": "llama", "prompt": "x"}', **encoding)
    assert status == 400
    assert "Content-Encoding" in answer["error"]["message"]
    assert "request failed" not in caplog.text


async def test_a_body_that_never_arrives_is_given_up(serve: Serve) -> None:
    served = await serve(send_timeout_s=0.1)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"model"'
        await asyncio.sleep(1)
        yield b": 1}"

    assert (await raw(served, trickle()))[0] == 408


async def test_errors_of_other_routes_have_the_same_shape(serve: Serve) -> None:
    served = await serve()
    for path, status in (("v1/embeddings", 404), ("v1/completions", 405)):
        with pytest.raises(openai.APIStatusError) as refused:
            await served.client.get(f"/{path.removeprefix('v1/')}", cast_to=object)
        assert refused.value.status_code == status
        assert isinstance(refused.value.body, dict)
        assert set(refused.value.body) == {"message", "type", "param", "code"}


async def test_a_failing_engine_tells_nothing(
    serve: Serve, slow_engine: TableEngine, caplog: pytest.LogCaptureFixture
) -> None:
    served = await serve(slow_engine)
    slow_engine.fail, slow_engine.poison = RuntimeError("secret words"), 77
    with pytest.raises(openai.InternalServerError) as failed:
        await served.complete([5, 77])
    assert failed.value.code == "internal_error"
    assert "secret" not in str(failed.value) + caplog.text
    assert (await served.complete([5, 6])).usage.completion_tokens == 12


async def test_a_stream_that_fails_half_way_says_so(
    serve: Serve, slow_engine: TableEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """To the client, to the log, and to those who count."""
    caplog.set_level("INFO", logger="edge_server")
    served = await serve(slow_engine)
    stream = await served.complete(stream=True, max_tokens=200)
    await anext(aiter(stream))
    slow_engine.gate.clear()
    slow_engine.fail, slow_engine.poison = RuntimeError("secret"), served.text.prompt_ids(PROMPT)[0]
    slow_engine.gate.set()
    with pytest.raises(openai.APIError, match="internal error"):
        async for _ in stream:
            pass
    await until(lambda: not served.edge.completions)
    assert "s, RuntimeError" in caplog.text
    text = served.edge.metrics.text().decode()
    labels = 'error_type="RuntimeError",gen_ai_operation_name="text_completion"'
    assert f"gen_ai_server_request_duration_seconds_count{{{labels}}} 1.0" in text
    assert 'count{error_type=""' not in text


# limits


async def test_rates_give_429_and_say_when_to_come_back(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a" * 20 + "\n" + "b" * 20)
    served = await serve(tokens_file=str(tmp_path / "tokens"), requests_per_minute=2)
    alice, bob = served.client_with("a" * 20), served.client_with("b" * 20)
    for _ in range(2):
        await alice.completions.create(model="llama", prompt="x", max_tokens=1)
    with pytest.raises(openai.RateLimitError) as refused:
        await alice.completions.create(model="llama", prompt="x", max_tokens=1)
    assert 20 <= int(refused.value.response.headers["Retry-After"]) <= 30
    assert refused.value.code == "rate_limit_exceeded"
    await bob.completions.create(model="llama", prompt="x", max_tokens=1)
    for client in (alice, bob):
        await client.close()


async def test_tokens_are_charged_as_the_model_runs_them(serve: Serve) -> None:
    served = await serve(tokens_per_minute=60)
    await served.complete([5] * 60, max_tokens=1, logit_bias={str(END_ID): -100})
    with pytest.raises(openai.RateLimitError) as refused:
        await served.complete(max_tokens=1)
    assert 0 < float(refused.value.response.headers["retry-after-ms"]) / 1000 <= 1


async def test_a_completion_goes_on_at_its_client_s_rate(serve: Serve) -> None:
    served = await serve(tokens_per_minute=60)
    start_s = time.monotonic()
    # 50 of the prompt, once more its last for the first row, and the written ones read again
    answer = await served.complete([5] * 50, max_tokens=12, logit_bias={str(END_ID): -100})
    assert answer.usage.completion_tokens == 12
    assert time.monotonic() - start_s >= 0.9


async def test_the_client_retries_by_itself(serve: Serve) -> None:
    served = await serve(requests_per_minute=240)
    for _ in range(240):
        served.edge.admission.begin(b"")
    client = served.client_with("none", max_retries=2)
    answer = await client.completions.create(model="llama", prompt="x", max_tokens=1)
    assert answer.usage is not None
    await client.close()


async def test_nothing_is_parsed_or_tokenised_for_whom_there_is_no_place(
    serve: Serve, slow_engine: TableEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve(slow_engine, max_completions=1)
    slow_engine.gate.clear()
    first = asyncio.ensure_future(served.complete())
    await until(lambda: len(slow_engine.batches) == 1)
    monkeypatch.setattr(served.text, "prompt_ids", None)
    monkeypatch.setattr("edge_server.openai_routes.parsed", None)
    with pytest.raises(openai.InternalServerError) as refused:
        await served.complete("a very long prompt " * 1000)
    assert refused.value.code == "overloaded"
    slow_engine.gate.set()
    await first


async def test_a_place_is_taken_while_the_prompt_is_still_read(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred clients at once find as many places as there are, not as many as they ask for."""
    served = await serve(max_completions=3)
    reading, most = threading.Event(), 0

    def prompt_ids(_: str) -> list[int]:
        nonlocal most
        most = max(most, len(served.edge.places))
        reading.wait(5)
        return [5, 6]

    monkeypatch.setattr(served.text, "prompt_ids", prompt_ids)
    asked = [asyncio.ensure_future(served.complete(max_tokens=1)) for _ in range(12)]
    await until(lambda: sum(work.done() for work in asked) == 9)
    reading.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    refused = [r for r in results if isinstance(r, openai.InternalServerError)]
    assert (len(refused), most) == (9, 3)
    assert served.edge.places == []


async def test_bodies_on_their_way_are_limited(serve: Serve) -> None:
    served = await serve(max_completions=1, send_timeout_s=1.0)

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"model"'
        await asyncio.sleep(5)

    slow = [asyncio.ensure_future(raw(served, trickle())) for _ in range(2)]
    await until(lambda: len(served.edge.arriving) == 2)
    status, answer = await raw(served, b"{}")
    assert (status, answer["error"]["code"]) == (503, "overloaded")
    assert [status for status, _ in await asyncio.gather(*slow)] == [408, 408]
    assert not served.edge.arriving


async def test_the_bodies_of_one_client_leave_room_for_those_of_others(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("a" * 20 + "\n" + "b" * 20)
    tokens = str(tmp_path / "tokens")
    served = await serve(
        tokens_file=tokens, max_completions=2, max_completions_per_token=1, send_timeout_s=1.0
    )

    async def trickle() -> AsyncIterator[bytes]:
        yield b'{"model"'
        await asyncio.sleep(5)

    alice, bob = ({"Authorization": f"Bearer {letter * 20}"} for letter in "ab")
    slow = [asyncio.ensure_future(raw(served, trickle(), **alice)) for _ in range(2)]
    await until(lambda: len(served.edge.arriving) == 2)
    assert (await raw(served, trickle(), **alice))[0] == 429
    assert (await raw(served, b"{}", **bob))[0] == 400
    assert [status for status, _ in await asyncio.gather(*slow)] == [408, 408]


async def test_only_so_many_completions_run(serve: Serve, slow_engine: TableEngine) -> None:
    served = await serve(slow_engine, max_completions=1)
    slow_engine.gate.clear()
    first = asyncio.ensure_future(served.complete())
    await until(lambda: len(slow_engine.batches) == 1)
    with pytest.raises(openai.InternalServerError) as refused:
        await served.complete()
    assert refused.value.status_code == 503
    assert refused.value.code == "overloaded"
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    slow_engine.gate.set()
    await first
    await served.complete()


async def test_only_so_many_completions_of_one_client_run(
    serve: Serve, slow_engine: TableEngine
) -> None:
    served = await serve(slow_engine, max_completions_per_token=1)
    slow_engine.gate.clear()
    first = asyncio.ensure_future(served.complete())
    await until(lambda: len(slow_engine.batches) == 1)
    with pytest.raises(openai.RateLimitError):
        await served.complete()
    slow_engine.gate.set()
    await first


async def test_a_full_queue_gives_503(serve: Serve, slow_engine: TableEngine) -> None:
    served = await serve(slow_engine, max_queue=1)
    slow_engine.gate.clear()
    first = asyncio.ensure_future(served.complete())
    await until(lambda: len(slow_engine.batches) == 1)
    with pytest.raises(openai.InternalServerError) as refused:
        await served.complete()
    assert refused.value.status_code == 503
    slow_engine.gate.set()
    await first


# clients that leave, and servers that do


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_takes_its_job_back(
    serve: Serve, slow_engine: TableEngine, stream: bool
) -> None:
    served = await serve(slow_engine)
    slow_engine.gate.clear()
    asked = asyncio.ensure_future(served.complete(stream=stream, max_tokens=200))
    await until(lambda: len(slow_engine.batches) == 1)
    asked.cancel()
    await asyncio.wait((asked,))
    await until(lambda: not served.edge.completions)
    slow_engine.gate.set()
    await until(lambda: len(slow_engine.dropped) == 1)
    assert len(slow_engine.batches) == 1
    assert (await served.complete()).usage.completion_tokens == 12


async def test_a_client_that_leaves_a_running_stream_ends_it(
    serve: Serve, slow_engine: TableEngine
) -> None:
    served = await serve(slow_engine)
    stream = await served.complete(stream=True, max_tokens=400)
    await anext(aiter(stream))
    await stream.close()
    await until(lambda: not served.edge.completions)
    assert len(slow_engine.batches) < 390


async def test_draining_finishes_completions_and_takes_no_new_ones(
    serve: Serve, slow_engine: TableEngine
) -> None:
    served = await serve(slow_engine)
    slow_engine.gate.clear()
    first = asyncio.ensure_future(served.complete())
    await until(lambda: len(slow_engine.batches) == 1)
    draining = asyncio.create_task(drain(served.app))
    await until(lambda: served.edge.draining)
    with pytest.raises(openai.InternalServerError) as refused:
        await served.complete()
    assert (refused.value.status_code, refused.value.code) == (503, "draining")
    assert not draining.done()
    slow_engine.gate.set()
    assert (await first).usage.completion_tokens == 12
    await draining


async def test_draining_cuts_what_takes_too_long(serve: Serve, slow_engine: TableEngine) -> None:
    served = await serve(slow_engine, drain_timeout_s=0.05)
    stream = await served.complete(stream=True, max_tokens=400)
    await anext(aiter(stream))
    slow_engine.gate.clear()
    whole = asyncio.ensure_future(served.complete(max_tokens=400))
    await until(lambda: len(served.edge.completions) == 2)
    await drain(served.app)
    slow_engine.gate.set()
    with pytest.raises(openai.APIError, match="shutting down"):
        async for _ in stream:
            pass
    with pytest.raises(openai.InternalServerError) as cut:
        await whole
    assert cut.value.code == "draining"


# who may ask


async def test_every_route_but_the_health_checks_needs_a_token(
    serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("only-for-this-test")
    served = await serve(tokens_file=str(tmp_path / "tokens"))
    routes = {
        (route.method, route.resource.canonical)
        for route in served.app.router.routes()
        if route.resource is not None
    }
    assert {path for _, path in routes} >= {
        "/metrics", "/openapi.json", "/v1/status", "/v1/models", "/v1/completions",
        "/v1/chat/completions", "/v1/session",
    }  # fmt: skip
    async with ClientSession() as http:
        for method, path in routes:
            for token in ("", "wrong", "only-for-this-tes"):
                headers = {"Authorization": f"Bearer {token}"} if token else {}
                url = served.url.rstrip("/") + path.format(model="llama")
                async with http.request(method, url, headers=headers) as answer:
                    expected = 200 if path in OPEN_PATHS else 401
                    assert answer.status == expected, (method, path)
                    if expected == 401:
                        assert (await answer.text()) == "" or "error" in await answer.json()
    good = served.client_with("only-for-this-test")
    assert (await good.models.list()).data
    await good.close()


async def test_nothing_that_was_written_reaches_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", logger="edge_server")
    served = await serve()
    answer = await served.complete("a secret fox", temperature=0)
    with pytest.raises(openai.BadRequestError):
        await served.complete("a secret fox", seed="secret")
    assert "12 out" in caplog.text
    assert "secret" not in caplog.text
    assert answer.choices[0].text not in caplog.text


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come about")
