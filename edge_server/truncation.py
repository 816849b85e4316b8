"""Top-k, top-p and min-p on a batch of weights (rows, vocab), in place, each row its own limit.

The order is that of `device_runtime.protocol.truncation`: heavier first, the lower id among equals.
torch.topk does not promise which of equals it returns, so it is only asked for *values*: the last
value kept is a threshold, and ids exactly on it are kept from the lowest up.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 64


def keep_heaviest(weights: Tensor, counts: Tensor) -> None:
    """Keep the first counts (rows, 1) of each row's order; 0 < counts < vocab."""
    heavy = largest(weights, int(counts.max()))
    _keep_first(weights, heavy.gather(1, counts - 1), counts)


def drop_outside_nucleus(weights: Tensor, shares: Tensor) -> None:
    """Keep the fewest first in each row's order whose sum reaches shares (rows, 1) · its total."""
    goals = shares * weights.sum(1, keepdim=True)
    thresholds = torch.empty_like(goals)
    counts = torch.empty_like(goals, dtype=torch.int64)
    todo = torch.arange(len(weights), device=weights.device)
    size = _BLOCK
    while len(todo):
        size = min(size, weights.shape[1])
        heavy = largest(weights if len(todo) == len(weights) else weights[todo], size)
        missing = heavy.cumsum(1) < goals[todo]
        # Rounding may leave the sum of a whole row just below its goal.
        last = missing.sum(1, keepdim=True).clamp_(max=size - 1)
        thresholds[todo] = heavy.gather(1, last)
        counts[todo] = last + 1
        todo = todo[missing[:, -1]] if size < weights.shape[1] else todo[:0]
        size *= 4
    _keep_first(weights, thresholds, counts)


def drop_light(weights: Tensor, floors: Tensor) -> None:
    """Drop what is lighter than floors (rows, 1) times the heaviest, which weighs 1."""
    weights.masked_fill_(weights < floors, 0.0)


def largest(weights: Tensor, count: int) -> Tensor:
    """The `count` largest values (rows, count) of each row, falling."""
    rows, vocab = weights.shape
    num_blocks = vocab // _BLOCK
    if num_blocks < 4 * count:
        return weights.topk(count).values
    # They lie in the `count` blocks with the largest maxima; a block is a set of ids far apart.
    whole = num_blocks * _BLOCK
    blocks = weights[:, :whole].reshape(rows, _BLOCK, num_blocks)
    best = blocks.amax(1).topk(count, sorted=False).indices  # (rows, count)
    inside = blocks.gather(2, best[:, None].expand(rows, _BLOCK, count)).flatten(1)
    return torch.cat((inside, weights[:, whole:]), 1).topk(count).values


def _keep_first(weights: Tensor, thresholds: Tensor, counts: Tensor) -> None:
    """Keep the first `counts` of each row, the last of which weighs `thresholds` (rows, 1)."""
    light = weights < thresholds
    crowded = (~light).sum(1) > counts[:, 0]  # more ids lie on the threshold than may stay
    weights.masked_fill_(light, 0.0)
    if not crowded.any():
        return
    some, threshold = weights[crowded], thresholds[crowded]
    equal = some == threshold
    num_equal = counts[crowded] - (some > threshold).sum(1, keepdim=True)
    weights[crowded] = some.masked_fill_(equal & (equal.cumsum(1) > num_equal), 0.0)
