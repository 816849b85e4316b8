"""Figures of the pair on held-out text, in float32, over windows of the full context.

Losses are given twice: over windows side by side, whose first tokens see little of the text before
them, and over windows of which each begins in the middle of the last one and counts its second
half, so that every token sees at least half a context (all but the first half window's).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from export.demo_pair.recipe import CONTEXT_LEN


@torch.no_grad()
def held_out_loss(
    model: LlamaForCausalLM, ids: NDArray[np.int64], num_bytes: int, device: torch.device
) -> dict[str, float]:
    """Cross-entropy of ids (n,), which stand for num_bytes of text: nats a token, bits a byte."""
    apart = overlapping = 0.0
    half = CONTEXT_LEN // 2
    for number, window in enumerate(_windows(ids, device, half)):
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
        losses = F.cross_entropy(logits[0], window[0, 1:], reduction="none")
        overlapping += losses[half if number else 0 :].sum().item()
        apart += 0.0 if number % 2 else losses.sum().item()
    return {
        "nats_per_token": apart / (len(ids) - 1),
        "bits_per_byte": apart / math.log(2) / num_bytes,
        "nats_per_token_overlapping": overlapping / (len(ids) - 1),
        "bits_per_byte_overlapping": overlapping / math.log(2) / num_bytes,
    }


@torch.no_grad()
def mean_acceptance(
    llm: LlamaForCausalLM, slm: LlamaForCausalLM, ids: NDArray[np.int64], device: torch.device
) -> float:
    """alpha = mean over positions of 1 − D(p, q) = Σ min(p, q) at temperature 1."""
    overlaps = []
    for window in _windows(ids, device, CONTEXT_LEN):
        p, q = (
            m(input_ids=window[:, :-1], use_cache=False).logits[0].softmax(-1) for m in (llm, slm)
        )
        overlaps.append(torch.minimum(p, q).sum(-1))
    return torch.cat(overlaps).double().mean().item()


def _windows(ids: NDArray[np.int64], device: torch.device, stride: int) -> Iterator[torch.Tensor]:
    """(1, ≤ CONTEXT_LEN + 1) each, one every `stride` ids; a window predicts all but its first id."""
    for start in range(0, len(ids) - 1, stride):
        yield torch.from_numpy(ids[None, start : start + CONTEXT_LEN + 1]).to(device)
