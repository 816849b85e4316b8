"""Sampling parameters, and logits → law.

The order is: penalties and bias, temperature, top-k, top-p, min-p. No step sorts the vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_runtime.protocol.errors import ConfigError, TandemError
from device_runtime.protocol.law import ArrayLaw, Ids, Weights, all_ids
from device_runtime.protocol.penalties import adjusted, adjustments
from device_runtime.protocol.truncation import below_kth_largest, heaviest, nucleus

MAX_TOKEN_ID = (1 << 24) - 1
MAX_BIASES = 1024
"""As a message can carry them (`messages.fields`)."""

Logits = NDArray[np.float32] | NDArray[np.float64]


class LogitsError(TandemError, ValueError):
    """A model gave logits that no law follows from: NaN, +inf, or nothing above -inf."""

    def __init__(self, rows: Sequence[int] = (0,)) -> None:
        self.rows = tuple(rows)
        """Which rows of a batch."""
        super().__init__(
            f"the logits of rows {list(self.rows)} hold NaN or +inf, or nothing above -inf; a law"
            " needs one possible id: check the model's weights and dtype, and any token mask"
        )


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
        if not 0 <= self.top_k <= MAX_TOKEN_ID:
            raise ConfigError(
                f"top_k is {self.top_k}; it must lie between 0 (keep all) and {MAX_TOKEN_ID}"
            )
        _check_biases(self.logit_bias)

    def check_ids(self, num_ids: int) -> None:
        """ConfigError where a bias is for an id that a model of so many ids does not have."""
        strange = [token_id for token_id, _ in self.logit_bias if token_id >= num_ids]
        if strange:
            raise ConfigError(f"logit_bias names the id {strange[0]}; the model has {num_ids} ids")

    @property
    def penalises(self) -> bool:
        """Whether the law depends on the tokens generated so far."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def changes_logits(self, generated: Sequence[int]) -> bool:
        """Whether penalties or bias change any logit after these tokens."""
        return bool(self.logit_bias) or (self.penalises and len(generated) > 0)


def _check_biases(biases: tuple[tuple[int, float], ...]) -> None:
    if len(biases) > MAX_BIASES:
        raise ConfigError(f"logit_bias names {len(biases)} ids; {MAX_BIASES} may be")
    ids = [token_id for token_id, _ in biases]
    if ids != sorted(ids):
        raise ConfigError(f"logit_bias names ids {ids}; they must be ascending")
    for token_id, count in Counter(ids).items():
        if count > 1:
            raise ConfigError(f"logit_bias names the id {token_id} twice; give it one bias")
        if not 0 <= token_id <= MAX_TOKEN_ID:
            raise ConfigError(
                f"logit_bias names the id {token_id}; it must lie between 0 and {MAX_TOKEN_ID}"
            )
    for token_id, bias in biases:
        if not -100.0 <= bias <= 100.0:
            raise ConfigError(f"the bias of id {token_id} is {bias}; it must be -100 to 100")


def to_law(
    logits: Logits,
    sampling: Sampling,
    generated: Sequence[int],
    num_ids: int | None = None,
    room: Weights | None = None,
) -> ArrayLaw:
    """The law of the next token from logits (vocab,) and the tokens generated before it.

    Only the first `num_ids` logits count: those beyond are padding. A logit of -inf is an id that
    cannot come. Raises LogitsError if no law follows.

    room (num_ids,): where the weights of a law over all ids may lie, so that none are allocated. The
    law is then good until the room is used again. A room of single precision is half the memory and
    makes the exponential cheaper; the law then differs by rounding, as a drafter's may.
    """
    row = _penalised(logits[:num_ids], sampling, generated)
    top = int(row.argmax())  # the first of equals, or the first NaN
    best = float(row[top])
    if not math.isfinite(best):
        raise LogitsError
    if sampling.temperature == 0:
        return ArrayLaw.one_hot(top)
    ids = _candidates(row, best, sampling)
    values = row if len(ids) == len(row) else row[ids]
    weights = _weights(values, best, sampling.temperature, room)
    if 0 < sampling.top_k < len(weights):
        kept = heaviest(weights, sampling.top_k)
        ids, weights = ids[kept], weights[kept]
    if sampling.top_p < 1:
        kept = nucleus(weights, sampling.top_p)
        ids, weights = ids[kept], weights[kept]
    if sampling.min_p > 0:
        kept = np.flatnonzero(weights >= sampling.min_p)  # the largest weight is 1
        ids, weights = ids[kept], weights[kept]
    return ArrayLaw(ids, weights)


def _penalised(logits: Logits, sampling: Sampling, generated: Sequence[int]) -> Logits:
    if not sampling.changes_logits(generated):
        return logits
    change = adjustments(sampling, generated, len(logits))
    row = logits.astype(np.float64)
    row[change.ids] = adjusted(row[change.ids], change)
    return row


def _candidates(row: Logits, best: float, sampling: Sampling) -> Ids:
    """All ids that top-k or min-p can keep, and a few more: the rest need no exponential."""
    floor = -math.inf
    if 0 < sampling.top_k < len(row):
        floor = below_kth_largest(row, sampling.top_k)
    if sampling.min_p > 0 and sampling.top_p == 1:  # top-p also needs the mass that min-p drops
        floor = max(floor, best + sampling.temperature * math.log(sampling.min_p))
    if floor == -math.inf:
        return all_ids(len(row))
    # Logits this close can have the same weight in float64, and then the lower id goes first.
    floor -= 1e-14 * (best - floor + sampling.temperature)
    return np.flatnonzero(row >= floor)


def _weights(values: Logits, best: float, temperature: float, room: Weights | None) -> Weights:
    """exp((logit − best) / temperature) (n,), at most 1; in `room` where it has that size."""
    # In place: at 50,000 ids, fresh memory for every step would cost more than the arithmetic.
    weights = np.empty(len(values)) if room is None or len(room) != len(values) else room
    with np.errstate(over="ignore"):  # towards -inf, which is right
        np.subtract(values, best, out=weights, dtype=np.result_type(values, weights))
        if temperature != 1:
            # A divisor that single precision rounds to 0 would leave nothing of the best logit.
            weights /= max(temperature, float(np.finfo(weights.dtype).tiny))
    return np.exp(weights, out=weights)
