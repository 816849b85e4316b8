"""Records are grouped into cells, and what cannot stand together is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.record import Record, RecordError, write
from benchmarks.report.cells import cells_of, groups_of, load
from device_runtime.protocol.errors import ConfigError
from tests.benchmarks.report.hand_made import DEVICE, EDGE, LOSSY, answer, at, group


def test_a_cell_holds_one_value_a_repeat() -> None:
    records = [
        answer(1, wall_s=0.6),
        answer(0, wall_s=0.4),
        answer(0, wall_s=0.8, prompt="list"),
        answer(2, wall_s=0.5),
        answer(3, wall_s=9.0, is_warmup=True),
    ]
    (cell,) = cells_of(records)
    estimate = cell.estimates["time_per_token_s"]
    assert estimate.values == pytest.approx((0.04, 0.04, 0.03))
    assert cell.median("time_per_token_s") == pytest.approx(0.04)
    assert cell.median("j_per_token") is None
    assert [len(repeat) for repeat in cell.repeats] == [2, 1, 1]
    assert cell.settings["gamma"] == 4 and "prompt" not in cell.settings


def test_a_repeat_without_a_figure_is_skipped() -> None:
    (cell,) = cells_of([answer(0), answer(1, engine_s=None), answer(2)])
    assert cell.estimates["engine_s_per_token"].num_repeats == 2
    assert cell.estimates["time_per_token_s"].num_repeats == 3


def test_groups_hold_arms_of_one_link_and_sampling_in_one_order() -> None:
    records = [
        answer(arm="dssd/8", gamma=8, sampling="greedy", temperature=0.0),
        answer(arm="dssd/8", gamma=8), answer(arm="dssd/2", gamma=2), answer(**EDGE),
        answer(link="starlink"), answer(sampling="greedy", temperature=0.0),
    ]  # fmt: skip
    found = [(g.link, g.sampling, [c.arm for c in g.cells]) for g in groups_of(cells_of(records))]
    assert found == [
        ("lte", "greedy", ["dssd/8", "dssd-thinned/4"]),
        ("lte", "T=1", ["edge", "dssd/2", "dssd/8"]),
        ("starlink", "T=1", ["dssd-thinned/4"]),
    ]


def test_lossy_arms_are_marked_and_never_the_best() -> None:
    found = group(at(20), at(10, **LOSSY), at(5, **DEVICE), at(30, **EDGE))
    labels = [cell.label for cell in found.cells]
    assert labels == ["device (lossy)", "edge", "dssd-thinned/4", "u-hlm/4 (lossy)"]
    best = found.best("time_per_token_s")
    assert best is not None and best.arm == "dssd-thinned/4" and best.is_split
    edge = found.reference("edge")
    assert edge is not None and not edge.is_split and found.reference("edge-draft") is None


def test_settings_that_differ_within_a_cell_are_refused() -> None:
    with pytest.raises(RecordError, match="dtype is 'float32' in one record and 'bfloat16'"):
        cells_of([answer(dtype="float32"), answer(dtype="bfloat16")])


def test_a_record_without_its_arm_is_refused() -> None:
    with pytest.raises(RecordError, match="lacks arm, lossless"):
        cells_of([answer(arm=None, lossless=None)])


def test_warm_ups_and_other_benches_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    other = Record.of("edge", answer().machine, {"arm": "x"})
    write(path, [answer(is_warmup=True), answer(1), other])
    assert [record.repeat for record in load(path)] == [1]
    assert load(tmp_path) == load(path)  # the folder that a run was told


def test_files_that_hold_no_run_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for named in (path, tmp_path):
        with pytest.raises(ConfigError, match=r"there is no .*results\.jsonl"):
            load(named)
    path.touch()
    with pytest.raises(ConfigError, match="it holds: nothing"):
        load(path)
    write(path, [Record.of("edge", {}, {})])
    with pytest.raises(ConfigError, match=r"no records of `tandem bench run` \(it holds: edge"):
        load(path)
    write(path, [answer(is_warmup=True)])
    with pytest.raises(ConfigError, match="warm-ups only"):
        load(path)
