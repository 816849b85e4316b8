"""`tandem bench papers`, as a user calls it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import papers_cli
from benchmarks.record import Record, write
from device_runtime.cli import main
from tests.benchmarks.report.hand_made import EDGE, at

DSSD: dict[str, Any] = {"arm": "dssd/4", "scheme": "dssd"}
FAR: dict[str, Any] = {"link": "far|off", "link_rtt_s": 0.2}


def arm(ms_per_token: float, **changes: Any) -> Iterator[Record]:
    counted = {"num_ids": 1000, "more_requests": 0, "drafted": 16}
    return at(ms_per_token, tpot_s=ms_per_token / 1e3, **counted, **changes)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    write(path, [*arm(20), *arm(30, **DSSD), *arm(55, **EDGE), *arm(250, **FAR)])
    return path


def test_its_tables_are_the_report_s(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "papers", str(results)]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    tables = [block.splitlines() for block in blocks if block.startswith("|")]
    assert all(len({len(line) for line in table}) == 1 for table in tables), "columns are padded"
    ratios, models, speed_ups = ([split(line) for line in table] for table in tables)
    assert ratios[0][-2:] == ["dssd-thinned over dssd", "dssd-thinned over dsd"]
    assert ratios[2] == [
        "lte", "T=1", "4", "18.2", "33.3", "50.0", "1.50 [1.50, 1.50]", "–",
    ]  # fmt: skip
    assert ratios[3] == ["far\\|off", "T=1", "4", "–", "–", "4.0", "–", "–"]
    assert {row[0]: row[5] for row in models[2:] if row[1] == "lte"} == dict.fromkeys(
        ("dssd-thinned/4", "dssd/4", "edge"), "calibration"
    )
    assert [row[4] for row in speed_ups[2:]] == ["2.75", "1.83"]


def test_the_default_scheme_is_compared_though_another_was_faster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    lucky = arm(10, arm="coupled/4", scheme="coupled")
    write(path, [*arm(20), *lucky, *arm(30, **DSSD)])
    assert main(["bench", "papers", str(path)]) == 0
    out = capsys.readouterr().out
    assert "1.50 [1.50, 1.50]" in out and "100.0" in out, "the table shows the other one, too"
    assert "in brackets a range that holds it with a chance of at least 94%" in out
    write(path, [*arm(10, arm="coupled/4", scheme="coupled"), *arm(30, **DSSD)])
    assert main(["bench", "papers", str(path)]) == 0
    assert "coupled over dssd" in capsys.readouterr().out


def test_arms_that_share_no_prompt_have_no_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    write(path, [*arm(20), *arm(30, prompt="another", **DSSD)])
    assert main(["bench", "papers", str(path)]) == 0
    ratios = [split(line) for line in capsys.readouterr().out.splitlines() if line[:5] == "| lte"]
    assert ratios[0] == ["lte", "T=1", "4", "33.3", "50.0", "–", "–"]


def split(line: str) -> list[str]:
    """The cells of a row, bars within them as they are written."""
    return [cell.strip() for cell in line.strip("| ").split(" | ")]


def test_it_writes_them_into_the_document_too(
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = tmp_path / "document.md"
    document.write_text("before\n<!-- here -->\n<!-- end of here -->\nafter\n")
    monkeypatch.setattr(papers_cli, "DOCS", document)
    assert main(["bench", "papers", str(results), "--docs", "here"]) == 0
    shown = capsys.readouterr().out.strip()
    assert shown in document.read_text() and document.read_text().endswith("\nafter\n")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_ids": None}, "lack first_tokens or num_ids"),
        ({"first_tokens": None}, "lack first_tokens or num_ids"),
        ({"tpot_s": None}, "dssd/4 over lte has no time per token"),
    ],
)
def test_records_that_cannot_fill_the_tables_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], expected: str
) -> None:
    path = tmp_path / "results.jsonl"
    counted = {"num_ids": 1000, "more_requests": 0, "drafted": 16, "tpot_s": 0.02}
    write(path, at(20, **{**counted, **DSSD, **changes}))
    assert main(["bench", "papers", str(path)]) == 1
    assert expected in capsys.readouterr().err


def test_streams_are_no_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over every link they are given the time of their calibration, whatever that time was."""
    near: dict[str, Any] = {"link": "near", "link_rtt_s": 0.01}
    path = tmp_path / "results.jsonl"
    every = [*arm(20, **near), *arm(20), *arm(55, **EDGE, **near), *arm(55, **EDGE)]
    write(path, every)
    assert main(["bench", "papers", str(path)]) == 0
    assert "of 1 predictions of split arms" in capsys.readouterr().out
