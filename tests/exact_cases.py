"""What the exact-law tests range over: schemes, degenerate laws, combinations of parameters."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_runtime.protocol.grid import GRID, Grid
from device_runtime.protocol.law import ArrayLaw, Law
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Scheme
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.packed import PACKED_GRID, DssdPacked
from device_runtime.protocol.schemes.sqs import Lattice
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.schemes.tk_slt import Pairs
from tests.exact_law import deviation

COARSE = Grid(mantissa_bits=1, num_octaves=2)
FINER = Grid(mantissa_bits=3, num_octaves=6)
TOLERANCE = 1e-12


@dataclass(frozen=True)
class Subject:
    """A scheme under test; with a grid, scaled indices are cut at the levels of p."""

    scheme: Scheme
    grid: Grid | None = None


EXACT = {
    "greedy-draft": Subject(SCHEMES["greedy-draft"]),
    "dssd-packed": Subject(SCHEMES["dssd-packed"], PACKED_GRID),
    "dssd-packed, coarse": Subject(DssdPacked(COARSE), COARSE),
    "dssd-packed, row coarser than the grid": Subject(DssdPacked(FINER, 0.3), FINER),
    "dssd-thinned": Subject(SCHEMES["dssd-thinned"], GRID),
    "dssd-thinned, coarse": Subject(DssdThinned(COARSE), COARSE),
    "dsd": Subject(SCHEMES["dsd"]),
    "tk-slt": Subject(SCHEMES["tk-slt"]),
    "tk-slt, K = 2": Subject(KnownDraft("tk-slt", 11, Pairs(2))),
    "tk-slt-nucleus": Subject(SCHEMES["tk-slt-nucleus"]),
    "tk-slt-nucleus, 0.5": Subject(KnownDraft("tk-slt-nucleus", 12, Pairs(4, share=0.5))),
    "sqs": Subject(SCHEMES["sqs"]),
    "sqs, K = 2, l = 5": Subject(KnownDraft("sqs", 13, Lattice(5, num_kept=2))),
    "qsv": Subject(SCHEMES["qsv"]),
    "qsv, l = 3": Subject(KnownDraft("qsv", 14, Lattice(3))),
}
INEXACT = {"dssd", "dssd-fp32", "coupled"}

DEGENERATE: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "p is one-hot": ((0, 1, 0), (0.5, 0.3, 0.2)),
    "q is one-hot": ((0.5, 0.3, 0.2), (0, 0, 1)),
    "both are the same one-hot": ((0, 1, 0), (0, 1, 0)),
    "both are one-hot and differ": ((0, 1, 0), (1, 0, 0)),
    "p = q": ((0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
    "p is almost q": ((0.2, 0.3, 0.5), (0.2, 0.3 + 1e-9, 0.5 - 1e-9)),
    "supports are disjoint": ((0.4, 0.6, 0, 0), (0, 0, 0.7, 0.3)),
    "q(x) is tiny": ((0.4, 0.6, 0), (1e-12, 0.5, 0.5 - 1e-12)),
    "q(x) is below the smallest normal": ((0.4, 0.6, 0), (1e-310, 0.5, 0.5)),
    "all are equal": ((1, 1, 1, 1), (1, 1, 1, 1)),
    "ties": ((0.25, 0.25, 0.5), (0.4, 0.4, 0.2)),
    "p(x) is below the grid": ((1e-12, 1e-15, 1), (0.3, 0.3, 0.4)),
    "p(x) is a level of the grid": ((0.5, 0.25, 0.25), (0.3, 0.3, 0.4)),
    "there is one id": ((1,), (1,)),
}
ALL_PENALTIES = Sampling(
    repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, logit_bias=((1, 0.7),)
)
PENALTIES = (
    Sampling(),
    Sampling(repetition_penalty=1.3),
    Sampling(presence_penalty=0.4),
    Sampling(frequency_penalty=0.2),
    Sampling(logit_bias=((1, 0.7),)),
    ALL_PENALTIES,
)
SAMPLINGS = [
    replace(penalties, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature, top_k, top_p, min_p, penalties in itertools.product(
        (0.0, 0.7, 1.0), (0, 2), (1.0, 0.8), (0.0, 0.15), PENALTIES
    )
]
NUM_PARTS = 3
"""The product of cases and combinations is cut into so many parts; the quick tests take one."""


def error_of(
    subject: Subject, p: Law, q: Law, num_ids: int, num_draws: int = 1, patience: int = 1
) -> float:
    """The largest error of the emitted law."""
    return deviation(subject.scheme, p, q, num_ids, num_draws, patience, subject.grid)


def laws_of(weights: tuple[Sequence[float], Sequence[float]]) -> tuple[ArrayLaw, ArrayLaw, int]:
    p, q = weights
    return ArrayLaw.dense(np.array(p, float)), ArrayLaw.dense(np.array(q, float)), len(p)


def sampled_cases(part: int) -> Iterator[tuple[str, ArrayLaw, ArrayLaw, int]]:
    """(description, p, q, ids): degenerate laws as logits, through combinations of parameters.

    q as a device makes it, in single precision. Over all parts: each case with each combination. A
    part has every case and every combination.
    """
    shuffled = random.Random(0).sample(SAMPLINGS, len(SAMPLINGS))
    for number, (case, weights) in enumerate(DEGENERATE.items()):
        with np.errstate(divide="ignore"):
            logits = [np.log(np.array(side, float)) for side in weights]
        num_ids = len(logits[0])
        for sampling in shuffled[(number + part) % NUM_PARTS :: NUM_PARTS]:
            p = to_law(logits[0], sampling, [0, 2, 2])
            q = to_law(logits[1], sampling, [0, 2, 2], room=np.empty(num_ids, np.float32))
            yield f"{case}, {sampling}", p, q, num_ids
