"""What the LLM alone writes, token after token, for models that are tables over two ids.

All ways their coins can fall can be enumerated, so that whole rounds are compared with it exactly.
"""

from __future__ import annotations

import itertools

import numpy as np

from device_runtime.protocol.grid import GRID, Grid
from device_runtime.protocol.law import Law, prob_of
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes.base import Scheme, Vocabulary
from tests.exact_law import cuts_of
from tests.table_model import Table

TOLERANCE = 1e-12
PLAIN = Sampling()
LLM = np.array([[0.2, 1.0], [1.0, 0.2]], np.float32)  # the same two probabilities: fewer cuts
SLM = np.array([[1.1, 0.3], [0.1, 0.6]], np.float32)
VOCAB = Vocabulary(2)
START = 0

Text = tuple[int, ...]


def law_after(table: Table, text: Text, sampling: Sampling = PLAIN) -> Law:
    return to_law(table[text[-1]], sampling, text[1:])


def cuts(scheme: Scheme, sampling: Sampling = PLAIN, num_generated: int = 0) -> tuple[int, ...]:
    """The grid indices that drafted ones are compared with.

    num_generated: most tokens before a judged one; without penalties the last of them alone counts.
    """
    grid: Grid = getattr(scheme, "grid", GRID)
    longest = max(1, num_generated if sampling.penalises else 1)
    texts = [
        (START, *generated)
        for length in range(longest + 1)
        for generated in itertools.product(range(len(LLM)), repeat=length)
    ]
    laws = [law_after(LLM, text, sampling) for text in texts]
    return tuple(sorted({cut for law in laws for cut in cuts_of(scheme, law, grid)}))


def joint_law(
    num_tokens: int, sampling: Sampling = PLAIN, end_id: int | None = None
) -> dict[Text, float]:
    """What the LLM alone writes after START; a text stops at the end token."""
    law: dict[Text, float] = {(START,): 1.0}
    for _ in range(num_tokens):
        longer: dict[Text, float] = {}
        for text, chance in law.items():
            if len(text) > 1 and text[-1] == end_id:
                longer[text] = chance
                continue
            p = law_after(LLM, text, sampling)
            longer.update({(*text, i): chance * prob_of(p, i) for i in p.support().tolist()})
        law = longer
    return {text[1:]: chance for text, chance in law.items()}


def distance(law: dict[Text, float], target: dict[Text, float]) -> float:
    return max(abs(law.get(text, 0) - target.get(text, 0)) for text in law.keys() | target.keys())
