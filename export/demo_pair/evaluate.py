"""Figures of the pair on held-out text, in float32, over windows of the full context."""

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
    total = 0.0
    for window in _windows(ids, device):
        logits = model(input_ids=window[:, :-1], use_cache=False).logits
        total += F.cross_entropy(logits[0], window[0, 1:], reduction="sum").item()
    return {
        "nats_per_token": total / (len(ids) - 1),
        "bits_per_byte": total / math.log(2) / num_bytes,
    }


@torch.no_grad()
def mean_acceptance(
    llm: LlamaForCausalLM, slm: LlamaForCausalLM, ids: NDArray[np.int64], device: torch.device
) -> float:
    """alpha = mean over positions of 1 − D(p, q) = Σ min(p, q) at temperature 1."""
    overlaps = []
    for window in _windows(ids, device):
        p, q = (
            m(input_ids=window[:, :-1], use_cache=False).logits[0].softmax(-1) for m in (llm, slm)
        )
        overlaps.append(torch.minimum(p, q).sum(-1))
    return torch.cat(overlaps).double().mean().item()


def _windows(ids: NDArray[np.int64], device: torch.device) -> Iterator[torch.Tensor]:
    """(1, ≤ CONTEXT_LEN + 1) each; neighbours share one id, so that every id but the first counts."""
    for start in range(0, len(ids) - 1, CONTEXT_LEN):
        yield torch.from_numpy(ids[None, start : start + CONTEXT_LEN + 1]).to(device)
