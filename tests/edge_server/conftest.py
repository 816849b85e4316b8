"""Tiny checkpoints and the engines on them, made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from edge_server.checkpoint import Checkpoint
from edge_server.engine import TorchEngine
from edge_server.loading import load_engine
from tests.tiny_models import NUM_TOKENS, save_checkpoint, tiny_model

Checkpoints = Callable[[str], Path]
CACHE_BYTES = 16 << 20


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny matrices gain nothing from threads, and other programs may run beside the tests."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """model_type → the folder of a tiny random checkpoint with some padding columns."""
    root = tmp_path_factory.mktemp("checkpoints")

    @cache
    def save(model_type: str) -> Path:
        return save_checkpoint(tiny_model(model_type, num_padding=16), root / model_type)

    return save


@pytest.fixture(scope="session")
def make_engine(checkpoint: Checkpoints) -> Callable[..., TorchEngine]:
    """A fresh engine on a tiny checkpoint."""

    def make(model_type: str = "llama", dtype: str = "float64", device: str = "cpu") -> TorchEngine:
        return load_engine(
            Checkpoint.open(checkpoint(model_type)),
            num_ids=NUM_TOKENS,
            device=device,
            dtype=dtype,
            cache_bytes=CACHE_BYTES,
        )

    return make


@pytest.fixture(scope="session")
def llama(make_engine: Callable[..., TorchEngine]) -> TorchEngine:
    """A float64 engine that tests share; each uses its own slots."""
    return make_engine()


@pytest.fixture(scope="session")
def generated(checkpoint: Checkpoints) -> Callable[..., list[int]]:
    """What transformers' generate() writes greedily after a prompt, in float64."""

    @cache
    def reference(model_type: str) -> Any:
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint(model_type), dtype=torch.float64, attn_implementation="eager"
        )
        return model

    def generate(prompt: list[int], count: int, model_type: str = "llama") -> list[int]:
        model: Any = reference(model_type)
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
            suppress_tokens=list(range(NUM_TOKENS, NUM_TOKENS + 16)),  # padding is never written
        )
        tokens: list[int] = output[0, len(prompt) :].tolist()
        return tokens

    return generate
