"""Which other files an ONNX model reads its weights from.

onnxruntime 1.23 follows any path a model names, also out of its folder, so the names are looked up
here first. Only the protobuf fields on the way to them are read: weights are stepped over.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from device_runtime.protocol.errors import BundleError

# Message → field number → message inside it, from onnx.proto; everything else is skipped.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {1: "key", 2: "value"},
}
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MAX_DEPTH = 64


def external_locations(model: Path) -> set[str]:
    """Locations of external weights as the model writes them; BundleError if it is no ONNX file."""
    if model.stat().st_size == 0:
        raise BundleError(f"{model} is empty; copy or export it again")
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return set(_locations(data, 0, len(data), "model", 0))
        except (IndexError, ValueError) as error:
            raise BundleError(f"{model} is not an ONNX model ({error}); export it again") from None


def _locations(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("messages nest too deep")
    if kind == "entry":
        strings = {key: data[low:high] for key, low, high in _children(data, start, end, kind)}
        if strings.get("key") == b"location":
            yield strings.get("value", b"").decode()
        return
    for child, low, high in _children(data, start, end, kind):
        yield from _locations(data, low, high, child, depth + 1)


def _children(data: mmap.mmap, at: int, end: int, kind: str) -> Iterator[tuple[str, int, int]]:
    """The messages inside one that may lead to a location: (kind, first byte, byte after it)."""
    wanted = _FIELDS[kind]
    while at < end:
        tag, at = _varint(data, at)
        size, at = _size(data, at, tag & 7)
        if at + size > end:
            raise ValueError(f"a field at byte {at} is longer than its message")
        if tag >> 3 in wanted and tag & 7 == _BYTES:
            yield wanted[tag >> 3], at, at + size
        at += size


def _size(data: mmap.mmap, at: int, wire_type: int) -> tuple[int, int]:
    """Bytes of the field's content and where it starts."""
    if wire_type == _BYTES:
        return _varint(data, at)
    if wire_type == _VARINT:
        return _varint(data, at)[1] - at, at
    if wire_type in (_FIXED_64, _FIXED_32):
        return (8 if wire_type == _FIXED_64 else 4), at
    raise ValueError(f"unknown wire type {wire_type} at byte {at}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError(f"a number at byte {at} has no end")
