"""What an edge sends on a rejection: short where it can be, and harmless whatever it holds."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runtime.protocol.errors import RemoteError
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import device_coins, edge_streams
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme, Vocabulary
from device_runtime.protocol.schemes.packed import DssdPacked, PackedRow
from device_runtime.protocol.wire import Reader, Writer

NUM_IDS = 300
VOCAB = Vocabulary(NUM_IDS)
Q = ArrayLaw.dense(np.random.default_rng(0).random(NUM_IDS))
PACKED = cast(DssdPacked, SCHEMES["dssd-packed"])
DRAFTED = {name: scheme.draft(Q, Place(0, 0), device_coins(1)) for name, scheme in SCHEMES.items()}


def sent(scheme: Scheme, p: ArrayLaw, num_ids: int, ask: Ask = Ask()) -> bytes:  # noqa: B008 - frozen
    streams = edge_streams(0, 0, 0, 0)
    out = Writer()
    rejection = scheme.reject(p, Drafted(0), Place(0, 0), streams, ask)
    scheme.write_rejection(out, rejection, Vocabulary(num_ids))
    return out.getvalue()


def read(scheme: Scheme, data: bytes, num_ids: int = NUM_IDS) -> object:
    reader = Reader(data)
    rejection = scheme.read_rejection(reader, Vocabulary(num_ids))
    reader.finish()
    return rejection


@pytest.mark.parametrize("num_ids", [8_192, 32_000, 49_152, 151_936])
def test_a_row_on_one_id_takes_its_bits_and_one_more_in_whole_bytes_of_seven(num_ids: int) -> None:
    """Within 15 % of log2 V bits but for the rounding to varints: half a byte to one byte."""
    for token_id in (0, 5, num_ids - 1):
        data = sent(PACKED, ArrayLaw.one_hot(token_id), num_ids)
        assert len(data) <= -(-((num_ids - 1).bit_length() + 1) // 7)
        assert len(data) <= 1.15 * np.log2(num_ids) / 8 + 1
        row = read(PACKED, data, num_ids)
        assert isinstance(row, PackedRow)
        assert PACKED.settle(Q, Drafted(0), row, device_coins(3)) == token_id
        thinned = SCHEMES["dssd-thinned"]
        whole = sent(thinned, ArrayLaw.one_hot(token_id), num_ids, Ask(whole_row=True))
        assert len(whole) == len(data) + 1
        assert thinned.settle(Q, Drafted(0), read(thinned, whole, num_ids), device_coins(3)) == (
            token_id
        )


P = ArrayLaw.dense(np.array([0.5, 0.3, 0.1, 0.0999, 0.0001]))
PINNED = {
    "dssd-packed": "02090406f2e7f632c8",
    "dssd-thinned": "000307c0bfa6aadcf8",
    "dssd": "0038cd34662e652e8e06000000000000",
    "dsd": "00",
}


@pytest.mark.parametrize("name", PINNED)
def test_the_bytes_of_this_version_are_pinned(name: str) -> None:
    """A change here is a new wire format: raise PROTOCOL_VERSION."""
    scheme = SCHEMES[name]
    streams = edge_streams(0, 0, 0, 0)
    out = Writer()
    rejection = scheme.reject(P, DRAFTED[name], Place(0, 0), streams, Ask(6))
    scheme.write_rejection(out, rejection, Vocabulary(8))
    assert out.getvalue().hex() == PINNED[name]
    if name == "dssd-packed":
        assert sent(scheme, ArrayLaw.one_hot(5), 8).hex() == "0b"


def test_an_id_out_of_range_is_refused_in_the_short_form_too() -> None:
    for first in (NUM_IDS << 1 | 1, NUM_IDS << 1):
        out = Writer()
        out.varint(first)
        with pytest.raises(RemoteError):
            read(PACKED, out.getvalue())


def test_one_id_with_something_left_over_is_sent_with_its_draw() -> None:
    """p̃ keeps one id of 0.9996; what is left is 0.0004 and must be drawn now and then."""
    p = ArrayLaw.dense(np.array([0.9996, 0.0004]))
    row = read(PACKED, sent(PACKED, p, NUM_IDS))
    assert isinstance(row, PackedRow)
    assert row.ids.tolist() == [0] and not row.is_one_hot(PACKED.grid)


def test_a_rejection_without_a_draw_is_refused() -> None:
    """No draw would pass, and the device would ask again and again."""
    with pytest.raises(RemoteError, match="no draw"):
        read(SCHEMES["dssd-thinned"], b"\x00\x00\x00")


prefixes = st.sampled_from([b"", b"\x00", b"\x01", b"\x00\x02", b"\x02\x05\x02", b"\x04\x05\x01"])


@pytest.mark.parametrize("name", SCHEMES)
@settings(max_examples=300, deadline=None)
@given(prefix=prefixes, data=st.binary(max_size=40))
def test_any_bytes_are_a_rejection_that_can_be_settled_or_one_error(
    name: str, prefix: bytes, data: bytes
) -> None:
    scheme = SCHEMES[name]
    try:
        rejection = read(scheme, prefix + data)
    except RemoteError:
        return
    token_id = scheme.settle(Q, DRAFTED[name], rejection, device_coins(2))
    assert token_id is None or 0 <= token_id < NUM_IDS


@pytest.mark.parametrize("name", ["dssd", "dssd-fp32"])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_row_of_floats_is_settled_or_refused(name: str, data: st.DataObject) -> None:
    """A dozen random bytes at a place of a row of zeros: negative numbers, NaN, infinity."""
    scheme, width = SCHEMES[name], 2 if name == "dssd" else 4
    row = bytearray(NUM_IDS * width)
    at = data.draw(st.integers(0, len(row) - 12))
    row[at : at + 12] = data.draw(st.binary(min_size=12, max_size=12))
    try:
        rejection = read(scheme, bytes(row))
    except RemoteError:
        return
    token_id = scheme.settle(Q, DRAFTED[name], rejection, device_coins(2))
    assert token_id is not None and 0 <= token_id < NUM_IDS
