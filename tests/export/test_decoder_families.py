"""Which configs have a fused graph, and what is read of a model whose modules could mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from export import fused_graph
from export.decoder_families import FAMILIES, read_decoder, unsupported
from tests.tiny_models import tiny_model

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_supported_as_transformers_writes_its_config(family: str) -> None:
    assert unsupported(tiny_model(family).config.to_dict()) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "gpt2"}, "the architecture gpt2 is not one of gemma, gemma2, "),
        ({"hidden_act": "relu"}, "the activation relu is not one of silu, "),
        (
            {"model_type": "gemma2", "hidden_act": "silu", "hidden_activation": "relu"},
            "the activation relu is not one of ",
        ),
        ({"head_dim": 24}, "24 rotated dimensions in heads of 24 are no multiples of 16"),
        ({"num_attention_heads": 8}, "8 rotated dimensions in heads of 8 are no multiples of 16"),
        ({"partial_rotary_factor": 0.75}, "12 rotated dimensions in heads of 16 are no multiples"),
        ({"use_bidirectional_attention": True}, "attention looks ahead"),
    ],
)
def test_what_has_no_fused_graph_says_why(change: dict[str, Any], why: str) -> None:
    assert unsupported(LLAMA) is None
    assert (unsupported({**LLAMA, **change}) or "").startswith(why)


def test_only_one_matrix_is_tied_and_not_two_alike() -> None:
    assert read_decoder(tiny_model("llama", tie_word_embeddings=True), 16).is_tied
    model: Any = tiny_model("llama", tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    assert not read_decoder(model, 16).is_tied


def test_a_bias_on_some_of_queries_keys_and_values_is_not_dropped() -> None:
    model = tiny_model("llama")
    attention = cast(Any, model).model.layers[0].self_attn
    attention.k_proj.bias = nn.Parameter(torch.ones(attention.k_proj.out_features))
    with pytest.raises(ValueError, match="must all have a bias, or none of them"):
        read_decoder(model, 16)


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4", "int8-dynamic"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gate_and_up_are_one_product_as_queries_keys_and_values_are(
    family: str, weights: str, tmp_path: Path
) -> None:
    decoder = read_decoder(tiny_model(family), 16)
    fused_graph.write(decoder, tmp_path / "model.onnx", weights, accuracy_level=0)
    nodes = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.node
    names = [node.name.removesuffix(".product") for node in nodes if "MatMul" in node.op_type]
    *products, _ = [name.rpartition(".")[2] for name in names]  # the last one is the head
    assert products == ["qkv", "output", "gate_up", "down"] * len(decoder.layers)


@pytest.mark.parametrize(
    ("family", "expected"),
    [("gemma", "gelu"), ("gemma2", "gelu_tanh"), ("gemma3_text", "gelu_tanh")],
)
def test_of_two_activations_the_one_that_torch_computes_with_is_read(
    family: str, expected: str
) -> None:
    both: dict[str, Any] = {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}
    model: Any = tiny_model(family, **both)
    tanh = isinstance(model.model.layers[0].mlp.act_fn, type(ACT2FN["gelu_pytorch_tanh"]))
    assert tanh == (expected == "gelu_tanh")
    assert {layer.mlp.activation for layer in read_decoder(model, 16).layers} == {expected}


def test_gemma_reads_no_activation_that_it_does_not_compute_with() -> None:
    config = {**LLAMA, "model_type": "gemma", "hidden_activation": "relu"}
    assert unsupported({**config, "hidden_act": "gelu"}) is None


def test_gemma_s_norms_and_embeddings_are_read_as_they_are_multiplied() -> None:
    model: Any = tiny_model("gemma")
    with torch.no_grad():
        model.model.norm.weight.fill_(0.5)
    decoder = read_decoder(model, 16)
    assert np.all(decoder.final_norm.weight == 1.5)
    assert decoder.embedding_scale == 8.0  # the root of 64
    assert read_decoder(tiny_model("llama"), 16).embedding_scale == 1.0


def test_the_tables_have_as_many_positions_as_were_asked_for() -> None:
    decoder = read_decoder(tiny_model("gemma3_text"), 24)
    assert decoder.local_rotary is not None
    for rotary in (decoder.rotary, decoder.local_rotary):
        assert rotary.cos.shape == rotary.sin.shape == (24, 8)
