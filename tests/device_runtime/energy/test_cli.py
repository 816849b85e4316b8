"""`tandem energy`, as a user calls it."""

from __future__ import annotations

import json

import pytest

from device_runtime import cli


def test_the_list_has_a_line_for_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["energy", "--profile", "raspberry-pi-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "ina", "ina3221", "pmic", "rapl", "nvml", "modelled",
    ]  # fmt: skip
    assert "modelled at wall" in lines[-1]


def test_a_reading_says_that_it_is_modelled_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["energy", "--read", "0.05", "--meter", "modelled", "--profile", "raspberry-pi-4"]
    assert cli.main(words) == 0
    assert "modelled at board_input" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["meter"]["kind"] == "modelled"
    assert data["energy"]["joules"] == pytest.approx(3.0 * 0.05, rel=0.9)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--read", "0"], "between 0 and"),
        (["--read", "1", "--meter", "pmic"], "Raspberry Pi 5"),
        (["--read", "1", "--profile", "nothing"], "no device profile"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["energy", *words]) == cli.EXIT_FAILURE
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
