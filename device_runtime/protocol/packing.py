"""A row of grid indices ↔ bytes: gaps between ids, and indices, as byte planes through zstandard.

Bytes from a stranger are decoded with a bounded output: the count is read and checked first, and
exactly as many bytes as it implies are taken from the stream.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from device_runtime.protocol.grid import Indices
from device_runtime.protocol.law import Ids
from device_runtime.protocol.wire import Reader, Writer, malformed

_GAP_DTYPE = np.dtype("<u4")
_INDEX_DTYPE = np.dtype("<u2")
_BYTES_PER_ENTRY = _GAP_DTYPE.itemsize + _INDEX_DTYPE.itemsize
_MAX_WINDOW_BYTES = 1 << 21


def write_row(out: Writer, ids: Ids, indices: Indices) -> None:
    """ids (n,) ascending, indices (n,) of the grid; the row is the rest of the message."""
    gaps = np.diff(ids, prepend=-1) - 1
    planes = [
        column.astype(dtype).view(np.uint8).reshape(len(ids), dtype.itemsize).T.tobytes()
        for column, dtype in ((gaps, _GAP_DTYPE), (indices, _INDEX_DTYPE))
    ]
    out.varint(len(ids))
    compressor = zstandard.ZstdCompressor(level=6, write_content_size=False)
    out.rest(compressor.compress(b"".join(planes)))


def read_row(data: Reader, num_ids: int, num_levels: int) -> tuple[Ids, Indices]:
    """The ids and indices that `write_row` wrote; RemoteError on anything else."""
    count = data.varint(num_ids)
    wanted = count * _BYTES_PER_ENTRY
    raw = _decompress(data.rest(), wanted)
    split = count * _GAP_DTYPE.itemsize
    gaps = _from_planes(raw[:split], _GAP_DTYPE, count).astype(np.int64)
    indices = _from_planes(raw[split:], _INDEX_DTYPE, count).astype(np.int64)
    ids = np.cumsum(gaps + 1) - 1
    if count and (ids[-1] >= num_ids or indices.min() < 1 or indices.max() >= num_levels):
        raise malformed("a packed row holds an id or an index out of range")
    return ids, indices


def _from_planes(raw: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, count)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def _decompress(packed: bytes, wanted: int) -> bytes:
    """Exactly `wanted` bytes, never more than that in memory."""
    source = io.BytesIO(packed)
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
    try:
        with decompressor.stream_reader(source, read_across_frames=False) as stream:
            raw = stream.read(wanted + 1)
    except zstandard.ZstdError:
        raise malformed("a packed row is no valid zstandard frame") from None
    if len(raw) != wanted:
        raise malformed(f"a packed row unpacks to other than the {wanted} bytes it declares")
    return raw
