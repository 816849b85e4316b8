"""Sampling parameters, and logits → law: temperature, top-k, top-p, min-p, in that order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.law import ArrayLaw


@dataclass(frozen=True, slots=True)
class Sampling:
    """What turns logits into a law. The defaults leave the model's own law as it is."""

    temperature: float = 1.0
    """0 is greedy decoding: all mass on the largest logit, the lowest id among equals."""
    top_k: int = 0
    """Keep the k most probable ids; 0 keeps all. Ties are broken towards the lower id."""
    top_p: float = 1.0
    """Keep the fewest most probable ids whose mass reaches this share of what top-k kept."""
    min_p: float = 0.0
    """Drop ids less probable than this share of the most probable one."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, added to its logit), ascending ids."""

    def __post_init__(self) -> None:
        ranges = (
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 1e-6, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("repetition_penalty", self.repetition_penalty, 0.01, 100.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        )
        for name, value, low, high in ranges:
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it must be 0 (keep all) or larger")

    @property
    def penalises(self) -> bool:
        """Whether the law depends on the tokens generated so far."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)


def to_law(logits: NDArray[np.float32], sampling: Sampling, generated: Sequence[int]) -> ArrayLaw:
    """The law of the next token from logits (vocab,) and the tokens generated before it."""
    raise NotImplementedError  # helper's task
