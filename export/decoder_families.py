"""Read a transformers model of the Llama family into a `Decoder`.

One reader serves them all: where the families differ, the model's own modules and config say how.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from export.decoder import Attention, Decoder, Layer, Linear, Mlp, Norm, Rotary

FAMILIES = ("gemma", "gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""`model_type`s that have a fused graph."""

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
_WITH_HIDDEN_ACTIVATION = ("gemma2", "gemma3_text")
"""Their activation has that key; Gemma 1 may have it, too, and computes by hidden_act all the same."""
_ONE_WINDOW = ("mistral", "phi3")
"""All layers see as far as the config says; elsewhere each layer knows."""


def unsupported(config: dict[str, Any]) -> str | None:
    """Why this config.json has no fused graph; None where it has one."""
    kind = config["model_type"]
    if kind not in FAMILIES:
        return f"the architecture {kind} is not one of {', '.join(FAMILIES)}"
    activation = config.get(_activation_key(kind)) or "silu"
    if activation not in _ACTIVATIONS:
        return f"the activation {activation} is not one of {', '.join(_ACTIVATIONS)}"
    heads = config.get("num_attention_heads", 1)
    head_size = config.get("head_dim") or config.get("hidden_size", 0) // heads
    num_rotated = int(head_size * config.get("partial_rotary_factor", 1))
    if head_size % 16 or num_rotated % 16:
        return f"{num_rotated} rotated dimensions in heads of {head_size} are no multiples of 16"
    if config.get("use_bidirectional_attention"):
        return "attention looks ahead"
    return None


def _activation_key(kind: str) -> str:
    return "hidden_activation" if kind in _WITH_HIDDEN_ACTIVATION else "hidden_act"


def read_decoder(model: PreTrainedModel, num_positions: int) -> Decoder:
    """The model (float32, CPU) as data; the arrays are views of its weights where they can be.

    The rotary tables have `num_positions` rows.
    """
    config: Any = model.config
    base: Any = model.model
    first = base.layers[0].self_attn
    embedding = _array(base.embed_tokens.weight)
    head = model.get_output_embeddings()
    tied = head.weight.data_ptr() == base.embed_tokens.weight.data_ptr()
    has_local = getattr(base, "rotary_emb_local", None) is not None
    return Decoder(
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=first.head_dim,
        embedding=embedding,
        embedding_scale=_embedding_scale(config),
        layers=tuple(_layer(layer, config) for layer in base.layers),
        final_norm=_norm(base.norm, config),
        head=Linear(embedding, _bias(head)) if tied else _linear(head),
        logit_softcap=getattr(config, "final_logit_softcapping", None) or 0.0,
        rotary=_rotary(base.rotary_emb, num_positions),
        local_rotary=_rotary(base.rotary_emb_local, num_positions) if has_local else None,
    )


def _layer(layer: Any, config: Any) -> Layer:
    gemma_like = hasattr(layer, "pre_feedforward_layernorm")
    mlp_norm = layer.pre_feedforward_layernorm if gemma_like else layer.post_attention_layernorm
    return Layer(
        attention_norm=_norm(layer.input_layernorm, config),
        attention=_attention(layer.self_attn, config),
        mlp_norm=_norm(mlp_norm, config),
        mlp=_mlp(layer.mlp, config),
        after_attention=_norm(layer.post_attention_layernorm, config) if gemma_like else None,
        after_mlp=_norm(layer.post_feedforward_layernorm, config) if gemma_like else None,
    )


def _attention(attention: Any, config: Any) -> Attention:
    if config.model_type in _ONE_WINDOW:
        window = config.sliding_window
    else:
        window = getattr(attention, "sliding_window", None)
    q_norm, k_norm = (getattr(attention, name, None) for name in ("q_norm", "k_norm"))
    if hasattr(attention, "qkv_proj"):
        qkv = _linear(attention.qkv_proj)
    else:
        qkv = _stack([attention.q_proj, attention.k_proj, attention.v_proj])
    return Attention(
        qkv=qkv,
        output=_linear(attention.o_proj),
        scale=float(attention.scaling),
        q_norm=None if q_norm is None else _norm(q_norm, config),
        k_norm=None if k_norm is None else _norm(k_norm, config),
        softcap=getattr(config, "attn_logit_softcapping", None) or 0.0,
        window=window,
        is_local=bool(getattr(attention, "is_sliding", False)),
    )


def _mlp(mlp: Any, config: Any) -> Mlp:
    name = getattr(config, _activation_key(config.model_type))
    if hasattr(mlp, "gate_up_proj"):
        gate_up = _linear(mlp.gate_up_proj)
    else:
        gate_up = _stack([mlp.gate_proj, mlp.up_proj])
    return Mlp(gate_up, _linear(mlp.down_proj), _ACTIVATIONS[name])


def _norm(norm: Any, config: Any) -> Norm:
    weight = _array(norm.weight)
    if config.model_type.startswith("gemma"):
        weight = 1 + weight
    epsilon = norm.eps if hasattr(norm, "eps") else norm.variance_epsilon
    return Norm(weight, float(epsilon))


def _embedding_scale(config: Any) -> float:
    return float(config.hidden_size**0.5) if config.model_type.startswith("gemma") else 1.0


def _rotary(rotary: Any, num_positions: int) -> Rotary:
    """Tables as the model itself fills them: every kind of rope scaling is in them."""
    with torch.inference_mode():
        positions = torch.arange(num_positions)[None]
        cos, sin = rotary(torch.zeros(1, dtype=torch.float32), positions)
    half = cos.shape[-1] // 2
    return Rotary(_array(cos[0, :, :half]), _array(sin[0, :, :half]))


def _stack(linears: list[Any]) -> Linear:
    weight = np.concatenate([_array(linear.weight) for linear in linears])
    biases = [_bias(linear) for linear in linears]
    present = [bias for bias in biases if bias is not None]
    if present and len(present) != len(biases):
        raise ValueError("matrices of one product must all have a bias, or none of them")
    return Linear(weight, np.concatenate(present) if present else None)


def _linear(linear: Any) -> Linear:
    return Linear(_array(linear.weight), _bias(linear))


def _bias(linear: Any) -> Any:
    return None if linear.bias is None else _array(linear.bias)


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().float().cpu().numpy()
