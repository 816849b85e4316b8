"""Penalties and logit bias: what sampling parameters add to the logits of a few ids.

Penalties count the generated tokens only, never the prompt. Repetition divides a positive logit and
multiplies another (Keskar et al. 2019, as transformers does); presence and frequency are OpenAI's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from device_runtime.protocol.law import Floats, Ids

if TYPE_CHECKING:
    from device_runtime.protocol.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Adjustments:
    """logit → (logit / divisor if logit > 0 else logit · divisor) + shift, for each of `ids`."""

    ids: Ids
    divisors: Floats
    shifts: Floats


def counted_tokens(sampling: Sampling, tokens: Sequence[int], boundary: int) -> Sequence[int]:
    """The tokens from `boundary` on, where penalties count them; else none, and nothing is copied.

    Slices of what is returned are views: one for every row costs no copy either.
    """
    return memoryview(np.array(tokens[boundary:], np.int64).data) if sampling.penalises else ()


def adjustments(sampling: Sampling, generated: Sequence[int], vocab_size: int) -> Adjustments:
    """What the parameters change after `generated`; ids from `vocab_size` on do not count."""
    counted = generated if sampling.penalises else ()
    seen, counts = np.unique(np.asarray(counted, np.int64), return_counts=True)
    biased = np.array([token_id for token_id, _ in sampling.logit_bias], np.int64)
    ids = np.union1d(seen, biased)
    at = np.searchsorted(ids, seen)
    divisors, shifts = np.ones(len(ids)), np.zeros(len(ids))
    divisors[at] = sampling.repetition_penalty
    shifts[at] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    shifts[np.searchsorted(ids, biased)] += [bias for _, bias in sampling.logit_bias]
    known = slice(0, np.searchsorted(ids, vocab_size))
    return Adjustments(ids[known], divisors[known], shifts[known])


def adjusted(logits: Floats, change: Adjustments) -> Floats:
    """The new logits (n,) of `change.ids` from their old ones (n,)."""
    repeated = np.where(logits > 0, logits / change.divisors, logits * change.divisors)
    return repeated + change.shifts
