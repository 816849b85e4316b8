"""`/v1/completions`, `/v1/chat/completions`, `/v1/models`: OpenAI's API on this edge's LLM."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from aiohttp import web

from edge_server.auth import IDENTITY
from edge_server.completion import Completion, CutError, Delta, Wish
from edge_server.endings import deadline
from edge_server.failures import describe
from edge_server.http_errors import ApiError, draining, error_body
from edge_server.metrics import Operation
from edge_server.openai_bodies import Request, parsed
from edge_server.openai_replies import Reply, model_json
from edge_server.openai_requests import MAX_BODY_BYTES, ChatRequest, CompletionRequest
from edge_server.scheduler import BusyError
from edge_server.state import EDGE, Edge
from edge_server.text import EdgeText, PromptError

COMPLETIONS_PATH = "/v1/completions"
CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"

_SEED_MASK = (1 << 64) - 1

logger = logging.getLogger(__name__)


async def completions(request: web.Request) -> web.StreamResponse:
    """Continue a text."""
    return await _admitted(request, CompletionRequest, "text_completion")


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a chat."""
    return await _admitted(request, ChatRequest, "chat")


async def models(request: web.Request) -> web.Response:
    """The only model there is."""
    return web.json_response({"object": "list", "data": [_model(request.app[EDGE])]})


async def model(request: web.Request) -> web.Response:
    """The model of that name."""
    edge = request.app[EDGE]
    _check_model(request.match_info["model"], edge)
    return web.json_response(_model(edge))


def _model(edge: Edge) -> dict[str, Any]:
    created = int(time.time() - (time.monotonic() - edge.started_s))
    return model_json(edge.facts.model, created, edge.facts.context_len)


def _check_model(name: str, edge: Edge) -> None:
    if name != edge.facts.model:
        text = f"this server has no such model; it serves {edge.facts.model}"
        raise ApiError(404, text, param="model", code="model_not_found")


async def _admitted(
    request: web.Request, kind: type[Request], operation: Operation
) -> web.StreamResponse:
    """A place for the completion comes first: parsing and tokenising a body are work, too."""
    edge = request.app[EDGE]
    try:
        with edge.arrival(request[IDENTITY]):
            body = await _body(request)
        if edge.draining:
            raise draining()
        with edge.place(request[IDENTITY]):
            context_len, num_ids = edge.facts.context_len, edge.facts.num_ids
            asked = await parsed(body, kind, num_ids=num_ids, context_len=context_len)
            response = await _answer(request, asked, operation)
    except BusyError as error:
        edge.metrics.refused(error)
        raise
    await _end(request, response)
    return response


async def _body(request: web.Request) -> bytes:
    """The body as it came; ApiError where it is no JSON by its head, too large or too slow."""
    if request.content_type != "application/json":  # also keeps foreign web pages out
        raise ApiError(415, "the body must be application/json")
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise ApiError(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    read_timeout_s = request.app[EDGE].config.send_timeout_s
    try:
        return await asyncio.wait_for(request.read(), read_timeout_s)
    except (TimeoutError, asyncio.TimeoutError):
        raise ApiError(408, "the body did not arrive in time") from None
    except web.RequestPayloadError:
        text = (
            "the body is not what its Content-Encoding or Transfer-Encoding says; send plain JSON"
        )
        raise ApiError(400, text) from None


async def _answer(request: web.Request, asked: Request, operation: Operation) -> web.StreamResponse:
    edge = request.app[EDGE]
    _check_model(asked.model, edge)
    assert edge.text is not None
    prompt_ids = await _prompt_ids(edge, edge.text, asked)
    if edge.draining:
        raise draining()
    context = () if isinstance(asked, ChatRequest) else prompt_ids
    detokenizer = edge.text.detokenizer(context, asked.stops)
    wish = _wish(asked, prompt_ids, edge.facts.context_len)
    completion = Completion(edge.front, edge.facts, request[IDENTITY], wish, detokenizer)
    reply = Reply(operation, edge.facts.model, edge.text, wish.num_top is not None)
    edge.completions.add(completion)
    error_kind = "cancelled"
    try:
        if asked.stream:
            response, error_kind = await _streamed(request, asked, completion, reply)
        else:
            response, error_kind = await _whole(completion, reply), ""
    except Exception as error:
        error_kind = _kind_of(error)
        if isinstance(error, CutError):
            raise draining() from None
        raise
    finally:
        edge.completions.discard(completion)
        edge.metrics.completion_done(operation, completion.usage, error_kind)
        _log(completion, operation, error_kind)
    return response


def _kind_of(error: Exception) -> str:
    """How a failure is counted and logged."""
    return "draining" if isinstance(error, CutError) else type(error).__name__


async def _prompt_ids(edge: Edge, text: EdgeText, asked: Request) -> tuple[int, ...]:
    """The tokens of the prompt or chat; ApiError where there are none, too many, or strange ones."""
    context_len, num_ids = edge.facts.context_len, edge.facts.num_ids
    try:
        if isinstance(asked, ChatRequest):
            messages = [{"role": turn.role, "content": turn.text} for turn in asked.messages]
            ids = await text.in_thread(lambda: text.chat_ids(messages))
        else:
            prompt = asked.prompt if isinstance(asked.prompt, str) else asked.prompt[0]
            if isinstance(prompt, int):
                ids = [int(token_id) for token_id in asked.prompt]
            else:
                ids = await text.in_thread(lambda: text.prompt_ids(prompt))
    except PromptError as error:
        raise ApiError(400, str(error), code="invalid_prompt") from None
    if max(ids) >= num_ids:
        raise ApiError(400, f"token ids must be below {num_ids}", param="prompt")
    if len(ids) >= context_len:
        raise ApiError(
            400,
            f"the prompt has {len(ids)} tokens; the context holds {context_len}, one at least for "
            "the answer",
            code="context_length_exceeded",
        )
    return tuple(ids)


def _wish(asked: Request, prompt_ids: Sequence[int], context_len: int) -> Wish:
    seed = secrets.randbits(64) if asked.seed is None else asked.seed & _SEED_MASK
    return Wish(
        prompt_ids=tuple(prompt_ids),
        sampling=asked.sampling,
        seed=seed,
        max_tokens=min(asked.max_written, context_len - len(prompt_ids)),
        num_top=asked.num_top,
    )


async def _whole(completion: Completion[Any], reply: Reply) -> web.Response:
    """Everything in one piece."""
    async with aclosing(completion.deltas()) as deltas:
        parts: list[Delta] = [delta async for delta in deltas]
    whole = reply.whole(parts, completion.finish_reason, completion.usage)
    return web.json_response(whole)


async def _streamed(
    request: web.Request, asked: Request, completion: Completion[Any], reply: Reply
) -> tuple[web.StreamResponse, str]:
    """Server-sent events, and what went wrong once they had begun; "" if nothing did.

    A client that goes away, or does not read, ends the completion.
    """
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
    )
    async with aclosing(completion.deltas()) as deltas:
        opened = False
        try:
            async for delta in deltas:
                if not opened:  # until the first token an error can still have its own status
                    await response.prepare(request)
                    await _send(request, response, reply.opening())
                    opened = True
                reason = completion.finish_reason
                if delta.text or delta.tokens or reason:
                    await _send(request, response, reply.chunk(delta, reason))
        except Exception as error:
            if not opened or isinstance(error, ConnectionError):
                raise
            await _send(request, response, _last_words(error))
            await _end(request, response)
            return response, _kind_of(error)
    if asked.stream_options is not None and asked.stream_options.include_usage:
        await _send(request, response, reply.closing(completion.usage))
    await _write(request, response, b"[DONE]")
    await _end(request, response)
    return response, ""


def _last_words(error: Exception) -> dict[str, Any]:
    """What a stream ends with that has begun well."""
    if isinstance(error, CutError):
        return draining().body
    logger.error("completion failed: %s", describe(error))
    return error_body(500, "internal error", None, "internal_error")


async def _send(
    request: web.Request, response: web.StreamResponse, data: dict[str, Any] | None
) -> None:
    """One event; ConnectionError if the client is gone or does not take it in time."""
    if data is not None:
        await _write(request, response, json.dumps(data, ensure_ascii=False).encode())


async def _end(request: web.Request, response: web.StreamResponse) -> None:
    """All that is left of the response, within the same time; again does no harm."""
    with deadline(request.transport, request.app[EDGE].config.send_timeout_s):
        if not response.prepared:
            await response.prepare(request)
        await response.write_eof()


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    with deadline(request.transport, request.app[EDGE].config.send_timeout_s):
        await response.write(b"data: " + data + b"\n\n")


def _log(completion: Completion[Any], operation: Operation, error_kind: str) -> None:
    usage = completion.usage
    outcome = error_kind or completion.finish_reason or "cut"
    logger.info(
        "%s: %d tokens in, %d out, %.3f s, %s",
        operation, usage.prompt_tokens, usage.written_tokens, usage.seconds, outcome,
        extra={"fields": {"operation": operation, "outcome": outcome, **asdict(usage)}},
    )  # fmt: skip
