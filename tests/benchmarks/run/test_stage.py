"""The emulated link's own error: told where it is more than an error."""

from __future__ import annotations

from typing import Any

from benchmarks.run.stage import doubt_of


def late(over_1ms: int) -> dict[str, Any]:
    return {"deliveries": 1000, "sum_s": 0.5, "max_s": 0.0213, "over_1ms": over_1ms}


def test_a_link_that_comes_late_is_doubted() -> None:
    assert doubt_of(late(10), realtime=False) is None
    words = doubt_of(late(11), realtime=False)
    assert words is not None
    assert "more than 1 ms late for 11 of 1000 deliveries (0.50 ms on average, 21 ms" in words
    assert words.endswith("as root the link takes a real-time priority")
    assert "as root" not in (doubt_of(late(11), realtime=True) or "")


def test_a_link_that_carried_nothing_is_not() -> None:
    nothing = {"deliveries": 0, "sum_s": 0.0, "max_s": 0.0, "over_1ms": 0}
    assert doubt_of(nothing, realtime=True) is None
