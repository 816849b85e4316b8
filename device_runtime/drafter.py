"""The SLM on the device: token ids in, logits out, and a cache that can be rolled back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Drafter(Protocol):
    """A causal language model with a cache of the tokens it has seen."""

    @property
    def vocab_size(self) -> int:
        """Length of a row of logits; ids from here on are unknown to the model."""
        ...

    @property
    def num_tokens(self) -> int:
        """How many tokens the cache stands for."""
        ...

    def truncate(self, num_tokens: int) -> None:
        """Forget all tokens from `num_tokens` on."""
        ...

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Run tokens (n,), n ≥ 1; logits (vocab_size,) of the token after them.

        The row belongs to the caller until the next call: copy what is to be kept.
        """
        ...
