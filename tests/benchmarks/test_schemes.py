"""`tandem bench schemes` on tables instead of models: rounds, wide vocabularies, table, picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.record import Record
from benchmarks.scheme_rounds import LocalPair, Measured
from benchmarks.scheme_table import COLUMNS, Cell, markdown, values_of
from benchmarks.schemes import DOCS, MARK, SAMPLINGS
from benchmarks.schemes_picture import draw
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.schemes import SCHEMES
from tests.table_model import Table, TableDrafter, random_table

NUM_OWN, GAMMA, TOKENS_EACH = 24, 3, 30
PROMPTS = ([1, 2, 3], [4, 5])


class Engine:
    """As much of an engine as the rounds use."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.num_passes = 0

    def open(self) -> object:
        return object()

    def drop(self, slot: object) -> None:
        """There is nothing to give back."""

    def logits(self, batch: Sequence[tuple[object, Job]]) -> list[torch.Tensor]:
        self.num_passes += 1
        lasts = [job.tokens[len(job.tokens) - job.num_rows :] for _, job in batch]
        return [torch.from_numpy(self._table[list(last)]) for last in lasts]


def measured(scheme: str, num_ids: int = NUM_OWN, sampling: str = "T=1") -> tuple[Measured, Engine]:
    table = random_table(NUM_OWN, 1)
    engine: Any = Engine(table)
    drafters = [TableDrafter(table + random_table(NUM_OWN, 2, 0.7)) for _ in PROMPTS]
    pair = LocalPair(engine, drafters, NUM_OWN, num_ids)
    found = pair.measure(SCHEMES[scheme], SAMPLINGS[sampling], GAMMA, PROMPTS, TOKENS_EACH)
    return found, engine


@pytest.mark.parametrize("num_ids", [NUM_OWN, 200])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_round_is_measured(scheme: str, num_ids: int) -> None:
    found, engine = measured(scheme, num_ids)
    counts = found.counts
    rounds = counts.rounds
    assert found.num_tokens >= TOKENS_EACH * len(PROMPTS)
    assert counts.bonus + counts.rejected == rounds == len(found.rejecting)
    assert sum(found.rejecting) == counts.rejected
    assert len(found.overlaps) == counts.accepted + counts.rejected
    for per_round in (found.bytes_up, found.bytes_down, found.encode_s, found.settle_s):
        assert len(per_round) == rounds
    assert engine.num_passes < rounds + counts.more_requests  # answers are judged together
    assert all(0 <= chance <= 1 + 1e-9 for chance in found.expected + found.overlaps)


def test_a_request_for_more_belongs_to_its_round() -> None:
    found, _ = measured("dssd-thinned")
    exchanges = sum(len(sizes) for sizes in found.bytes_down)
    assert exchanges == found.counts.rounds + found.counts.more_requests


def test_exact_schemes_reach_their_bound() -> None:
    for scheme, slack in (("dssd", 1e-9), ("dssd-thinned", 0.01), ("dssd-packed", 0.006)):
        found, _ = measured(scheme)
        lost = np.array(found.overlaps) - np.array(found.expected)
        assert (lost >= -1e-12).all()
        assert lost.mean() < slack


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [
        values_of(Cell(num_ids, sampling, scheme, measured(scheme, num_ids, sampling)[0]), GAMMA)
        for num_ids in (NUM_OWN, 200)
        for sampling in ("T=1", "greedy")
        for scheme in ("dssd-thinned", "dssd", "coupled")
    ]


def test_values_are_in_the_registry_and_in_the_table(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        Record.of("schemes", {}, line)
    shown = [line for line in markdown(lines) if line.startswith("|")]
    assert len(shown) == 2 * 2 + len(lines)
    assert {line.count("|") for line in shown} == {len(COLUMNS) + 1}


def test_headers_come_on_top(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        for way in ("up", "down"):
            assert line[f"wire_bytes_{way}_per_token"] > line[f"bytes_{way}_per_token"]


def test_the_picture_is_drawn_light_and_dark(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    draw(lines, tmp_path)
    for name in ("schemes.png", "schemes-dark.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_page_has_the_place_for_the_table() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert page.index(f"<!-- {MARK} -->") < page.index(f"<!-- end of {MARK} -->")
