"""An exported decoder under numpy alone: slow, but free of the device runtime that it judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from export.errors import ExportError
from export.graph_signature import GraphSignature

Rows = NDArray[np.float32]


class NumpyRunner:
    """The graph and its cache as numpy arrays, on the CPU."""

    def __init__(self, path: Path, signature: GraphSignature) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores from whatever else runs, many times over.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._signature = s = signature
        layers = range(s.num_layers)
        pasts = [p % i for p in (s.past_key_pattern, s.past_value_pattern) for i in layers]
        presents = [p % i for p in (s.present_key_pattern, s.present_value_pattern) for i in layers]
        self._presents = dict(zip(pasts, presents, strict=True))
        empty = np.zeros((1, s.num_kv_heads, 0, s.head_size), s.cache_dtype)
        self._cache = dict.fromkeys(pasts, empty)
        self.num_tokens = 0

    def append(self, ids: Sequence[int]) -> Rows:
        """Take tokens in; logits (len(ids), vocab_size), one row after each."""
        wanted = [self._signature.logits_name, *self._presents.values()]
        try:
            logits, *cache = self._session.run(wanted, self._feed(ids))
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            reason = str(error).partition("\n")[0]
            raise ExportError(f"the exported graph does not run: {reason}") from error
        self._cache = dict(zip(self._presents, cache, strict=True))
        self.num_tokens += len(ids)
        return np.asarray(logits[0], np.float32)

    def _feed(self, ids: Sequence[int]) -> dict[str, NDArray[np.generic]]:
        s, end = self._signature, self.num_tokens + len(ids)
        feed = {s.input_ids_name: np.array([ids], np.int64), **self._cache}
        if s.attention_mask_name is not None:
            feed[s.attention_mask_name] = np.ones((1, end), np.int64)
        if s.position_ids_name is not None:
            feed[s.position_ids_name] = np.arange(self.num_tokens, end)[None]
        if s.last_position_name is not None:
            feed[s.last_position_name] = np.array([end - 1], np.int32)
        if s.num_positions_name is not None:
            feed[s.num_positions_name] = np.array(end, np.int32)
        return feed

    def truncate(self, num_tokens: int) -> None:
        """Forget all tokens from `num_tokens` on."""
        self._cache = {name: past[:, :, :num_tokens] for name, past in self._cache.items()}
        self.num_tokens = num_tokens
