"""Log probabilities of a completion's tokens, as OpenAI has them: what the model itself says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from device_runtime.protocol.edge_states import Rows
from device_runtime.protocol.law import Floats, Ids, Law, all_ids, log_prob, prob_of
from device_runtime.protocol.sampling import Sampling
from edge_server.law import TorchLaw


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that was written, with the model's own ln of its probability at temperature 1."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]
    """The most likely ids and theirs, best first; of equals the lower id."""


def token_logprob(rows: Rows, token_id: int, num_ids: int, num_top: int) -> TokenLogprob:
    """Of a token from the only row: nothing is cut or penalised."""
    law = rows.law(0, Sampling(), ())
    ids, probs = _most_probable(law, num_ids, num_top)
    best = np.lexsort((ids, -probs))
    top = zip(ids[best].tolist(), map(log_prob, probs[best]), strict=True)
    return TokenLogprob(token_id, log_prob(prob_of(law, token_id)), tuple(top))


def _most_probable(law: Law, num_ids: int, count: int) -> tuple[Ids, Floats]:
    if not count:
        return np.empty(0, np.int64), np.empty(0)
    if isinstance(law, TorchLaw):
        return law.most_probable(count)
    probs = law.prob(all_ids(num_ids))
    best = np.argpartition(probs, -count)[-count:]
    return best, probs[best]
