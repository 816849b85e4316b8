"""Every bench explains itself, and none is imported before it is named."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import BENCHES
from device_runtime.cli import main


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["bench", name, "--help"])
    assert done.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    assert f"{BENCHES[name][1]}." in help_text
    assert "--json" in help_text


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("device", "--weights"),
        ("edge", "--device"),
        ("edge", "--dtype"),
        ("weights", "--accuracy-level"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_made(
    name: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main(["bench", name, option, "3"])
    assert done.value.code == 2
    assert f"argument {option}: invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run", "schemes"])
def test_ways_of_sampling_that_hold_a_comma_are_told_apart(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", name, "--help"])
    assert "'T=0.8', 'T=1, top-p 0.95'," in " ".join(capsys.readouterr().out.split())


def test_the_list_of_benches_imports_none_of_them() -> None:
    code = (
        "import sys; from device_runtime.cli import main\n"
        "try: main(['bench', '--help'])\n"
        "finally: assert not {'torch', 'matplotlib', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n    {name}" in done.stdout for name in BENCHES)


def test_a_wrong_name_of_a_link_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "run", "--quick", "--link", "lan", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("tandem: no link profile 'lan'")


@pytest.mark.parametrize(
    ("name", "begins_with", "words"),
    [
        ("schemes", "exported_slm", ()),
        ("packing", "collect_rows", ()),
        ("weights", "_export", ("--text", __file__)),
    ],
)
def test_a_folder_that_cannot_be_is_refused_before_anything_is_measured(
    name: str, begins_with: str, words: tuple[str, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bench = importlib.import_module(BENCHES[name][0])
    monkeypatch.setattr(bench, begins_with, lambda *_: pytest.fail("a measurement"))
    (tmp_path / "file").touch()
    assert main(["bench", name, *words, "--out", str(tmp_path / "file")]) == 1
    assert "File exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("schemes", "--jobs", ()),
        ("weights", "--tokens", ("--text", __file__)),
        ("weights", "--threads", ("--text", __file__)),
    ],
)
def test_counts_that_cannot_be_are_one_line(
    name: str, option: str, words: tuple[str, ...], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["bench", name, *words, option, "-1", "--out", str(tmp_path / "out")]) == 1
    assert f"{option} is -1; it must be 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
