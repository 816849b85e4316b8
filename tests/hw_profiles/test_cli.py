"""`tandem profiles` as users see it."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import hw_profiles
from device_runtime.cli import main
from hw_profiles import link_names, names


def test_the_list_names_every_file_and_the_grid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "list"]) == 0
    shown = capsys.readouterr().out
    for name in (*names(), *link_names()):
        assert name.startswith("papers-") or f"\n{name} " in shown
    assert "27 links of the papers' grid" in shown
    assert max(map(len, shown.splitlines())) <= 110


def test_the_list_as_json_holds_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "list", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert tuple(row["name"] for row in shown["devices"]) == names()
    assert tuple(row["name"] for row in shown["links"]) == link_names()


def test_show_gives_value_kind_measuring_point_and_numbered_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["profiles", "show", "raspberry-pi-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    idle = next(line for line in lines if line.strip().startswith("idle_w"))
    assert idle.strip().startswith("idle_w  3 W, measured at wall [")
    number = idle[idle.index("[") :]
    assert any(line.startswith(f"  {number} https://") for line in lines)


@pytest.mark.parametrize("name", [*names(), *link_names()])
def test_every_profile_can_be_shown_within_the_width(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles", "show", name]) == 0
    shown = capsys.readouterr().out
    assert "None" not in shown
    # Only an address may be longer than the line.
    assert all(len(line) <= 100 or "https://" in line for line in shown.splitlines())


def test_show_as_json_holds_the_source_of_each_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "show", "lte", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["up_bps"]["value"] == 31e6
    assert "SIGCOMM21-5G" in shown["up_bps"]["source"]
    assert shown["radio"]["tail_s"]["kind"] == "measured"


def test_an_unknown_name_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profiles", "show", "rasberry-pi-5"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("tandem: no device or link profile 'rasberry-pi-5'")
    assert "did you mean 'raspberry-pi-5'?" in captured.err


def test_without_an_action_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["profiles"])
    assert stopped.value.code == 2
    assert "list,show" in capsys.readouterr().err


def test_profiles_and_doctor_need_only_the_standard_library() -> None:
    # A fresh board has nothing yet: -S leaves out site-packages. tomli stands in on 3.10.
    paths = [Path(hw_profiles.__file__).parents[1]]
    if sys.version_info < (3, 11):
        paths.append(Path(importlib.import_module("tomli").__file__ or "").parents[1])
    script = f"""
import sys
sys.path[:0] = {list(map(str, paths))!r}
import hw_profiles.cli, device_runtime.doctor
own = {{"__main__", "hw_profiles", "device_runtime", "tomli"}}
print(sorted({{name.partition(".")[0] for name in sys.modules}} - sys.stdlib_module_names - own))
"""
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
