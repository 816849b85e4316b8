"""The projected section: the projection's arithmetic, labelled as what it is."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.projection import Board as BoardOf
from benchmarks.projection import ProjectionError, project, work_of
from benchmarks.record import Record
from benchmarks.report.projected import NAMES, NUMBERS, projected_section
from device_runtime.protocol.errors import ConfigError
from hw_profiles import load
from tests.benchmarks.report.hand_made import EDGE_DRAFT, LOSSY, answer, group

BANDWIDTH = 20e9
SPLIT: dict[str, Any] = {
    "round_draft_s": 0.02, "round_encode_s": 0.001, "round_settle_s": 0.001, "device_busy_s": 0.1,
}  # fmt: skip


def known(record: Record) -> Record:
    """The same, from a machine whose memory was measured."""
    machine = {**record.machine, "read_one_core_bytes_per_s": BANDWIDTH}
    return Record(record.bench, machine, record.settings, record.results, record.repeat)


def test_every_arm_but_the_edges_own_drafts_is_projected_by_the_formula() -> None:
    records = [known(answer(repeat, **SPLIT)) for repeat in range(2)]
    other = known(answer(0, **(SPLIT | EDGE_DRAFT)))
    section = projected_section([group(records, [other])], "raspberry-pi-5")
    assert section.title.startswith("Projected to Raspberry Pi 5")
    assert section.table.heads == NAMES + NUMBERS
    (row,) = section.table.rows
    work = work_of(records)
    assert work is not None
    expected = project(work, BoardOf.of(load("raspberry-pi-5")), BANDWIDTH)
    assert [entry.text for entry in row] == [
        "dssd-thinned/4", "lte", "T=1", f"{1e3 * expected.seconds:.1f}",
        *(f"{1e3 * j:.1f}" for j in (
            expected.joules, expected.compute_j, expected.wait_j, expected.radio_j)),
    ]  # fmt: skip
    assert "projected: device time × (read bandwidth here" in section.note
    assert "66% of one core's read bandwidth and 2.44 J a token" in section.note


def test_an_arm_without_clocked_rounds_has_dashes_and_the_note_says_why() -> None:
    section = projected_section(
        [group([known(answer(0, device_busy_s=0.1, **LOSSY))])], "raspberry-pi-5"
    )
    (row,) = section.table.rows
    assert [entry.text for entry in row] == ["u-hlm/4 (lossy)", "lte", "T=1", *"–––––"]
    assert "A dash: no answer has clocked rounds" in section.note
    assert "as the demo pair's does, this asks too much of the board" in section.note


def test_results_without_the_bandwidth_of_their_machine_are_refused() -> None:
    with pytest.raises(ConfigError, match="report with --project none"):
        projected_section([group([answer(0, **SPLIT)])], "raspberry-pi-5")


def test_a_board_without_powers_is_refused() -> None:
    with pytest.raises(ProjectionError, match=r"lacks memory\.read_one_core"):
        projected_section([group([known(answer(0, **SPLIT))])], "generic-x86")
