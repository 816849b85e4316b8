"""Contenders that a library writes, or that learn from other rows first.

The range coder is constriction's (MIT, Apache-2.0 or BSL-1.0; wheels for x86-64, macOS and Windows,
Python 3.10 to 3.14, none for 64-bit ARM on Linux: fit for a benchmark, not for the device). Where it
is not installed it stays out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from device_runtime.protocol.packing import best_order

Column = NDArray[np.int64]
Columns = tuple[Column, Column]
"""Gaps between ids, and numbers from 0."""

DICTIONARY_BYTES = 4096
LEVEL = 19
NUM_LENGTHS = 33
UNSEEN = 0.5
"""A symbol never met in training counts as one met half a time."""
LOW_BITS = 16
"""Of a field: what one step of the coder takes; the rest is another step."""


class Zstandard:
    """Frames as short as the format allows."""

    def __init__(self, **more: Any) -> None:
        self._compressor = zstandard.ZstdCompressor(LEVEL, write_content_size=False, **more)

    def __call__(self, data: bytes) -> float:
        """Bytes of the frame."""
        return float(len(self._compressor.compress(data)))


class TrainedZstandard(Zstandard):
    """With a dictionary trained on other rows."""

    def __init__(self, training: Sequence[bytes]) -> None:
        trained = zstandard.train_dictionary(DICTIONARY_BYTES, list(training))
        super().__init__(write_dict_id=False, dict_data=trained)


def has_range_coder() -> bool:
    """Whether the library is there."""
    return find_spec("constriction") is not None


class RangeCoder:
    """Exp-Golomb whose unary parts are coded with trained tables, a table for each column and order."""

    def __init__(self, training: Sequence[Columns]) -> None:
        self._counts: dict[tuple[int, int], Counter[int]] = {}
        for columns in training:
            for column, values in enumerate(columns):
                order, lengths, _ = _parts(values)
                self._counts.setdefault((column, order), Counter()).update(lengths.tolist())

    def _chances(self, column: int, order: int) -> NDArray[np.float64]:
        counts = self._counts.get((column, order), Counter())
        total = sum(counts.values()) + NUM_LENGTHS * UNSEEN
        return np.array([(counts[n] + UNSEEN) / total for n in range(NUM_LENGTHS)])

    def ideal_bytes(self, columns: Columns) -> float:
        """What an ideal coder takes; no bytes are counted for ending the code."""
        bits = 8.0 * _head_bytes(columns)
        for column, values in enumerate(columns):
            order, lengths, _ = _parts(values)
            bits -= float(np.log2(self._chances(column, order)[lengths]).sum())
            bits += float((lengths + order).sum())
        return bits / 8

    def __call__(self, columns: Columns) -> float:
        """Bytes written; the library writes words of four."""
        library = import_module("constriction")
        encoder = library.stream.queue.RangeEncoder()
        for symbols, *model in self._steps(columns, library.stream.model):
            encoder.encode(symbols, *model)
        words = encoder.get_compressed()
        decoder = library.stream.queue.RangeDecoder(words)
        for symbols, *model in self._steps(columns, library.stream.model):
            again = (
                decoder.decode(*model) if len(model) > 1 else decoder.decode(*model, len(symbols))
            )
            assert (again == symbols).all()
        return float(_head_bytes(columns) + words.nbytes)

    def _steps(self, columns: Columns, models: Any) -> list[tuple[Any, ...]]:
        """(symbols, model and its parameters) in the order in which they are written."""
        steps: list[tuple[Any, ...]] = []
        for column, values in enumerate(columns):
            order, lengths, fields = _parts(values)
            table = models.Categorical(self._chances(column, order), perfect=False)
            steps.append((lengths.astype(np.int32), table))
            widths = lengths + order
            for shift, most in ((0, LOW_BITS), (LOW_BITS, LOW_BITS)):
                bits = np.clip(widths - shift, 0, most)
                part = fields >> shift & ((1 << bits) - 1)
                some = bits > 0  # a uniform choice among one is none
                if some.any():
                    sizes = (1 << bits[some]).astype(np.int32)
                    steps.append((part[some].astype(np.int32), models.Uniform(), sizes))
        return steps


def _head_bytes(columns: Columns) -> int:
    """The count as a varint, and the two orders."""
    return 1 + -(-max(1, len(columns[0]).bit_length()) // 7)


def _parts(values: Column) -> tuple[int, Column, Column]:
    """The order, the unary parts, and the bits after them."""
    order = best_order(values)
    lengths = np.frexp((values >> order) + 1)[1].astype(np.int64) - 1
    return order, lengths, values + (1 << order) - (1 << (lengths + order))
