"""What records say was measured, and that a run goes on with the same or not at all."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.machine import collect
from benchmarks.record import Record, RecordError, read, write
from benchmarks.report.cells import SHARED
from benchmarks.run import cli
from benchmarks.run.models import Models, checkpoint_digest
from benchmarks.run.settings import Settings
from device_runtime.bundle import load_manifest
from device_runtime.protocol.errors import ConfigError
from tests.tiny_bundle import make_bundle

LINK = "papers-20ms-50mbps"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle"))


def a_checkpoint(folder: Path, number: int = 0) -> Path:
    """What is looked at before an edge starts: a config and something of the size of weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "model.safetensors").write_bytes(bytes([number]) * (1 << 21))
    return folder


TOLD_APART = ("arm", "link", "sampling", "prompt", "prompt_kind", "seed", "device_seed")
"""Settings that answers of one cell differ in, or that make the cell."""


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = ("--quick", "--link", LINK, "--energy", "none", "--repeats", "1", *arguments)
    return parser.parse_args(words)


class Bench:
    """A command line with models of its own, and a file of what it would have measured."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.path = folder / "results.jsonl"
        self.llm = a_checkpoint(folder / "llm")
        self._words = ["--bundle", str(bundle), "--model", str(self.llm), "--out", str(folder)]
        self._words += ["--edge-draft", str(self.llm), "--arm", "edge-draft", "--arm", "dsd/2"]

    def args(self, *more: str) -> argparse.Namespace:
        return parsed(*self._words, *more)

    def finish(self) -> None:
        args = self.args()
        plan = cli.plan_from(args)
        settings = Settings.of(args, plan, Models.of(args, Console(quiet=True)), None)
        facts = collect()
        write(self.path, [
            Record.of("run", facts, settings.for_task(t), repeat=t.repeat, is_warmup=t.is_warmup)
            for t in plan.tasks(LINK)
        ])  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, bundle: Path) -> Bench:
    found = Bench(tmp_path, bundle)
    found.finish()
    return found


def test_a_finished_file_stays_as_it_is(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    before = bench.path.read_bytes()
    assert cli.run(bench.args()) == 0
    assert "holds 4 answers" in capsys.readouterr().out
    assert bench.path.read_bytes() == before


def test_records_name_what_was_measured(bench: Bench, bundle: Path) -> None:
    manifest = load_manifest(bundle)
    for record in read(bench.path):
        settings = record.settings
        assert (settings["slm"], settings["llm"]) == (manifest.source, "llm")
        assert (settings["weights"], settings["graph"]) == (manifest.weights, manifest.graph)
        assert settings["cache_dtype"] == manifest.cache_dtype
        assert settings["llm_digest"] == checkpoint_digest(bench.llm)
        assert ("edge_draft" in settings) == (settings["arm"] == "edge-draft")
        assert settings.keys() <= {*SHARED, *TOLD_APART}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--max-tokens", "64"], "max_tokens 16, and this run has 64"),
        (["--threads", "2"], "num_threads 1, and this run has 2"),
        (["--edge-threads", "2"], "edge_threads 0, and this run has 2"),
        (["--slow-start"], "slow_start False, and this run has True"),
        (["--dtype", "float64"], "dtype 'float32', and this run has 'float64'"),
        (["--energy", "modelled", "--profile", "raspberry-pi-4"], "device_profile not told"),
    ],
)
def test_a_run_with_other_settings_goes_elsewhere(
    bench: Bench, more: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"{words}.* another folder by --out"):
        cli.run(bench.args(*more))


def test_other_models_go_elsewhere(bench: Bench, tmp_path: Path) -> None:
    other = a_checkpoint(tmp_path / "other", number=1)
    with pytest.raises(ConfigError, match="llm 'llm', and this run has 'other'"):
        cli.run(bench.args("--model", str(other)))
    with pytest.raises(ConfigError, match="edge_draft 'llm', and this run has 'other'"):
        cli.run(bench.args("--edge-draft", str(other)))
    (tmp_path / "named").mkdir()
    same_name = other.rename(tmp_path / "named" / "llm")
    with pytest.raises(ConfigError, match="llm_digest"):
        cli.run(bench.args("--model", str(same_name)))
    more = make_bundle(tmp_path / "more", seed=1)
    with pytest.raises(ConfigError, match="slm_digest"):
        cli.run(bench.args("--bundle", str(more)))


def test_a_link_whose_numbers_changed_goes_elsewhere(bench: Bench) -> None:
    lines = bench.path.read_text()
    assert '"link_rtt_s": 0.02' in lines
    bench.path.write_text(lines.replace('"link_rtt_s": 0.02', '"link_rtt_s": 0.03'))
    with pytest.raises(ConfigError, match=r"link_rtt_s 0.03, and this run has 0.02"):
        cli.run(bench.args())


def test_another_machine_or_commit_is_told_before_anything_starts(bench: Bench) -> None:
    (version,) = {record.machine["python_version"] for record in read(bench.path)}
    bench.path.write_text(bench.path.read_text().replace(f'"{version}"', '"3.0.0"'))
    with pytest.raises(RecordError, match="python_version differs"):
        cli.run(bench.args())


def test_a_digest_follows_the_weights_wherever_they_lie(tmp_path: Path) -> None:
    first, same, other = (
        a_checkpoint(tmp_path / name, n) for name, n in (("a", 0), ("b", 0), ("c", 1))
    )
    assert checkpoint_digest(first) == checkpoint_digest(same) != checkpoint_digest(other)
    (same / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert checkpoint_digest(first) != checkpoint_digest(same)
