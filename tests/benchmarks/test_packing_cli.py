"""`tandem bench packing`: its tables, from rows made up here, and their place in the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.packing_cli import MARK, _cell, _swept, _values, tables
from benchmarks.packing_sweep import POINTS
from benchmarks.pair_rows import PairRows
from benchmarks.record import Record
from benchmarks.schemes import DOCS, SAMPLINGS, VOCABULARIES

NUM_OWN = 200


@pytest.fixture(scope="module")
def pair() -> PairRows:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (90, NUM_OWN)) - 1.5 * np.log1p(
        np.array([rng.permutation(NUM_OWN) for _ in range(90)])
    )
    return PairRows(
        rows.astype(np.float32), (rows + rng.normal(0, 0.8, rows.shape)).astype(np.float32)
    )


@pytest.fixture(scope="module")
def values(pair: PairRows) -> list[dict[str, Any]]:
    return list(_values([_cell(pair, num_ids, name, 30) for num_ids, name in cells()]))


def cells() -> Iterator[tuple[int, str]]:
    for num_ids in (NUM_OWN, 900):
        for name in ("T=1", "greedy"):
            yield num_ids, name


def test_every_value_is_in_the_registry(values: list[dict[str, Any]]) -> None:
    for line in values:
        Record.of("packing", {}, line)


def test_every_cell_is_a_line_of_both_tables_and_widened_ones_say_so(
    values: list[dict[str, Any]],
) -> None:
    lines = list(tables(values))
    starts = [
        f"| {size} | {name} |" for size in ("200", "900 (widened)") for name in ("T=1", "greedy")
    ]
    for table in (lines[: lines.index("")], lines[lines.index("") + 1 :]):
        assert [line.startswith(s) for line, s in zip(table[2:], starts, strict=True)] == [True] * 4
        assert len({line.count("|") for line in table}) == 1


def test_greedy_rows_stay_within_15_percent_and_two_bytes_of_their_entropy(
    values: list[dict[str, Any]],
) -> None:
    for line in values:
        if line["sampling"] == "greedy":
            assert line["row_bytes"] < 1.15 * line["entropy_bytes"] + 2


def test_the_same_rows_are_swept(pair: PairRows) -> None:
    found = _swept(pair, 900, 5)
    assert len(found) == len(POINTS) and all(one.widened for one in found)


def test_the_page_has_the_place_for_the_tables() -> None:
    page = DOCS.read_text(encoding="utf-8")
    body = page.split(f"<!-- {MARK} -->")[1].split(f"<!-- end of {MARK} -->")[0].strip()
    if not body:
        pytest.skip("not filled yet: tandem bench packing --docs")
    lines = [line for line in body.splitlines() if line.startswith("|")]
    for num_ids in VOCABULARIES:
        size = f"{num_ids:,} (widened)" if num_ids != VOCABULARIES[0] else f"{num_ids:,}"
        for name in SAMPLINGS:
            assert sum(line.startswith(f"| {size} | {name} |") for line in lines) == 2
    assert len(lines) == 2 * (2 + len(VOCABULARIES) * len(SAMPLINGS)) + 2 + len(POINTS)
