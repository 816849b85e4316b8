"""Rounding reaches every matrix that the graph stores, and nothing else."""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
import pytest
import torch

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


def test_float32_is_left_alone() -> None:
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    round_weights(model, "fp32")
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())
