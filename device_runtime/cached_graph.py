"""Two kinds of decoder graph behind one call: run some tokens after the first `num_past` cached.

Rollback is free of any call: a run after fewer tokens than the cache holds forgets the rest. Cache,
inputs and logits lie in arrays of ours, and onnxruntime gets their addresses.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device_runtime.bundle import Bundle
from device_runtime.graph_check import cache_names, check_signature
from device_runtime.ort_session import Session, is_on_gpu, open_session, run_error, to_gpu
from device_runtime.protocol.errors import BundleError, ErrorCode, LocalError
from device_runtime.protocol.manifest import Manifest
from device_runtime.settings import RuntimeSettings

# Rows of logits held for good: a drafted token needs one, the tokens after a verdict two.
_KEPT_ROWS = 2


def open_graph(bundle: Bundle, settings: RuntimeSettings, max_len: int) -> CachedGraph:
    """The bundle's graph with a cache of max_len positions."""
    manifest = bundle.manifest
    kinds: dict[str, type[CachedGraph]] = {"fused": FusedGraph, "optimum": ConcatGraph}
    if manifest.graph not in kinds:
        raise BundleError(
            f"{bundle.folder} has a graph of kind {manifest.graph!r}, this runtime knows "
            f"{' and '.join(kinds)}; export the model again with this version of Tandem"
        )
    session = open_session(bundle.model_path, settings, manifest, max_len)
    check_signature(session, manifest)
    return kinds[manifest.graph](session, manifest, max_len)


class CachedGraph:
    """A session with its cache, token ids, mask, positions and logits, and the run itself.

    The kinds differ in how they bind the cache. What is bound by its address is written before each
    run; only what has another shape is bound again. Drafting token by token on a fused graph that is
    nothing. For a GPU everything is bound again, because binding is what copies it there.
    """

    def __init__(self, session: Session, manifest: Manifest, max_len: int) -> None:
        self._max_len = max_len
        self._on_gpu = is_on_gpu(session)
        self._session = session
        self._binding = session.io_binding()
        self._manifest = manifest
        self._ones = np.ones((1, max_len), np.int64)
        self._positions = np.arange(max_len, dtype=np.int64)[None]
        self._last_position = _Buffer(np.zeros(1, np.int32))
        self._num_positions = _Buffer(np.zeros((), np.int32))
        self._bind_lengths()
        self._kept = self._new_block(_KEPT_ROWS)
        self._bind_block(_KEPT_ROWS)

    def _check_room(self, num_tokens: int, num_past: int) -> None:
        """onnxruntime before 1.27 reads and writes past the end of a cache that is full."""
        if num_past < 0 or num_tokens < 1 or num_past + num_tokens > self._max_len:
            detail = f"{num_tokens} tokens after {num_past}, room for {self._max_len}"
            raise LocalError(ErrorCode.CONTEXT_FULL, detail)

    def run(self, token_ids: NDArray[np.int64], num_past: int) -> NDArray[np.float32]:
        """Run tokens (n,) after the first `num_past` of the cache; logits (vocab,) of the last one.

        The row may be overwritten by the next run.
        """
        num_tokens = len(token_ids)
        self._check_room(num_tokens, num_past)
        if num_tokens != self._num_bound:
            self._bind_block(num_tokens)
        manifest, end = self._manifest, num_past + num_tokens
        self._ids.array[:num_tokens] = token_ids
        self._last_position.array[0] = end - 1
        self._num_positions.array[()] = end
        if self._on_gpu:
            self._bind_input(manifest.input_ids_name, self._ids, (1, num_tokens))
            self._bind_lengths()
        if manifest.attention_mask_name is not None:
            self._bind_constant(manifest.attention_mask_name, self._ones[:, :end])
        if manifest.position_ids_name is not None:
            self._bind_constant(manifest.position_ids_name, self._positions[:, num_past:end])
        try:
            self._session.run_with_iobinding(self._binding)
            if self._on_gpu:
                self._binding.synchronize_outputs()
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            raise run_error(error) from error
        row: NDArray[np.float32] = self._rows.array[num_tokens - 1].astype(np.float32, copy=False)
        return row

    def _bind_input(self, name: str, buffer: _Buffer, shape: tuple[int, ...]) -> None:
        """Bind the start of a buffer that the caller keeps until after the run."""
        self._binding.bind_input(name, buffer.device, 0, buffer.dtype, shape, buffer.pointer)

    def _bind_constant(self, name: str, array: NDArray[np.int64]) -> None:
        """Bind an array that nobody writes to: quicker than an address, and it may be copied."""
        self._binding.bind_cpu_input(name, array)

    def _bind_output(self, name: str, buffer: _Buffer, shape: tuple[int, ...]) -> None:
        """Bind the start of a buffer that the caller keeps until after the run."""
        self._binding.bind_output(name, buffer.device, 0, buffer.dtype, shape, buffer.pointer)

    def _bind_lengths(self) -> None:
        """Where the graph asks for lengths in place of a mask."""
        if self._manifest.last_position_name is not None:
            self._bind_input(self._manifest.last_position_name, self._last_position, (1,))
        if self._manifest.num_positions_name is not None:
            self._bind_input(self._manifest.num_positions_name, self._num_positions, ())

    def _new_block(self, num_tokens: int) -> tuple[_Buffer, _Buffer]:
        """Room for ids and logits of a run."""
        rows = np.empty((num_tokens, self._manifest.vocab_size), self._manifest.logits_dtype)
        return _Buffer(np.empty(num_tokens, np.int64)), _Buffer(rows)

    def _bind_block(self, num_tokens: int) -> None:
        """Bind ids and logits of a run; a prompt's room is let go when the next block is bound."""
        kept = num_tokens <= _KEPT_ROWS
        self._ids, self._rows = self._kept if kept else self._new_block(num_tokens)
        manifest = self._manifest
        self._bind_input(manifest.input_ids_name, self._ids, (1, num_tokens))
        self._bind_output(manifest.logits_name, self._rows, (1, num_tokens, manifest.vocab_size))
        self._num_bound = num_tokens


class FusedGraph(CachedGraph):
    """Attention that appends to one buffer per tensor, bound once as past and as present."""

    def __init__(self, session: Session, manifest: Manifest, max_len: int) -> None:
        super().__init__(session, manifest, max_len)
        shape = (1, manifest.num_kv_heads, max_len, manifest.head_size)
        self._cache = []
        for past, present in cache_names(manifest):
            buffer = _Buffer(np.zeros(shape, manifest.cache_dtype), on_gpu=self._on_gpu)
            self._cache.append(buffer)
            self._bind_input(past, buffer, shape)
            self._bind_output(present, buffer, shape)


class ConcatGraph(CachedGraph):
    """A graph that writes past and new tokens into a new tensor: two sets of buffers take turns.

    That costs one copy of the cache per run, which the graph forces, and no allocation; letting
    onnxruntime allocate the outputs took as long, and its arena grows with every new shape. On a GPU
    a rollback takes the cache to the CPU and back, as only there the gaps can be closed.
    """

    def __init__(self, session: Session, manifest: Manifest, max_len: int) -> None:
        super().__init__(session, manifest, max_len)
        self._names = cache_names(manifest)
        size = manifest.num_kv_heads * max_len * manifest.head_size
        self._now, self._next = (
            [
                _Buffer(np.zeros(size, manifest.cache_dtype), on_gpu=self._on_gpu)
                for _ in self._names
            ]
            for _ in range(2)
        )
        self._num_cached = 0

    def run(self, token_ids: NDArray[np.int64], num_past: int) -> NDArray[np.float32]:
        self._check_room(len(token_ids), num_past)
        if num_past < self._num_cached:
            self._shrink(num_past)
        num_tokens = num_past + len(token_ids)
        before, after = self._shape(num_past), self._shape(num_tokens)
        for (past, present), now, then in zip(self._names, self._now, self._next, strict=True):
            self._bind_input(past, now, before)
            self._bind_output(present, then, after)
        row = super().run(token_ids, num_past)
        self._now, self._next = self._next, self._now
        self._num_cached = num_tokens
        return row

    def _shape(self, num_tokens: int) -> tuple[int, ...]:
        return (1, self._manifest.num_kv_heads, num_tokens, self._manifest.head_size)

    def _shrink(self, num_tokens: int) -> None:
        """Close the gaps that dropped tokens leave between the heads."""
        held = self._shape(self._num_cached)
        for now, then in zip(self._now, self._next, strict=True):
            heads = now.content()[: math.prod(held)].reshape(held)
            then.fill(heads[:, :, :num_tokens])
        self._now, self._next = self._next, self._now
        self._num_cached = num_tokens


class _Buffer:
    """An array with its address and type, asked for once: numpy takes its time to tell.

    One on the GPU begins with the array's content; the array itself is let go.
    """

    __slots__ = ("array", "device", "dtype", "pointer", "value")

    def __init__(self, array: NDArray[Any], *, on_gpu: bool = False) -> None:
        self.dtype = array.dtype.type
        self.device = "cuda" if on_gpu else "cpu"
        self.value = to_gpu(array) if on_gpu else None
        self.array = array if self.value is None else np.empty(0, array.dtype)
        self.pointer: int = array.ctypes.data if self.value is None else self.value.data_ptr()

    def content(self) -> NDArray[Any]:
        """The array; a copy of it where it lies on the GPU."""
        if self.value is None:
            return self.array
        copied: NDArray[Any] = self.value.numpy()
        return copied

    def fill(self, part: NDArray[Any]) -> None:
        """Overwrite the start; the rest may hold anything afterwards."""
        if self.value is None:
            self.array[: part.size].reshape(part.shape)[:] = part
        else:
            whole = self.value.numpy()
            whole.reshape(-1)[: part.size] = part.reshape(-1)
            self.value.update_inplace(whole)
