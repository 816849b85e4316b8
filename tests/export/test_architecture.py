"""Which architectures are exported, and how long a context the graph is right for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export import architecture
from export.checkpoint import Checkpoint
from export.errors import ExportError
from tests.tiny_models import ARCHITECTURES, tiny_tokenizer


def checkpoint(**config: Any) -> Checkpoint:
    return Checkpoint(Path("here"), "it", config, {}, {}, tiny_tokenizer())


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_promised_architectures_are_known(model_type: str) -> None:
    architecture.check(checkpoint(model_type=model_type))


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("bert", r"is an encoder \(bert\), not a causal"),
        ("roberta", "is an encoder"),
        ("mamba", "cannot be rolled back"),
        ("jamba", "cannot be rolled back"),
        ("falcon_h1", "cannot be rolled back"),
        ("lfm2", "cannot be rolled back"),
        ("nemotron_h", "cannot be rolled back"),
        ("recurrent_gemma", "cannot be rolled back"),
        ("vit", "cannot be exported; these can: arcee"),
        ("bart", "is an encoder-decoder"),
        ("made_up", "has the architecture made_up, which cannot be exported"),
        ("", "has the architecture , which"),
    ],
)
def test_others_are_refused_with_a_sentence(model_type: str, expected: str) -> None:
    with pytest.raises(ExportError, match=expected):
        architecture.check(checkpoint(model_type=model_type))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"max_seq_len": 512}, 512),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3"}}, 131072),
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope"},
            },
            4096,
        ),
    ],
)
def test_the_context_ends_where_the_traced_positions_do(
    config: dict[str, Any], expected: int
) -> None:
    assert architecture.context_len(checkpoint(**config)) == expected


def test_a_config_without_context_length_is_refused() -> None:
    with pytest.raises(ExportError, match="states no context length"):
        architecture.context_len(checkpoint(model_type="llama"))
