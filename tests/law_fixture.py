"""One set of assertions for every implementation of `Law`, and a slow, plain reference for all.

`every_kind` runs a test with numpy's laws and with torch's. `Reference` says what a law is, with a
full sort and Python floats; its subclasses each hold one mistake that the tests must notice.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import pytest

from device_runtime.protocol.law import ArrayLaw, Floats, Law
from device_runtime.protocol.sampling import Logits, Sampling, to_law

INF = math.inf
PLAIN = Sampling()


@dataclass(frozen=True)
class Case:
    """One question to `to_law`."""

    logits: Logits
    sampling: Sampling = PLAIN
    generated: tuple[int, ...] = ()
    num_ids: int | None = None


class Laws(Protocol):
    """An implementation under test."""

    def law(self, weights: Floats) -> Law: ...

    def to_law(self, case: Case) -> Law: ...


class NumpyLaws:
    def law(self, weights: Floats) -> Law:
        return ArrayLaw.dense(weights)

    def to_law(self, case: Case) -> Law:
        return to_law(case.logits, case.sampling, case.generated, case.num_ids)


class TorchLaws:
    def law(self, weights: Floats) -> Law:
        import torch

        from edge_server.law import LawBatch

        return LawBatch(torch.tensor(weights)[None])[0]

    def to_law(self, case: Case) -> Law:
        import torch

        from edge_server.sampling import to_laws

        rows = torch.tensor(case.logits)[None]
        return to_laws(rows, [case.sampling], [case.generated], case.num_ids)[0]


_needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
every_kind = pytest.mark.parametrize(
    "laws",
    [
        pytest.param(NumpyLaws(), id="numpy"),
        pytest.param(TorchLaws(), id="torch", marks=_needs_torch),
    ],
)


class Reference:
    """The law, step by step, as the parameters are documented."""

    def __init__(self) -> None:
        self.margin = INF
        """How near a sum came to the goal of top-p, relative to it: where rounding could decide."""

    def probs(self, case: Case) -> Floats:
        """Probabilities (num_ids,)."""
        sampling = case.sampling
        logits = self.penalised([float(x) for x in case.logits[: case.num_ids]], case)
        if sampling.temperature == 0:
            return self._normalised(
                [float(i == logits.index(max(logits))) for i in range(len(logits))]
            )
        weights = self.weights(logits, sampling)
        order = self.order(weights)
        if sampling.top_k:
            order = order[: sampling.top_k]
        if sampling.top_p < 1:
            order = order[: self.num_in_nucleus(weights, order, sampling.top_p)]
        floor = self.floor(weights, sampling.min_p)
        kept = {i for i in order if weights[i] >= floor}
        return self._normalised([w if i in kept else 0.0 for i, w in enumerate(weights)])

    def penalised(self, logits: list[float], case: Case) -> list[float]:
        sampling = case.sampling
        for i, count in self.counts(case).items():
            if i < len(logits):
                logits[i] = self.repeated(logits[i], sampling.repetition_penalty)
                logits[i] -= sampling.presence_penalty
                logits[i] -= sampling.frequency_penalty * count
        for i, bias in sampling.logit_bias:
            if i < len(logits):
                logits[i] += bias
        return logits

    def counts(self, case: Case) -> dict[int, int]:
        return Counter(case.generated)

    def repeated(self, logit: float, penalty: float) -> float:
        return logit / penalty if logit > 0 else logit * penalty

    def weights(self, logits: list[float], sampling: Sampling) -> list[float]:
        best = max(logits)
        return [math.exp((logit - best) / sampling.temperature) for logit in logits]

    def order(self, weights: list[float]) -> list[int]:
        return sorted(range(len(weights)), key=lambda i: (-weights[i], i))

    def num_in_nucleus(self, weights: list[float], order: list[int], top_p: float) -> int:
        goal = top_p * sum(weights[i] for i in order)
        sums = list(itertools.accumulate(weights[i] for i in order))
        self.margin = min(abs(total - goal) / goal for total in sums)
        return next((n for n, total in enumerate(sums, 1) if total >= goal), len(order))

    def floor(self, weights: list[float], min_p: float) -> float:
        return min_p * max(weights)

    @staticmethod
    def _normalised(weights: list[float]) -> Floats:
        return np.array(weights) / math.fsum(weights)


class OneTooFewInTopP(Reference):
    def num_in_nucleus(self, weights: list[float], order: list[int], top_p: float) -> int:
        return max(1, super().num_in_nucleus(weights, order, top_p) - 1)


class OneTooManyInTopP(Reference):
    def num_in_nucleus(self, weights: list[float], order: list[int], top_p: float) -> int:
        return super().num_in_nucleus(weights, order, top_p) + 1


class TopPOfTheWholeMass(Reference):
    def num_in_nucleus(self, weights: list[float], order: list[int], top_p: float) -> int:
        return super().num_in_nucleus(weights, self.order(weights), top_p)


class MinPOfTheSum(Reference):
    def floor(self, weights: list[float], min_p: float) -> float:
        return min_p * sum(weights)


class TiesToTheHigherId(Reference):
    def order(self, weights: list[float]) -> list[int]:
        return sorted(range(len(weights)), key=lambda i: (-weights[i], -i))


class PromptCounted(Reference):
    def counts(self, case: Case) -> dict[int, int]:
        return Counter([0, 1, *case.generated])


class PresencePerCount(Reference):
    def counts(self, case: Case) -> dict[int, int]:
        return dict.fromkeys(case.generated, 1)


class NegativeLogitsDivided(Reference):
    def repeated(self, logit: float, penalty: float) -> float:
        return logit / penalty


class TemperatureForgotten(Reference):
    def weights(self, logits: list[float], sampling: Sampling) -> list[float]:
        return super().weights(logits, replace(sampling, temperature=1.0))


MUTANTS = (
    OneTooFewInTopP, OneTooManyInTopP, TopPOfTheWholeMass, MinPOfTheSum, TiesToTheHigherId,
    PromptCounted, PresencePerCount, NegativeLogitsDivided, TemperatureForgotten,
)  # fmt: skip


def agrees(law: Law, probs: Floats) -> bool:
    """Whether the law has exactly the support of `probs` (vocab,) and its values to 1e-12."""
    ids = np.arange(len(probs))
    return bool(
        np.array_equal(law.support(), np.flatnonzero(probs))
        and np.allclose(law.prob(ids), probs, rtol=1e-12, atol=1e-15)
    )


def every_sampling() -> list[Sampling]:
    """All combinations of a few values of every parameter."""
    values: dict[str, tuple[Any, ...]] = {
        "temperature": (0.0, 0.2, 0.8, 1.0, 1.7),
        "top_k": (0, 1, 3, 40),
        "top_p": (1.0, 0.9, 0.5),
        "min_p": (0.0, 0.05, 0.6),
        "repetition_penalty": (1.0, 1.4),
        "presence_penalty": (0.0, 0.7),
        "logit_bias": ((), ((1, 2.5), (4, -100.0))),
    }
    # Frequency follows presence, so that the product stays small.
    return [
        Sampling(**chosen, frequency_penalty=chosen["presence_penalty"] / 2)
        for chosen in (
            dict(zip(values, combination, strict=True))
            for combination in itertools.product(*values.values())
        )
    ]


def rows_to_try() -> dict[str, Logits]:
    """Rows of float32 logits with what is hard about them."""
    rng = np.random.default_rng(5)
    peaked = np.log(np.arange(1, 60)) * -1.8
    masked = rng.normal(0, 3, 50)
    masked[rng.random(50) < 0.5] = -INF
    one_hot = np.full(9, -INF)
    one_hot[6] = -3.0
    rows = {
        "random": rng.normal(0, 3, 90),
        "peaked": rng.permutation(peaked),
        "flat": np.full(50, 1.25),
        "ties": rng.integers(-2, 3, 70).astype(float),
        "masked": masked,
        "one-hot": one_hot,
        "two ids": np.array([0.5, 0.5]),
    }
    return {name: row.astype(np.float32) for name, row in rows.items()}
