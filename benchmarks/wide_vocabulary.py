"""Laws over larger vocabularies, made from the logits of a real pair by one fixed recipe.

A pair over 8,192 ids says little about packing at 32,000 or 151,936. Training larger pairs is out
of reach for a benchmark that anyone can run, so the rows are widened: every further id is a rarer
variant of one of the model's own ids. Its logit is the parent's minus an offset drawn once for the
id from N(5, 1.5²), the same for p and q, plus a deviation N(0, 0.5²) that p and q do not share. The
models see the parent's id. At 32,000, 49,152 and 151,936 ids about 6, 10 and 27 % of the mass lie on
the further ids, spread over a long tail, as the rarely used tokens of a large vocabulary are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from device_runtime.drafter import Drafter
from device_runtime.protocol.errors import ConfigError

OFFSET_MEAN, OFFSET_STD, OWN_STD = 5.0, 1.5, 0.5


class WideVocabulary:
    """num_ids ids, of which the first num_own are the model's."""

    def __init__(self, num_own: int, num_ids: int) -> None:
        rng = np.random.default_rng(num_ids)
        extra = num_ids - num_own
        self.num_ids = num_ids
        self._parents = np.concatenate([np.arange(num_own), rng.integers(num_own, size=extra)])
        shared = rng.normal(OFFSET_MEAN, OFFSET_STD, extra)
        self._offsets = {
            side: np.concatenate([np.zeros(num_own), shared + rng.normal(0, OWN_STD, extra)])
            for side in ("p", "q")
        }

    def parents(self, token_ids: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids (n,) that the models see for ids (n,)."""
        parents: NDArray[np.int64] = self._parents[np.asarray(token_ids, np.int64)]
        return parents

    def widen(self, logits: NDArray[np.floating], side: str) -> NDArray[np.float32]:
        """Logits (num_ids,) from the model's (num_own,)."""
        wide: NDArray[np.float32] = (logits[self._parents] - self._offsets[side]).astype(np.float32)
        return wide


@lru_cache(maxsize=1)
def widened(num_own: int, num_ids: int) -> WideVocabulary | None:
    """None where num_ids are the model's own; ConfigError where they are fewer."""
    if num_ids < num_own:
        raise ConfigError(
            f"a vocabulary of {num_ids} ids is less than the demo pair's own; give {num_own} or more"
        )
    return WideVocabulary(num_own, num_ids) if num_ids > num_own else None


class WideDrafter:
    """A drafter over the wide vocabulary."""

    def __init__(self, drafter: Drafter, vocabulary: WideVocabulary) -> None:
        self._drafter = drafter
        self._vocabulary = vocabulary

    @property
    def vocab_size(self) -> int:
        return self._vocabulary.num_ids

    @property
    def num_tokens(self) -> int:
        return self._drafter.num_tokens

    def truncate(self, num_tokens: int) -> None:
        self._drafter.truncate(num_tokens)

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        row = self._drafter.append(self._vocabulary.parents(token_ids))
        return self._vocabulary.widen(row, "q")
