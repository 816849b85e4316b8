"""Rows of `dssd-packed` as contenders write them, and the entropy they are held against."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from benchmarks.packing_contenders import Row, contenders, floor_bytes, sent_bytes
from benchmarks.packing_learned import RangeCoder, has_range_coder
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import edge_streams
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.packed import DssdPacked
from device_runtime.protocol.wire import Writer

NUM_IDS = 4000
SCHEME = cast(DssdPacked, SCHEMES["dssd-packed"])


def laws(count: int, seed: int = 0) -> list[ArrayLaw]:
    """Steep laws over shuffled ids."""
    rng = np.random.default_rng(seed)
    return [
        ArrayLaw.dense(np.exp(rng.normal(0, 1, NUM_IDS) - 1.4 * np.log1p(rng.permutation(NUM_IDS))))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [Row.of(p, NUM_IDS, SCHEME) for p in laws(12)]


def test_the_bytes_counted_are_the_bytes_sent(rows: list[Row]) -> None:
    """Up to the draw y*, whose varint is counted at its longest."""
    for row, p in zip(rows, laws(12), strict=True):
        streams = edge_streams(0, 0, 0, 0)
        rejection = SCHEME.reject(p, Drafted(0), Place(0, 0), streams, Ask())
        out = Writer()
        SCHEME.write_rejection(out, rejection, Vocabulary(NUM_IDS))
        assert 0 <= sent_bytes(row) - len(out.getvalue()) <= 1


def test_no_contender_beats_the_entropy_and_the_winner_comes_within_15_percent(
    rows: list[Row],
) -> None:
    floor = floor_bytes(rows)
    for name, size in contenders(rows).items():
        assert np.mean([size(row) for row in rows]) > 0.98 * floor, name
    assert np.mean([sent_bytes(row) for row in rows]) < 1.15 * floor


def test_a_row_on_one_id_takes_its_bits_in_whole_bytes() -> None:
    ids = np.random.default_rng(2).integers(0, NUM_IDS, 2000)
    rows = [Row.of(ArrayLaw.one_hot(int(token_id)), NUM_IDS, SCHEME) for token_id in ids]
    floor = floor_bytes(
        rows
    )  # of the gap, under a histogram that is free: a little less than log2 V
    assert floor == pytest.approx(math.log2(NUM_IDS) / 8, rel=0.03)
    for row in rows:
        assert sent_bytes(row) == 2 <= 1.15 * floor + 1
    streams = edge_streams(0, 0, 0, 0)
    rejection = SCHEME.reject(ArrayLaw.one_hot(3999), Drafted(0), Place(0, 0), streams, Ask())
    out = Writer()
    SCHEME.write_rejection(out, rejection, Vocabulary(NUM_IDS))
    assert len(out.getvalue()) == 2


def test_the_contenders_that_the_issue_names_are_there(rows: list[Row]) -> None:
    named = contenders(rows)
    assert {"sparse: id, fp16", "log grid, zstandard trained", "exp-Golomb (sent)"} <= set(named)
    assert has_range_coder() == ("range coder, constriction" in named)


@pytest.mark.skipif(not has_range_coder(), reason="constriction is not installed")
def test_the_range_coder_writes_what_an_ideal_one_would_in_words_of_four_bytes(
    rows: list[Row],
) -> None:
    """It decodes what it wrote, too, or fails; fields of more than 16 bits are among them."""
    columns = [(row.gaps, row.numbers - 1) for row in rows]
    wide = (np.array([0, 1 << 17, 3]), np.array([1 << 28, 5, (1 << 31) - 1]))
    coder = RangeCoder([*columns, wide])
    for each in (*columns, wide):
        assert -1 < coder(each) - coder.ideal_bytes(each) < 8 + 0.002 * coder.ideal_bytes(each)


def test_the_entropy_of_a_known_source_is_found() -> None:
    """Ids at random, numbers uniform over 64 values: log2 C(V, n) + 6 n bits, and log2 V for y*."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(200):
        ids = np.sort(rng.choice(NUM_IDS, 50, replace=False))
        gaps = np.diff(ids, prepend=-1) - 1
        found.append(Row(NUM_IDS, 50, gaps, rng.integers(64, 128, 50), 12, b""))
    known_bits = math.log2(math.comb(NUM_IDS, 50)) + 6 * 50 + math.log2(NUM_IDS)
    assert floor_bytes(found) == pytest.approx(known_bits / 8, rel=0.02)
