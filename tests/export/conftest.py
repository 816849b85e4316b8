"""Checkpoints and bundles made once for all export tests."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export import cli
from tests.tiny_models import save_checkpoint, tiny_model

Export = Callable[..., int]


def parse(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    # Matrices this small are slower on two threads, and much slower on a busy machine.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def export() -> Export:
    """Run `tandem export` in this process, without the top-level command."""
    return lambda *words: cli.run(parse(*words))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied Llama with grouped queries, one file, a chat template."""
    return save_checkpoint(tiny_model("llama"), tmp_path_factory.mktemp("checkpoints") / "llama")


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tied GPT-2: padded vocabulary, float16 shards, no chat template."""
    folder = tmp_path_factory.mktemp("checkpoints") / "gpt2"
    return save_checkpoint(
        tiny_model("gpt2", num_padding=64),
        folder,
        chat_template=None,
        dtype=torch.float16,
        max_shard_size="100KB",
    )


@pytest.fixture(scope="session")
def llama_bundle(llama: Path, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused graph, float32."""
    out = tmp_path_factory.mktemp("bundles") / "llama"
    assert export(llama, "--out", out, "--weights", "fp32", "--json") == 0
    return out


@pytest.fixture(scope="session")
def gpt2_bundle(gpt2: Path, export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that optimum traced, float32."""
    out = tmp_path_factory.mktemp("bundles") / "gpt2"
    assert export(gpt2, "--out", out, "--weights", "fp32", "--json") == 0
    return out
