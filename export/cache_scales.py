"""How far a model's keys and values reach, channel by channel: the scales of a cache of 8 bits.

onnxruntime stores round(x / scale), so the scales must be known before the text is. A rotation moves
a key's size from one channel to its partner and back; only their common length is the same at every
position. So that is what counts for both, and a short text tells of a long one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from export.decoder import Floats

HEADROOM = 1.25
"""Other texts may reach farther than those read here by that much; what lies beyond is cut off."""
_LARGEST_CODE = 127
_LEAST_SHARE = 2.0**-10
"""Of a layer's farthest channel: a channel that stayed silent must not be cut off at nothing."""


@dataclass(frozen=True, slots=True)
class CacheScales:
    """Of one layer."""

    key: Floats
    """(KV heads × head size,)"""
    value: Floats
    """(KV heads × head size,)"""


def cache_scales(
    model: PreTrainedModel, texts: Iterable[Tensor], num_rotated: int
) -> list[CacheScales]:
    """Scales of every layer, from ids (texts, tokens) that the model reads.

    num_rotated: channels of each head that are rotated, the first half of them with the second.
    """
    keys: list[Tensor] = []
    values: list[Tensor] = []
    with torch.inference_mode():
        for ids in texts:
            out: Any = model(input_ids=ids, use_cache=True)
            layers = out.past_key_values.layers
            keys = _farther(keys, [_reach(_lengths(layer.keys, num_rotated)) for layer in layers])
            values = _farther(values, [_reach(layer.values.abs()) for layer in layers])
    return [CacheScales(_scale(k), _scale(v)) for k, v in zip(keys, values, strict=True)]


def _lengths(keys: Tensor, num_rotated: int) -> Tensor:
    """Keys (…, head size) as sizes: of a rotated channel the length of it and its partner."""
    first, second = keys[..., :num_rotated].chunk(2, dim=-1)
    pair = torch.hypot(first, second)
    return torch.cat((pair, pair, keys[..., num_rotated:].abs()), dim=-1)


def _reach(sizes: Tensor) -> Tensor:
    """(texts, heads, tokens, head size) → (heads × head size,)."""
    return sizes.amax((0, 2)).flatten()


def _farther(before: list[Tensor], now: list[Tensor]) -> list[Tensor]:
    return [torch.maximum(*pair) for pair in zip(before, now, strict=True)] if before else now


def _scale(reach: Tensor) -> Floats:
    farthest = float(reach.max()) or 1.0
    scale: Floats = (reach.clamp(min=_LEAST_SHARE * farthest) * (HEADROOM / _LARGEST_CODE)).numpy()
    return scale
