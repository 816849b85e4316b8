"""Attention over packed tokens of many sessions, for any model of `transformers`.

`transformers` lets a program register an attention function and a mask function under a name; a
model that is loaded with that name calls them in every layer. The mask function is given each layer
type's own rule (causal, sliding window, chunks) and evaluates it at the tokens' true positions, so
windows are right without code per model. A model that asks attention for something not known here
is found out by `edge_server.loading`, which tries every model before it serves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from edge_server.batch import Group, Packed
from edge_server.cache import PagedCache

NAME = "tandem"
"""What `attn_implementation` is called."""

_pass: ContextVar[ForwardPass] = ContextVar("forward pass")


@dataclass(slots=True)
class ForwardPass:
    """What attention must know of the pass that is under way."""

    packed: Packed
    cache: PagedCache
    _masks: dict[int, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)
    """id of a mask over packed tokens → that mask, and its part for each group."""
    _causal: Tensor | None = None

    def causal_mask(self) -> Tensor:
        """The mask of models that make none through the mask function."""
        if self._causal is None:
            self._causal = mask_at(self.packed, lambda _row, _head, query, key: key <= query)
        return self._causal

    def group_masks(self, mask: Tensor) -> list[Tensor]:
        """Parts (rows, 1, queries, keys) of a mask (1, 1, n, kv_len); True may attend."""
        if id(mask) not in self._masks:
            parts = [
                mask[0, 0, :, : group.kv_len][group.tokens][:, None] for group in self.packed.groups
            ]
            self._masks[id(mask)] = mask, parts
        return self._masks[id(mask)][1]


@contextmanager
def forward_pass(packed: Packed, cache: PagedCache) -> Iterator[None]:
    """Within: models loaded as NAME attend to the sessions of this batch."""
    cache.begin(packed.places, packed.kv_len)
    token = _pass.set(ForwardPass(packed, cache))
    try:
        yield
    finally:
        _pass.reset(token)


def packed_mask(*_: Any, mask_function: Callable[..., Tensor], **__: Any) -> Tensor:
    """The mask (1, 1, n, kv_len) of one layer type: its rule at the tokens' true positions."""
    return mask_at(_pass.get().packed, mask_function)


def mask_at(packed: Packed, mask_function: Callable[..., Tensor]) -> Tensor:
    """(1, 1, n, kv_len): whether packed token n may attend to position kv of its session."""
    positions = packed.positions[0]
    zero = positions.new_zeros(())
    keys = torch.arange(packed.kv_len, device=positions.device)
    allowed = mask_function(zero, zero, positions[:, None], keys[None])
    return allowed.expand(len(positions), packed.kv_len)[None, None]


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,  # noqa: ARG001 -- in the cache already
    value: Tensor,  # noqa: ARG001
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of packed queries (1, heads, n, head size) → (1, n, heads, head size).

    `key` and `value` are in the cache already: `PagedCache.update` put them there.
    """
    current = _pass.get()
    mask = attention_mask
    if mask is None or mask.dtype != torch.bool or mask.shape[3] != current.packed.kv_len:
        # Some older models build a mask by themselves, for a batch that is not packed.
        mask = current.causal_mask()
    outputs = []
    queries = query[0].transpose(0, 1)  # (n, heads, head size)
    for group, part in zip(current.packed.groups, current.group_masks(mask), strict=True):
        keys, values = current.cache.gather(_layer_of(module), group.tables, group.stretch)
        outputs.append(_attend(queries, group, keys, values, part, scaling, softcap, s_aux))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    if current.packed.order is not None:
        output = output.index_select(0, current.packed.order)
    return output[None], None


def _layer_of(module: nn.Module) -> int:
    return int(module.layer_idx)  # type: ignore[arg-type]


def _attend(
    queries: Tensor,
    group: Group,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """One group: (rows · queries, heads, head size of the values), row by row."""
    num_rows, num_queries = group.tokens.shape
    num_heads, num_kv_heads = queries.shape[1], keys.shape[1]
    share = num_heads // num_kv_heads  # query heads that use the same keys
    picked = queries.index_select(0, group.tokens.flatten())
    # Query heads of one key head become further queries: keys need not be repeated.
    picked = picked.view(num_rows, num_queries, num_kv_heads, share, -1).permute(0, 2, 3, 1, 4)
    picked = picked.reshape(num_rows, num_kv_heads, share * num_queries, -1)
    if share > 1:
        mask = mask.repeat(1, 1, share, 1)
    if softcap is None and sinks is None:
        output = F.scaled_dot_product_attention(picked, keys, values, attn_mask=mask, scale=scaling)
    else:
        output = _spelled_out(picked, keys, values, mask, scaling, softcap, sinks)
    output = output.view(num_rows, num_kv_heads, share, num_queries, -1).permute(0, 3, 1, 2, 4)
    return output.reshape(num_rows * num_queries, num_heads, -1)


def _spelled_out(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2) or a learned sink per head (gpt-oss)."""
    scores = queries @ keys.transpose(2, 3) * (scaling or queries.shape[-1] ** -0.5)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is None:
        return scores.softmax(-1) @ values
    num_kv_heads = keys.shape[1]
    share = len(sinks) // num_kv_heads
    column = sinks.view(1, num_kv_heads, share, 1).repeat_interleave(
        scores.shape[2] // share, dim=3
    )
    column = column.reshape(1, num_kv_heads, -1, 1).expand(len(scores), -1, -1, -1)
    return torch.cat((scores, column.to(scores.dtype)), -1).softmax(-1)[..., :-1] @ values


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, packed_mask)
