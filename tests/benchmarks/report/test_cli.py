"""`tandem bench report` and `tandem bench compare`, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from benchmarks.record import Record, write
from device_runtime.cli import main
from tests.benchmarks.report.hand_made import EDGE, answer, at


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results.jsonl"
    write(path, [answer(is_warmup=True), *at(20, 0.5), *at(55, **EDGE)])
    return path


@pytest.fixture
def slower(tmp_path: Path) -> Path:
    path = tmp_path / "slower.jsonl"
    write(path, [*at(22, 0.5), *at(55, **EDGE)])
    return path


def test_a_report_is_three_files_and_its_headlines(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "report", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2.75× faster: dssd-thinned/4 writes a token in 20.0 ms [19.5–20.5]")
    written = [line.removeprefix("written: ") for line in lines if line.startswith("written: ")]
    assert written == [str(results.with_name(f"report.{kind}")) for kind in ("html", "md", "csv")]
    assert all(Path(path).stat().st_size > 500 for path in written)


def test_a_report_goes_where_it_is_told_and_speaks_json(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    assert main(["bench", "report", str(results), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"][0] == str(out / "report.html") and (out / "report.csv").is_file()
    assert len(said["headlines"]) == 4 and said["doubts"] == []


def test_a_runs_folder_is_as_good_as_its_file(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "report", str(results.parent), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"][0] == str(results.with_name("report.html"))


def test_doubts_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.jsonl"
    write(path, at(20, repeats=2))
    assert main(["bench", "report", str(path)]) == 0
    assert "WARNING: Every cell has 2 repeats" in capsys.readouterr().out


def test_a_comparison_fails_only_when_told_to(
    results: Path, slower: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = [str(results), str(slower)]
    assert main(["bench", "compare", *pair]) == 0
    out = capsys.readouterr().out
    assert "| **slower** |" in out and out.endswith("1 same, 1 slower\n")
    assert main(["bench", "compare", *pair, "--fail-over", "5"]) == 1
    assert main(["bench", "compare", *pair, "--fail-over", "15"]) == 0
    assert main(["bench", "compare", *reversed(pair), "--fail-over", "0"]) == 0


Files = Callable[[Iterable[Record], Iterable[Record]], list[str]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Two runs as files, by their names."""

    def written(before: Iterable[Record], after: Iterable[Record]) -> list[str]:
        paths = [tmp_path / "before.jsonl", tmp_path / "after.jsonl"]
        for path, records in zip(paths, (before, after), strict=True):
            write(path, records)
        return [str(path) for path in paths]

    return written


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ([*at(20, repeats=3)], [*at(200, repeats=3)], "Fewer than 5 repeats decide nothing"),
        ([*at(20, repeats=1)], [*at(20, repeats=1)], "(1 and 1)"),
        ([*at(20), *at(55, **EDGE)], [*at(20)], "The second run lacks: edge over lte at T=1."),
        ([*at(20, max_tokens=16)], [*at(9, max_tokens=64)], "These differ: max_tokens."),
        ([*at(20)], [*at(20, seed=2)], "These differ: prompts and seeds."),
        ([*at(20)], [*at(9, governor="performance")], "These differ: governor."),
    ],
)
def test_runs_that_cannot_tell_fail_where_a_margin_was_given(
    before: list[Record],
    after: list[Record],
    reason: str,
    files: Files,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair = files(before, after)
    assert main(["bench", "compare", *pair]) == 0
    assert "WARNING: " in capsys.readouterr().out
    assert main(["bench", "compare", *pair, "--fail-over", "5"]) == 1
    said = capsys.readouterr()
    assert "verdict |" in said.out, "the table is shown all the same"
    assert "cannot judge these runs" in said.err and reason in said.err
    assert "--repeats 5" in said.err


def test_another_program_may_be_judged(files: Files) -> None:
    pair = files(at(20, torch_version="1", git_commit="a"), at(20, torch_version="2"))
    assert main(["bench", "compare", *pair, "--fail-over", "5"]) == 0


def test_a_figure_that_was_not_measured_is_no_success(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--figure", "time_per_token_s", "--figure", "j_per_token"]
    assert main(["bench", "compare", str(results), str(results), *asked]) == 1
    assert "that has j_per_token in both" in capsys.readouterr().err


def test_a_comparison_speaks_json(
    results: Path, slower: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--json", "--figure", "ttft_s", "--figure", "time_per_token_s"]
    assert main(["bench", "compare", str(results), str(slower), *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    verdicts = [(cell["arm"], cell["figure"], cell["verdict"]) for cell in said["cells"]]
    assert ("dssd-thinned/4", "time_per_token_s", "slower") in verdicts
    assert ("edge", "ttft_s", "same") in verdicts
    assert said["differences"] == {} and said["gaps"] == []


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_files_that_are_not_there(
    verb: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [str(results)] if verb == "compare" else []
    assert main(["bench", verb, "nowhere.jsonl", *more]) == 1
    assert "there is no nowhere.jsonl; `tandem bench run` writes one" in capsys.readouterr().err


def test_runs_that_share_nothing(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    write(other, at(20, link="starlink"))
    assert main(["bench", "compare", str(results), str(other)]) == 1
    assert "share no arm over the same link" in capsys.readouterr().err


def test_a_negative_margin_is_refused(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "compare", str(results), str(results), "--fail-over", "-1"]) == 1
    assert "--fail-over must be 0 or more" in capsys.readouterr().err


def test_a_cut_line_is_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write_text(results.read_text()[:-30])
    assert main(["bench", "report", str(results)]) == 1
    assert f"{results}, line 11: not JSON" in capsys.readouterr().err
