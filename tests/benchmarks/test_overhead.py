"""Header bytes against sums done by hand."""

from __future__ import annotations

import pytest

from benchmarks.overhead import Direction, frame_bytes, wire_bytes


@pytest.mark.parametrize(
    ("payload", "up", "down"),
    [(0, 6, 2), (125, 131, 127), (126, 134, 130), (65535, 65543, 65539), (65536, 65550, 65546)],
)
def test_a_frame_has_the_header_of_rfc_6455(payload: int, up: int, down: int) -> None:
    assert frame_bytes(payload, Direction.UP) == up
    assert frame_bytes(payload, Direction.DOWN) == down


def test_a_small_message_fits_one_record_and_one_segment() -> None:
    assert wire_bytes(50, Direction.DOWN) == 50 + 2 + 22 + 52
    assert wire_bytes(50, Direction.UP, tls=False) == 50 + 6 + 52


def test_a_large_message_pays_per_segment() -> None:
    """64,000 bytes: 4 TLS records, 45 segments."""
    assert wire_bytes(64_000, Direction.DOWN) == 64_000 + 4 + 4 * 22 + 45 * 52
