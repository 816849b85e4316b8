"""Losses over windows, against a model whose loss depends on the place in its window alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from export.demo_pair.evaluate import held_out_loss, mean_acceptance
from export.demo_pair.recipe import CONTEXT_LEN

HALF = CONTEXT_LEN // 2


class Placed:
    """Gives id 0 a logit that grows with the place: later places predict zeros better."""

    def __call__(self, input_ids: torch.Tensor, *, use_cache: bool) -> Any:
        logits = torch.zeros(1, input_ids.shape[1], 2)
        logits[0, :, 0] = torch.arange(input_ids.shape[1]) / CONTEXT_LEN
        return SimpleNamespace(logits=logits)


def losses(places: range) -> np.ndarray[Any, np.dtype[np.float64]]:
    """−ln of the chance of id 0 at these places."""
    return np.log1p(np.exp(-np.array(places) / CONTEXT_LEN))


@pytest.mark.parametrize("extra", [0, 100, HALF + 7])
def test_every_token_counts_once_either_way(extra: int) -> None:
    num = 3 * CONTEXT_LEN + extra
    found = held_out_loss(Placed(), np.zeros(num + 1, np.int64), 5 * num, torch.device("cpu"))  # type: ignore[arg-type]
    apart = sum(losses(range(min(CONTEXT_LEN, num - s))).sum() for s in range(0, num, CONTEXT_LEN))
    overlapping = losses(range(HALF)).sum() + sum(
        losses(range(HALF, min(CONTEXT_LEN, num - s))).sum() for s in range(0, num, HALF)
    )
    assert found["nats_per_token"] == pytest.approx(apart / num, rel=1e-5)
    assert found["nats_per_token_overlapping"] == pytest.approx(overlapping / num, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(apart / num / math.log(2) / 5, rel=1e-5)


def test_equal_models_accept_everything() -> None:
    ids = np.zeros(2 * CONTEXT_LEN, np.int64)
    assert mean_acceptance(Placed(), Placed(), ids, torch.device("cpu")) == pytest.approx(1)  # type: ignore[arg-type]
