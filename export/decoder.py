"""A decoder of the Llama family as plain data: what a fused graph is written from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = W x + b."""

    weight: Floats
    """(outputs, inputs)"""
    bias: Floats | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """Root mean square norm, its weight as it is multiplied."""

    weight: Floats
    epsilon: float


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention with rotary positions."""

    qkv: Linear
    """Queries, keys and values below each other, head by head."""
    output: Linear
    scale: float
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    """Norm of every head before the rotation."""
    softcap: float = 0.0
    window: int | None = None
    """Number of last positions that are seen, the current one included; None: all."""
    is_local: bool = False
    """Rotated by the second pair of tables."""


@dataclass(frozen=True, slots=True)
class Mlp:
    """down(activation(gate(x)) × up(x))."""

    gate_up: Linear
    """The outputs of gate, and below them as many of up."""
    down: Linear
    activation: str
    """`silu`, `gelu` or `gelu_tanh`."""


@dataclass(frozen=True, slots=True)
class Layer:
    """x += attention(norm(x)), then x += mlp(norm(x)); Gemma norms what is added too."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: Mlp
    after_attention: Norm | None = None
    after_mlp: Norm | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """Tables (positions, rotated dimensions / 2)."""

    cos: Floats
    sin: Floats


@dataclass(frozen=True, slots=True)
class Decoder:
    """The whole model."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    embedding: Floats
    """(vocabulary, hidden)"""
    embedding_scale: float
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Linear
    """Its weight is `embedding` itself where the two are tied."""
    logit_softcap: float
    rotary: Rotary
    local_rotary: Rotary | None

    @property
    def is_tied(self) -> bool:
        """Embedding and head are one matrix."""
        return self.head.weight is self.embedding
