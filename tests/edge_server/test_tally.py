"""Counts of what was drafted and judged."""

from __future__ import annotations

from device_runtime.protocol.edge_states import Outcome
from edge_server.tally import Tally


def test_each_outcome_is_counted_once() -> None:
    tally = Tally()
    tally.add(Outcome(4, 4, bonus=True))
    tally.add(Outcome(4, 4))  # as a whole, but no bonus was wanted
    tally.add(Outcome(4, 2, rejected=True))
    tally.add(Outcome(4, 2))  # an end token: the rest was not judged
    tally.add(Outcome(4, 0, rejected=True))
    tally.add(Outcome(0, 0, bonus=True))  # an empty block
    assert (tally.rounds, tally.proposed) == (6, 20)
    assert (tally.full_rounds, tally.partial_rounds, tally.zero_rounds) == (2, 2, 1)
    assert (tally.accepted, tally.corrections, tally.bonus) == (12, 2, 2)
    assert tally.evaluated == 14
    assert tally.alpha == 12 / 14
    assert tally.written == 16


def test_streams_are_counted_beside() -> None:
    tally = Tally()
    assert tally.alpha is None
    tally.add(Outcome(num_streamed=3, is_round=False))
    assert (tally.streamed, tally.written, tally.rounds) == (3, 3, 0)
