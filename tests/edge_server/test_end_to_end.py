"""Real models over real sockets: the text is the one transformers' generate() writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from numpy.typing import NDArray

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from edge_server.app import make_app
from edge_server.attention import NAME
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.engine import TorchEngine
from edge_server.facts import edge_facts, read_tokens
from edge_server.local_runner import LocalRunner
from tests.edge_client import EdgeClient
from tests.tiny_models import NUM_TOKENS, tiny_model, with_noise

GREEDY = Sampling(temperature=0.0)
PROMPTS = [[5, 77, 200, 31, 8], [300, 12, 99], list(range(20, 70)), [1]]
NUM_NEW = 24


class EngineDrafter:
    """A drafter on an engine of its own: the LLM plus weight noise."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._slot = engine.open()
        self._tokens: list[int] = []

    @property
    def vocab_size(self) -> int:
        return NUM_TOKENS

    @property
    def num_tokens(self) -> int:
        return len(self._tokens)

    def truncate(self, num_tokens: int) -> None:
        del self._tokens[num_tokens:]

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self._tokens += token_ids.tolist()
        (logits,) = self._engine.logits([(self._slot, Job(tuple(self._tokens), 1))])
        row: NDArray[np.float32] = logits[0, :NUM_TOKENS].float().numpy()
        return row


@cache
def draft_engine(model_type: str) -> TorchEngine:
    model = with_noise(tiny_model(model_type, num_padding=16), 0.1)
    model.set_attn_implementation(NAME)
    return TorchEngine(LocalRunner(model), num_ids=NUM_TOKENS, context_len=256, max_blocks=100)


@pytest.fixture(params=["llama", "gpt2"])
async def served(
    request: pytest.FixtureRequest,
    make_engine: Callable[..., TorchEngine],
    checkpoint: Callable[..., Any],
) -> AsyncIterator[tuple[str, TestClient[Any, Any]]]:
    """(model_type, a client of the server)."""
    model_type = request.param
    engine = make_engine(model_type)
    opened = Checkpoint.open(checkpoint(model_type))
    facts = edge_facts(opened, read_tokens(opened.folder), engine.context_len)
    app = make_app([engine], facts, EdgeConfig(prefill_tokens=32, max_batch_tokens=192))
    async with TestClient(TestServer(app)) as client:
        yield model_type, client


def a_generation(scheme: str = "greedy-draft", sampling: Sampling = GREEDY) -> Generation:
    return Generation(scheme_named(scheme), sampling, seed=11, end_ids=())


async def a_device(
    client: TestClient[Any, Any], checkpoint: Callable[..., Any], prompt: list[int]
) -> EdgeClient:
    facts = edge_facts(
        Checkpoint.open(checkpoint("llama")), read_tokens(checkpoint("llama")), context_len=256
    )
    session = DeviceSession(NUM_TOKENS, facts.vocabulary_hash, "test")
    session.append(prompt)
    return await EdgeClient.connect(client, session)


@pytest.mark.parametrize("gamma", [1, 4, 8])
async def test_split_greedy_text_equals_generate(
    served: tuple[str, TestClient[Any, Any]],
    checkpoint: Callable[..., Any],
    generated: Callable[..., list[int]],
    gamma: int,
) -> None:
    """All prompts at once: rounds of some run beside prompts of others."""
    model_type, client = served

    async def write(prompt: list[int]) -> list[int]:
        device = await a_device(client, checkpoint, prompt)
        drafter = EngineDrafter(draft_engine(model_type))
        return await device.write(drafter, a_generation(), gamma, NUM_NEW)

    written = await asyncio.gather(*map(write, PROMPTS))
    for prompt, tokens in zip(PROMPTS, written, strict=True):
        assert tokens == generated(prompt, NUM_NEW, model_type)


async def test_streamed_greedy_text_equals_generate(
    served: tuple[str, TestClient[Any, Any]],
    checkpoint: Callable[..., Any],
    generated: Callable[..., list[int]],
) -> None:
    model_type, client = served
    devices = [await a_device(client, checkpoint, prompt) for prompt in PROMPTS]
    for device in devices:
        await device.begin(a_generation())
    streamed = await asyncio.gather(*(device.stream(NUM_NEW) for device in devices))
    for prompt, tokens in zip(PROMPTS, streamed, strict=True):
        assert tokens == generated(prompt, NUM_NEW, model_type)


async def test_coupled_text_is_the_llm_s_own_beside_other_sessions(
    served: tuple[str, TestClient[Any, Any]], checkpoint: Callable[..., Any]
) -> None:
    model_type, client = served
    generation = a_generation("coupled", Sampling(temperature=0.8, top_p=0.9))
    alone = await a_device(client, checkpoint, PROMPTS[0])
    await alone.begin(generation)
    wanted = await alone.stream(NUM_NEW)

    async def write(gamma: int) -> list[int]:
        device = await a_device(client, checkpoint, PROMPTS[0])
        drafter = EngineDrafter(draft_engine(model_type))
        return await device.write(drafter, generation, gamma, NUM_NEW)

    assert await asyncio.gather(*map(write, (1, 3, 6))) == [wanted] * 3
