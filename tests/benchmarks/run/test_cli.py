"""The grid from the command line, with real processes: measured, killed, gone on with."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.record import read
from benchmarks.run import cli
from benchmarks.run.models import Models
from benchmarks.run.parts import PARTS
from benchmarks.run.plan import Arm, Plan, key_of
from benchmarks.run.presets import QUICK
from device_runtime.protocol.errors import ConfigError
from hw_profiles import ProfileError

SMALL = [
    "--quick", "--link", "papers-20ms-50mbps", "--arm", "dssd-thinned/4", "--arm", "edge",
    "--arm", "device", "--repeats", "3", "--energy", "none",
]  # fmt: skip


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(arguments)


def test_options_narrow_the_preset() -> None:
    plan = cli.plan_from(parsed("--quick", "--arm", "dsd/2", "--link", "lte", "--max-tokens", "9"))
    assert ([arm.name for arm in plan.arms], plan.links) == (["dsd/2"], ("lte",))
    assert (plan.max_tokens, plan.repeats) == (9, QUICK.repeats)
    (kind,) = {p.kind for p in cli.plan_from(parsed("--prompt-kind", "modern")).prompts}
    assert kind == "modern"


def test_wrong_options_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--repeats is 0"):
        cli.plan_from(parsed("--repeats", "0"))
    with pytest.raises(ConfigError, match="--threads is 0"):
        cli.plan_from(parsed("--threads", "0"))
    with pytest.raises(ProfileError, match="no link profile 'lta'"):
        cli.run(parsed("--out", str(tmp_path), "--link", "lta"))
    with pytest.raises(ConfigError, match="--num-ids widens the demo pair"):
        cli.run(parsed("--out", str(tmp_path), "--num-ids", "9000", "--model", "llm"))


def test_a_model_of_ones_own_brings_its_own_draft_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    class Bench:
        path, num_there = tmp_path, 0

        def __init__(self, _: argparse.Namespace, plan: Plan, __: object) -> None:
            seen.append([arm.name for arm in plan.arms])

        def measure(self) -> None:
            pass

    monkeypatch.setattr(cli, "Bench", Bench)
    own = ["--out", str(tmp_path), "--model", "llm", "--quick"]
    for more in ([], ["--edge-draft", "slm"], ["--arm", "edge"]):
        assert cli.run(parsed(*own, *more)) == 0
    every = [arm.name for arm in QUICK.arms]
    assert seen == [[name for name in every if name != "edge-draft"], every, ["edge"]]
    assert capsys.readouterr().err.count("one arm is left out: edge-draft needs --edge-draft") == 1
    with pytest.raises(ConfigError, match="arm edge-draft needs --edge-draft FOLDER"):
        cli.run(parsed(*own, "--arm", "edge-draft"))


def test_halves_run_as_they_would_elsewhere_unless_told() -> None:
    console = Console(quiet=True)
    own = Models.of(parsed("--model", "llm", "--bundle", "slm"), console)
    assert own.edges(QUICK.arms)[False].arguments == ("--dtype", own.dtype)
    told = Models.of(
        parsed("--model", "llm", "--bundle", "slm", "--dtype", "bfloat16", "--edge-threads", "3"),
        console,
    )
    plain = ("--dtype", "bfloat16", "--threads", "3")
    specs = told.edges(QUICK.arms)
    assert specs[False].arguments == plain
    assert specs[True].arguments[:-1] == (*plain, "--edge-draft")
    assert told.edges([Arm.parse("device")]) == {}


def command(out: Path) -> list[str]:
    return [sys.executable, "-m", "device_runtime", "bench", "run", *SMALL, "--out", str(out)]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    process = subprocess.Popen([*command(tmp_path), "--json"], stdout=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 6:
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = path.read_bytes()
    path.write_bytes(before[:-40])  # as if it had died in the middle of a line
    done = subprocess.run(
        [*command(tmp_path), "--json"], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {"results": str(path)}
    whole = before[: before.rfind(b"\n", 0, len(before) - 40) + 1]
    assert path.read_bytes().startswith(whole)
    records = read(path)
    plan = cli.plan_from(parsed(*SMALL))
    assert {key_of(r) for r in records} == {t.key for t in plan.tasks(plan.links[0])}
    num_warmups = sum(record.is_warmup for record in records)
    assert len(records) - num_warmups == plan.num_answers
    assert len(plan.arms) < num_warmups <= 2 * len(plan.arms)  # those that went on began cold
    texts: dict[object, object] = {}
    for record in records:
        results = record.results
        # A warm-up that came again wrote the same: nothing was drawn that the record does not tell.
        assert texts.setdefault(key_of(record), results["token_ids"]) == results["token_ids"]
        assert len(results["token_ids"]) == plan.max_tokens
        if record.settings["arm"] == "dssd-thinned/4" and "round_wall_s" in results:
            parts = [results[f"round_{name}_s"] for name in PARTS]
            assert sum(parts) == pytest.approx(results["round_wall_s"])
            assert 0 <= results["link_late_s"] < 0.1 and 0 <= results["link_late_share"] <= 1
            assert "link_realtime" in record.settings
            assert results["round_up_s"] >= 0.01 and results["round_down_s"] >= 0.01
    subprocess.run(command(tmp_path), check=True, capture_output=True)
    assert read(path) == records
