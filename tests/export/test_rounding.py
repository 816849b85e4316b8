"""Rounding reaches every matrix that the graph stores, and nothing else."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.demo import PAIR
from export import rounding
from export.calibration import own_texts
from export.errors import ExportError
from export.quantise import to_blocks
from export.rounding import round_weights
from tests.tiny_models import tiny_model

NORM_OR_POSITION = ("norm", "ln_", "layernorm", "wpe", "embed_positions", "bias")


@pytest.mark.parametrize("weights", ["int4", "fp16"])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
def test_matrices_are_rounded_in_place_and_the_rest_is_kept(model_type: str, weights: str) -> None:
    model = tiny_model(model_type)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    round_weights(model, weights)
    for name, tensor in model.state_dict().items():
        kept = any(part in name for part in NORM_OR_POSITION)
        assert torch.equal(tensor, before[name]) == kept, name
    again = copy.deepcopy(model)
    round_weights(again, weights)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_blocks_of_a_gpt2_run_along_its_inputs() -> None:
    model = tiny_model("gpt2")
    (before,) = (
        w.clone() for n, w in model.named_parameters() if n.endswith("h.0.mlp.c_fc.weight")
    )
    round_weights(model, "int8")
    (after,) = (w for n, w in model.named_parameters() if n.endswith("h.0.mlp.c_fc.weight"))
    expected = to_blocks(np.ascontiguousarray(before.detach().numpy().T), 8).dequantised().T
    np.testing.assert_array_equal(after.detach().numpy(), expected)


def test_tied_weights_stay_tied() -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    round_weights(model, "int4")
    tied = cast(Any, model)
    head, table = tied.lm_head, tied.get_input_embeddings()
    assert head.weight.data_ptr() == table.weight.data_ptr()


def test_halves_are_torchs_own_and_have_a_range() -> None:
    model = cast(Any, tiny_model("llama"))
    before = model.lm_head.weight.detach().clone()
    round_weights(model, "fp16")
    assert torch.equal(model.lm_head.weight, before.half().float())
    with torch.no_grad():
        model.lm_head.weight[3, 7] = 65_536
    with pytest.raises(ExportError, match="beyond the range of float16"):
        round_weights(model, "fp16")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_texts_bring_the_law_nearer(model_type: str, tied: bool) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    texts = own_texts(model, 32)
    nearest, fitted = copy.deepcopy(model), copy.deepcopy(model)
    heard: list[tuple[int, int]] = []
    round_weights(nearest, "int4")
    round_weights(fitted, "int4", texts, lambda *told: heard.append(told))
    assert heard == [(n, len(heard)) for n in range(1, len(heard) + 1)]

    def distance(other: Any) -> float:
        with torch.no_grad():
            logits, exact = (m(input_ids=texts).logits for m in (other, model))
        return float((logits - exact).square().mean())

    assert distance(fitted) < 0.95 * distance(nearest)  # random matrices meet nearly white inputs
    again = copy.deepcopy(fitted)
    round_weights(again, "int4")
    assert all(torch.equal(w, fitted.state_dict()[n]) for n, w in again.state_dict().items())


def test_a_trained_model_keeps_more_of_its_law() -> None:
    model = cast(Any, AutoModelForCausalLM.from_pretrained(PAIR / "slm", dtype=torch.float32))
    nearest, fitted = copy.deepcopy(model), copy.deepcopy(model)
    round_weights(nearest, "int4")
    round_weights(fitted, "int4", own_texts(model, 1024))
    ids = torch.randint(8192, (8, 64), generator=torch.Generator().manual_seed(1))

    def divergence(other: Any) -> float:
        with torch.no_grad():
            q, exact = (m(input_ids=ids).logits.log_softmax(-1) for m in (other, model))
        return float((exact.exp() * (exact - q)).sum(-1).mean())

    assert divergence(fitted) < 0.65 * divergence(nearest)


def test_what_matrices_met_need_not_fit_into_memory_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    texts = own_texts(model, 32)
    at_once, in_turn = copy.deepcopy(model), copy.deepcopy(model)
    round_weights(at_once, "int4", texts)
    monkeypatch.setattr(rounding, "GRAM_BYTES", 1)
    monkeypatch.setattr(rounding._Matrix, "gram_bytes", property(lambda _: 1 << 40))
    round_weights(in_turn, "int4", texts)
    later = "model.layers.1.mlp.down_proj.weight"
    assert torch.equal(at_once.state_dict()["model.embed_tokens.weight"],
        in_turn.state_dict()["model.embed_tokens.weight"])  # fmt: skip
    assert not torch.equal(at_once.state_dict()[later], in_turn.state_dict()[later])


def test_8_bits_are_not_fitted() -> None:
    model = tiny_model("llama")
    texts = own_texts(model, 16)
    nearest, fitted = copy.deepcopy(model), copy.deepcopy(model)
    round_weights(nearest, "int8")
    round_weights(fitted, "int8", texts)
    assert all(torch.equal(w, fitted.state_dict()[n]) for n, w in nearest.state_dict().items())


def test_float32_is_left_alone() -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    round_weights(model, "fp32")
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
