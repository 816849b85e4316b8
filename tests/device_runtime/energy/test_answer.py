"""`tandem run --energy`: windows of an answer, joules per token, and what is printed."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pytest

from device_runtime import run_cli
from device_runtime.energy.answer import AnswerEnergy, measured, metered
from device_runtime.energy.meter import MeterError, MeterFacts
from device_runtime.transcript import Transcript
from tests.tiny_bundle import make_bundle


class Counter:
    """A counter of 10 W, and the clock it counts by, which stands still between sleeps."""

    facts = MeterFacts(
        name="fake", kind="measured", point="wall", covers="all", unit="j", period_s=1e3
    )

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def read(self) -> float:
        return 10.0 * self.now_s

    def close(self) -> None:
        pass


class Broken(Counter):
    """Cannot be read."""

    def read(self) -> float:
        raise OSError("EIO")


def transcript(num_tokens: int, started_s: float) -> Transcript:
    """The first token came after 20 ms, the last 30 ms later."""
    answer = Transcript.__new__(Transcript)
    answer.started_s = started_s
    answer.token_ids = list(range(num_tokens))
    answer.times_s = [started_s + 0.02, started_s + 0.05] if num_tokens else []
    return answer


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    counter = Counter()
    monkeypatch.setattr(time, "sleep", counter.sleep)
    return counter


def energy_of(num_tokens: int, meter: Counter) -> AnswerEnergy:
    with measured(meter, 5.0, meter.clock) as after:
        answer = transcript(num_tokens, meter.now_s)
        meter.now_s += 0.06
        energy = after(answer)
    assert energy is not None
    return energy


def test_an_answer_has_prefill_and_decode_and_joules_per_token(meter: Counter) -> None:
    energy = energy_of(5, meter)
    phases = energy.report.phases
    assert phases["prefill"].gross_j == pytest.approx(0.2)
    assert phases["decode"].gross_j == pytest.approx(0.3)
    assert phases["answer"].gross_j == pytest.approx(0.5)
    assert energy.report.idle_w == pytest.approx(10.0)
    values = energy.to_dict()
    assert values["gross_j_per_token"] == pytest.approx(0.1)
    assert values["net_j_per_token"] == pytest.approx(0.0, abs=1e-6)
    line, *_ = energy.notes()
    assert "500 mJ, 100 mJ per token" in line
    assert "(measured at wall, fake)" in line


def test_an_answer_without_tokens_has_no_joules_per_token(meter: Counter) -> None:
    energy = energy_of(0, meter)
    assert set(energy.report.phases) == {"answer"}
    assert energy.to_dict()["gross_j_per_token"] is None
    assert "per token" not in energy.notes()[0]


def test_a_meter_that_cannot_be_read_is_said_before_anything_is_written() -> None:
    with pytest.raises(MeterError, match="cannot be read"), measured(Broken(), rest_s=0.0):
        pytest.fail("the block was entered")


def test_without_a_meter_nothing_is_measured() -> None:
    with metered(None, None) as after:
        assert after(transcript(1, 0.0)) is None


def test_run_prints_the_joules_of_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(time, "sleep", rests.append)
    bundle = make_bundle(tmp_path / "tiny")
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    words = [
        "hello", "--bundle", str(bundle), "--device-only", "--max-tokens", "4",
        "--energy", "modelled", "--profile", "raspberry-pi-5",
    ]  # fmt: skip
    assert run_cli.run(parser.parse_args([*words, "--json"])) == 0
    energy = json.loads(capsys.readouterr().out)["energy"]
    assert (energy["kind"], energy["point"]) == ("modelled", "wall")
    assert energy["gross_j_per_token"] > 0
    assert set(energy["phases"]) == {"answer", "prefill", "decode"}
    assert rests == [5.0, 5.0]
    assert run_cli.run(parser.parse_args(words)) == 0
    assert "(modelled at wall, modelled)" in capsys.readouterr().err
