"""The drafter on plain onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device_runtime.bundle import Bundle
from device_runtime.cached_graph import open_graph
from device_runtime.cancellation import leave_off_if_cancelled
from device_runtime.protocol.errors import ErrorCode, LocalError
from device_runtime.settings import RuntimeSettings

__all__ = ["OnnxDrafter", "RuntimeSettings"]


class OnnxDrafter:
    """A `Drafter` that runs a bundle's graph.

    Counts are absolute: they include tokens that the cache no longer holds. When the text outgrows
    the cache, the cache is refilled with the last part of the text, half as long as the cache, and
    drafting goes on from there. That changes q and never the text, which follows p. Draft rows must
    be kept, not computed again: a run of another shape, or after a refill, gives other bits.
    """

    def __init__(self, bundle: Bundle, settings: RuntimeSettings) -> None:
        self._max_len = min(bundle.manifest.context_len, settings.max_tokens)
        self._vocab_size = bundle.manifest.vocab_size
        self._prefill_chunk = settings.prefill_chunk
        self._graph = open_graph(bundle, settings, self._max_len)
        self._ids: list[int] = []
        # The cache holds ids[start : start + num_cached].
        self._start = 0
        self._num_cached = 0

    @classmethod
    def open(cls, folder: Path, settings: RuntimeSettings) -> OnnxDrafter:
        """Check the bundle and load its model; BundleError says what is wrong with it."""
        return cls(Bundle.open(folder), settings)

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def num_tokens(self) -> int:
        return len(self._ids)

    def truncate(self, num_tokens: int) -> None:
        if not 0 <= num_tokens <= len(self._ids):
            raise ValueError(f"cannot truncate {len(self._ids)} tokens to {num_tokens}")
        del self._ids[num_tokens:]
        self._num_cached = max(0, min(self._num_cached, num_tokens - self._start))

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        if token_ids.ndim != 1 or len(token_ids) == 0:
            raise ValueError(f"append takes one or more ids (n,), got shape {token_ids.shape}")
        ids = token_ids.tolist()  # plain integers: faster than numpy for the usual one
        if min(ids) < 0:
            raise LocalError(ErrorCode.BAD_TOKEN_ID, f"{min(ids)}")
        num_before = len(self._ids)
        self._ids.extend(ids)
        try:
            return self._run_new()
        except BaseException:
            self.truncate(num_before)
            raise

    def _run_new(self) -> NDArray[np.float32]:
        """Run every token that is not in the cache yet; logits of the last one."""
        self._move_window()
        for first in range(self._start + self._num_cached, len(self._ids), self._prefill_chunk):
            leave_off_if_cancelled()
            chunk = self._ids[first : first + self._prefill_chunk]
            # An id that only the LLM knows becomes id 0 here: the draft is worse, the text is not.
            known = [token_id if token_id < self._vocab_size else 0 for token_id in chunk]
            row = self._graph.run(np.array(known, np.int64), self._num_cached)
            self._num_cached += len(chunk)
        return row

    def _move_window(self) -> None:
        """Start the cache anew if the text no longer fits, or if a rollback left too little."""
        full = len(self._ids) - self._start > self._max_len
        thin = self._start > 0 and self._num_cached < self._max_len // 4
        if full or thin:
            fits = len(self._ids) <= self._max_len
            self._start = 0 if fits else len(self._ids) - self._max_len // 2
            self._num_cached = 0
