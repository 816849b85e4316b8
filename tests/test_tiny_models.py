"""The tiny checkpoints other tests stand on: real tokenizer, true layout, useful laws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.tiny_models import (
    END_ID,
    NUM_TOKENS,
    START_ID,
    TEXT,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
    with_noise,
)


def laws(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.softmax(-1)


@pytest.mark.parametrize("text", [*TEXT, "never seen: ΑΒΓ 👩‍👩‍👧 \x00\t"])
def test_any_text_comes_back_from_the_tokenizer(text: str) -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_merges_are_used_and_an_emoji_is_split_over_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert len(tokenizer.encode(TEXT[0]).ids) < len(TEXT[0]) * 0.7
    assert len(tokenizer.encode("🧭").ids) > 1


def test_a_checkpoint_has_the_files_of_the_hub(tmp_path: Path) -> None:
    save_checkpoint(tiny_model("gpt2"), tmp_path, max_shard_size="200KB")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json"} <= names
    assert {"tokenizer_config.json", "model.safetensors.index.json"} <= names
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert (config["bos_token_id"], config["eos_token_id"]) == (START_ID, END_ID)


def test_a_padded_vocabulary_has_rows_without_tokens() -> None:
    model = tiny_model("llama", num_padding=64)
    p = laws(model, torch.tensor([[START_ID, 40, 50]]))
    assert model.config.vocab_size == NUM_TOKENS + 64 == p.shape[-1]
    assert p[..., NUM_TOKENS:].sum(-1).min() > 0.01  # they must be cut, not overlooked


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_noise_makes_a_neighbour_that_agrees_in_part(model_type: str) -> None:
    model = tiny_model(model_type)
    weights = [weight.clone() for weight in model.parameters()]
    ids = torch.randint(0, NUM_TOKENS, (4, 48), generator=torch.Generator().manual_seed(5))
    p = laws(model, ids)
    q = laws(with_noise(model, 0.1), ids)
    alpha = torch.minimum(p, q).sum(-1).mean().item()
    agreement = (p.argmax(-1) == q.argmax(-1)).float().mean().item()
    assert 0.5 < alpha < 0.9
    assert 0.2 < agreement < 0.8
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_the_same_seed_gives_the_same_weights_whatever_ran_before() -> None:
    first = tiny_model("llama", seed=3)
    torch.rand(7)
    state = torch.random.get_rng_state()
    second = tiny_model("llama", seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
