"""The description of the HTTP routes, and what strangers make of it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import HealthCheck, given, settings

from edge_server.app import make_app
from edge_server.auth import OPEN_PATHS
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.facts import edge_facts, read_tokens
from edge_server.openai_requests import ChatRequest, CompletionRequest
from edge_server.openapi import describe_api
from edge_server.state import EDGE
from edge_server.text import EdgeText
from tests.table_engine import TableEngine
from tests.table_model import random_table
from tests.tiny_models import NUM_TOKENS

TOKEN = "only-for-this-test"


@pytest.fixture
async def server(checkpoint: Callable[[str], Path], tmp_path: Path) -> AsyncIterator[TestServer]:
    """A server with a token and a quick engine."""
    (tmp_path / "tokens").write_text(TOKEN)
    opened = Checkpoint.open(checkpoint("llama"))
    engine = TableEngine(random_table(NUM_TOKENS, seed=4), context_len=64)
    facts = edge_facts(opened, read_tokens(opened.folder), engine.context_len)
    config = EdgeConfig(tokens_file=str(tmp_path / "tokens"))
    app = make_app([engine], facts, config, EdgeText.open(opened.folder))
    started = TestServer(app)
    async with started:
        yield started


def test_every_route_is_described(server: TestServer) -> None:
    app: web.Application = server.app
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {
        (method, path)
        for path, item in describe_api("llama", with_completions=True)["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert described == routes - {("get", "/v1/session")}  # a WebSocket: docs/protocol.md


def test_only_the_health_checks_are_open() -> None:
    paths = describe_api("llama", with_completions=True)["paths"]
    open_paths = {path for path, item in paths.items() if item.get("get", {}).get("security") == []}
    assert open_paths == OPEN_PATHS


def test_requests_are_described_by_their_checks() -> None:
    schemas = describe_api("llama", with_completions=True)["components"]["schemas"]
    for kind in (CompletionRequest, ChatRequest):
        assert set(schemas[kind.__name__]["properties"]) == set(kind.model_fields)
        assert schemas[kind.__name__]["additionalProperties"] is False


def test_a_server_without_a_tokenizer_describes_no_completions() -> None:
    assert "/v1/completions" not in describe_api("llama", with_completions=False)["paths"]


@pytest.mark.slow
async def test_no_request_makes_the_server_fail(server: TestServer) -> None:
    """Schemathesis: requests that fit the description, and others that do not, 100 a route."""
    await asyncio.to_thread(_fuzz, str(server.make_url("/openapi.json")), 100)


async def test_a_few_strange_requests_do_not_make_the_server_fail(server: TestServer) -> None:
    await asyncio.to_thread(_fuzz, str(server.make_url("/openapi.json")), 12)
    app: web.Application = server.app
    assert app[EDGE].metrics.total.streamed > 0  # some of them were served


def _fuzz(url: str, num_examples: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports
        import schemathesis
        from schemathesis import checks

    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(url, headers=headers)
    wanted: Any = [
        checks.not_a_server_error, checks.status_code_conformance,
        checks.content_type_conformance, checks.response_schema_conformance,
    ]  # fmt: skip
    results: Any = schema.get_all_operations()
    for operation in (result.ok() for result in results):
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.body or operation.path_parameters:  # else there is nothing to get wrong
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=num_examples, deadline=None, database=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.call_and_validate(headers=headers, checks=wanted)

            ask()
