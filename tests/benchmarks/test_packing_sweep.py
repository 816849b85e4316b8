"""The sweep over grids: what it says of a point is what the scheme does there."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.packing_sweep import CHOSEN, POINTS, Point, Swept, sweep, table
from benchmarks.record import Record
from device_runtime.protocol.grid import Grid
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Place, Vocabulary
from tests.exact_law import (
    EnumeratedCoins,
    EnumeratedStreams,
    cuts_of,
    enumerate_law,
    evidence_sent,
)

P = ArrayLaw.dense(np.array([0.31, 0.22, 0.45, 0.0199, 0.0001]))
Q = ArrayLaw.dense(np.array([0.17, 0.43, 0.11, 0.2888, 0.0012]))
PLACE = Place(0, 0)


@pytest.fixture(scope="module")
def swept() -> list[Swept]:
    return sweep([(P, Q)], [P, Q], 5, widened=True)


def test_what_is_used_is_among_the_points() -> None:
    assert set(CHOSEN) <= set(POINTS) and len(set(POINTS)) == len(POINTS)
    for point in CHOSEN:
        assert point.grid == getattr(SCHEMES[point.scheme.name], "grid", None)


def test_points_of_equal_width_split_their_bits_in_every_way() -> None:
    grids = [point.grid for point in POINTS if point.rounded_off is None]
    for width in (10, 11, 12):
        same = [grid for grid in grids if grid.index_bits == width]
        assert [grid.num_octaves for grid in same] == [7, 15, 31, 63]


@pytest.mark.parametrize(
    "point",
    [Point(Grid(2, 7)), Point(Grid(6, 31)), Point(Grid(9, 31), 0.01), Point(Grid(3, 7), 0.3)],
)
def test_the_acceptance_lost_is_the_enumerated_one(
    point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.packing_sweep.POINTS", (point,))
    scheme = point.scheme

    def run(coins: EnumeratedCoins, streams: EnumeratedStreams) -> bool:
        drafted = scheme.draft(Q, PLACE, coins)
        received = evidence_sent(scheme, drafted, Vocabulary(5))
        return scheme.accepts(P, received, PLACE, streams.at(0, 0, 0, 0))

    law = enumerate_law(run, cuts_of(scheme, P, point.grid))
    (found,) = sweep([(P, Q)], [P], 5, widened=False)
    assert found.lost == pytest.approx(np.minimum(P.probs, Q.probs).sum() - law[True], abs=1e-12)


def test_finer_grids_lose_less_and_none_gains(swept: list[Swept]) -> None:
    lost = {one.point: one.lost for one in swept}
    assert lost[Point(Grid(7, 31))] < lost[Point(Grid(6, 31))] < lost[Point(Grid(5, 31))]
    assert all(value >= -1e-15 for value in lost.values())


def test_every_point_is_a_line_and_a_record(swept: list[Swept]) -> None:
    lines = list(table(swept))
    assert len(lines) == 2 + len(POINTS)
    assert {line.count("|") for line in lines} == {7}
    assert "| 5 (widened) ids: alpha lost, bytes |" in lines[0]
    assert sum("**" in line for line in lines) == len(CHOSEN)
    for one in swept:
        Record.of("packing", {}, one.values())
