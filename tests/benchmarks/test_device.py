"""`tandem bench device`: a run on a tiny bundle, contexts that do not fit, and fairness to peers."""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.device import cli, measure, models, report
from benchmarks.device.measure import OWN_KINDS, Measured, Phase, Round
from benchmarks.device.models import Contender, PeerError
from benchmarks.device.tandem_arm import TandemArm
from benchmarks.record import read
from device_runtime.energy.meter import MeterFacts
from device_runtime.protocol.errors import ConfigError
from tests.tiny_bundle import TinyShape, make_bundle

CONTEXT_LEN, TOKENS, ROUNDS = 256, 8, 2


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a real run, its processes included, and what was said on stderr."""
    root = tmp_path_factory.mktemp("bench")
    bundle = make_bundle(root / "tiny", shape=TinyShape(context_len=CONTEXT_LEN))
    words = ["--bundle", str(bundle), "--threads", "1", "--out", str(root / "out")]
    words += ["--rounds", str(ROUNDS), "--tokens", str(TOKENS)]
    with pytest.MonkeyPatch.context() as patch, (root / "stderr").open("w") as stderr:
        patch.setattr(cli, "NUM_STARTS", 1)
        patch.setattr(cli, "_meter", lambda: None)
        patch.setattr(sys, "stderr", stderr)
        assert cli.run(arguments(*words)) == 0
    return root / "out", (root / "stderr").read_text()


def test_the_table_names_what_was_measured_and_nothing_else(results: tuple[Path, str]) -> None:
    lines = (results[0] / "table.md").read_text().splitlines()
    assert lines[0] == "## tiny, 1 threads"
    head, _, *rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert [name for name in head if name.startswith("ms per token")] == ["ms per token at 32"]
    (row,) = (dict(zip(head, cells, strict=True)) for cells in rows)
    assert (row["contender"], row["weights"], row["times ours"]) == ("tandem", "fp32", "1.00")
    text = "\n".join(lines)
    assert "% of drafting is spent outside onnxruntime." in text
    assert "Energy: no meter on this machine." in text
    assert "Versions: tandem: onnxruntime " in text
    assert "peers" not in text


def test_contexts_beyond_the_bundle_are_left_out_with_a_sentence(
    results: tuple[Path, str],
) -> None:
    assert "contexts left out: 512, 2048; the model has 256 positions" in results[1]
    assert "so with --tokens 8 they end at 248" in results[1]


def test_csv_and_records_hold_every_round_and_mark_the_warm_up(results: tuple[Path, str]) -> None:
    records = read(results[0] / "results.jsonl")
    assert [(r.bench, r.repeat, r.is_warmup) for r in records] == [
        ("device", number, number == 0) for number in range(ROUNDS + 1)
    ]
    with (results[0] / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        settings, found = record.settings, record.results
        assert settings["context_tokens"] == int(row["context_tokens"]) == 32
        assert (settings["num_threads"], settings["runtime"]) == (1, "tandem")
        for key in ("token_s", "prefill_s", "bare_run_s", "draft_token_s", "start_s"):
            assert found[key] == float(row[key]) > 0
        assert 0 < found["outside_share"] < 1
        assert found["runtime_peak_rss_bytes"] >= found["runtime_rss_bytes"] > 10e6
        assert row["j_per_token"] == "" and "j_per_token" not in found


def fitting(context_len: int, *words: str) -> tuple[int, ...]:
    return cli._fitting(arguments(*words), context_len, Console(quiet=True))


@pytest.mark.parametrize(
    ("context_len", "words", "expected"),
    [
        (8192, (), (32, 512, 2048)),
        (2112, (), (32, 512, 2048)),
        (2111, (), (32, 512)),
        (256, ("--tokens", "8"), (32,)),
        (256, ("--tokens", "8", "--contexts", "248", "16"), (248, 16)),
    ],
)
def test_contexts_that_fit_are_measured(
    context_len: int, words: tuple[str, ...], expected: tuple[int, ...]
) -> None:
    assert fitting(context_len, *words) == expected


@pytest.mark.parametrize(
    ("context_len", "words", "expected"),
    [
        (256, ("--contexts", "32", "249", "--tokens", "8"), "249: the model has 256 .* end at 248"),
        (64, (), "32, 512, 2048: the model has 64 positions, so with --tokens 64 they end at 0"),
        (256, ("--contexts", "0"), "--contexts 0: "),
    ],
)
def test_contexts_that_were_asked_for_and_do_not_fit_are_refused(
    context_len: int, words: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        fitting(context_len, *words)


@pytest.mark.parametrize("option", ["--rounds", "--threads"])
def test_counts_that_cannot_be_are_refused_before_anything_is_made(
    tmp_path: Path, option: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=f"{option} is 0; it must be 1 or more"):
        cli.run(arguments("--bundle", str(tmp_path), option, "0", "--out", str(out)))
    assert not out.exists()


def test_too_few_tokens_to_measure_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--tokens 7: at least 8 are needed"):
        cli.run(arguments("--bundle", str(make_bundle(tmp_path)), "--tokens", "7"))


@pytest.mark.parametrize(("words", "spins"), [((), True), (("--no-spinning",), False)])
def test_threads_spin_unless_told_otherwise(
    words: tuple[str, ...], spins: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[dict[str, Any]] = []

    def start(_: object, spec: dict[str, Any], *rest: object) -> None:
        told.append(spec["settings"])
        raise PeerError("enough")

    monkeypatch.setattr(cli, "_start", start)
    bundle = make_bundle(tmp_path, shape=TinyShape(context_len=CONTEXT_LEN))
    with pytest.raises(PeerError, match="enough"):
        cli.run(arguments("--bundle", str(bundle), "--out", str(tmp_path / "out"), *words))
    assert [settings["allow_spinning"] for settings in told] == [spins]


def measured(*names: str) -> Measured:
    own = {kind: [0.5, 0.5] for kind in OWN_KINDS}
    rounds = [
        Round(name, 32, number, 1.0, [0.1, 0.1], 0.2, {}, own if "tandem" in name else {})
        for number in range(2)
        for name in names
    ]
    return Measured(
        rounds, [1e-10], [0.7], joules_per_token={32: 0.02}, idle_w=1.0, meter=Meter.facts
    )


def run_of(*names: str, spinning: bool = True) -> report.Run:
    contenders = tuple(Contender(n, "tandem", Path(), Path(__file__), "int4") for n in names)
    versions = dict.fromkeys(names, "1")
    return report.Run("tiny", 2, (32,), contenders, versions, 100, spinning, measured(*names))


def test_the_table_says_whose_threads_spin() -> None:
    alone = "\n".join(report.markdown(run_of(models.OWN)))
    assert "spin" not in alone
    among = "\n".join(report.markdown(run_of(models.OWN, "llama.cpp")))
    assert "Tandem's spin in a run and stop with it; its peers keep their own" in among
    asked = "\n".join(report.markdown(run_of(models.OWN, "llama.cpp", spinning=False)))
    assert "Tandem's sleep whenever they wait, as asked for" in asked


def test_start_and_joules_are_told_of_the_arm_that_they_were_measured_on() -> None:
    rows = list(report.records(run_of(models.OWN, models.ON_OPTIMUM, "llama.cpp")))
    told = {row["runtime"]: row.keys() & {"start_s", "j_per_token", "bare_run_s"} for row in rows}
    assert told == {
        models.OWN: {"start_s", "j_per_token", "bare_run_s"},
        models.ON_OPTIMUM: {"bare_run_s"},
        "llama.cpp": set(),
    }


def test_tandems_runtime_runs_optimums_graph_beside_optimums_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the table tells what comes from the graph and what from the runtime."""
    made: list[tuple[str, ...]] = []

    def bundle(shape: str, graph: str, weights: str, console: Console) -> Path:
        made.append((shape, graph, weights))
        return tmp_path

    def peer_file(kind: str, *rest: Any) -> Path:
        raise PeerError(f"no {kind} here")

    monkeypatch.setattr(models, "_bundle", bundle)
    monkeypatch.setattr(models, "_optimum", lambda *_: tmp_path)
    monkeypatch.setattr(models, "_peer_file", peer_file)
    monkeypatch.setattr(models, "_checkpoint", lambda *_: tmp_path)
    peers = Path("/peers/python")
    found = {c.name: c for c in models.peers("smollm2-135m", "int4", peers, Console(quiet=True))}
    assert list(found) == [models.ON_OPTIMUM, "optimum", "transformers"]
    own, other = found[models.ON_OPTIMUM], found["optimum"]
    assert (own.arm, own.python) == ("tandem", Path(sys.executable))
    assert (other.arm, other.python) == ("optimum", peers)
    assert own.weights == other.weights == "int4"
    assert own.model == other.model
    assert made == [("smollm2-135m", "optimum", "int4")]


class Pip:
    """Keeps what would be installed; can fail as pip does where an index lacks a build."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.lacks_torch = False

    def __call__(self, command: Sequence[str], environment: Any = None) -> None:
        self.commands.append(list(command))
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)
        if self.lacks_torch and "--no-deps" in command:
            raise PeerError("no matching distribution")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pip:
    monkeypatch.setattr(models, "CACHE", tmp_path)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    fake = Pip()
    monkeypatch.setattr(models, "_checked", fake)
    return fake


@pytest.mark.parametrize("index", [None, "https://example.org/cpu"])
def test_peers_get_the_torch_that_is_here_and_the_projects_pins(
    index: str | None, pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same build, so no CUDA where there is none; the second index is asked for torch alone."""
    if index is not None:
        monkeypatch.setenv("TORCH_INDEX", index)
    models.peer_python(None, Console(quiet=True))
    _, first, second = pip.commands
    torch = f"torch=={version('torch')}"
    assert [word for word in first if word.startswith("torch")] == [torch]
    assert "--no-deps" in first and torch in second
    assert ("--extra-index-url" in first) == (index is not None) and (
        index is None or index in first
    )
    assert "--extra-index-url" not in second
    for command in (first, second):
        assert command[command.index("--constraint") + 1] == str(models.CONSTRAINTS)
    models.peer_python(None, Console(quiet=True))
    assert len(pip.commands) == 3  # made once


def test_what_the_project_pins_is_pinned_in_one_place_only() -> None:
    pinned = {line.partition("==")[0] for line in models.CONSTRAINTS.read_text().splitlines()}
    for package in models.PEER_PACKAGES:
        name, _, number = package.partition("==")
        assert (name in pinned) == (not number) or name == "onnx_ir", package


def test_a_torch_that_no_index_has_is_one_sentence_with_the_way_out(pip: Pip) -> None:
    pip.lacks_torch = True
    with pytest.raises(PeerError, match="TORCH_INDEX=URL names an index that has torch=="):
        models.peer_python(None, Console(quiet=True))


def test_a_python_that_is_given_is_taken_as_it_is(pip: Pip) -> None:
    assert models.peer_python(Path("/mine"), Console(quiet=True)) == Path("/mine")
    assert pip.commands == []


class Metered:
    """A contender whose tokens take a joule for each 100 tokens before them."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._length = 0

    def ask(self, do: str, *, count: int, kind: str = "") -> dict[str, Any]:
        if do == "prefill":
            self._length = count
            return {"prefill_s": 0.0}
        for place in range(count):
            self._meter.joules += (self._length + place) / 100
        if kind != "again":
            self._length += count
        return {"steps_s": [0.01] * count}


class Meter:
    facts = MeterFacts("fake", "measured", "board_input", "everything", "j", period_s=10.0)

    def __init__(self) -> None:
        self.joules = 0.0

    def read(self) -> float:
        return self.joules

    def close(self) -> None:
        pass


def test_joules_are_metered_at_the_context_that_their_row_names() -> None:
    meter = Meter()
    arm: Any = Metered(meter)
    plan = [Phase(32, 12, 64), Phase(2048, 3, 32)]
    joules, idle_w = measure.energy(arm, meter, plan, 0.05)
    assert joules == pytest.approx({32: 0.635, 2048: 20.635}, rel=0.01)
    assert idle_w == 0.0
    run = replace(run_of(models.OWN), contexts=(32, 2048))
    own = {kind: [0.5] for kind in OWN_KINDS}
    run.measured.rounds.append(Round(models.OWN, 2048, 1, 1.0, [0.1], 0.2, {}, own))
    run.measured.joules_per_token = joules
    told = {row["context_tokens"]: row["j_per_token"] for row in report.records(run)}
    assert told == joules
    run.measured.joules_per_token = {32: 0.02, 2048: 0.0312}
    text = "\n".join(report.markdown(run))
    assert "Energy: mJ per token 20.0 at 32, 31.2 at 2048, gross; idle 1.0 W (measured at " in text


def test_joules_say_that_they_were_measured_by_what_and_where() -> None:
    run = run_of(models.OWN, "llama.cpp")
    row, peer_row = (cli._record({}, row) for row in list(report.records(run))[2:])
    names = ("energy_kind", "energy_meter", "energy_point")
    assert [row.results[name] for name in names] == ["measured", "fake", "board_input"]
    assert not peer_row.results.keys() & {*names, "j_per_token"}
    assert "(measured at board_input, fake: everything)." in "\n".join(report.markdown(run))


def test_tokens_are_written_again_after_the_same_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path)
    settings = {"num_threads": 1, "max_tokens": 64}
    arm = TandemArm({"model": str(bundle), "settings": settings})
    first = arm.prefill([1, 2, 3])
    written = [first := arm.step(first) for _ in range(4)]
    step, seen = arm.step, list[int]()

    def watched(token_id: int) -> int:
        seen.append(step(token_id))
        return seen[-1]

    monkeypatch.setattr(arm, "step", watched)
    assert len(arm.kinds["again"](4)) == len(arm.kinds["again"](4)) == 4
    assert seen == [*written, *written]


PARENT = """
import sys, time
from pathlib import Path
from benchmarks.device.arms import ArmProcess
from benchmarks.device.models import Contender
memory = Contender("memory", "memory", Path(sys.executable), Path(sys.argv[1]), "")
with ArmProcess(memory, {"num_threads": 1}, Path(sys.argv[1])) as arm:
    print(arm._process.pid, flush=True)
    time.sleep(60)
"""


def wait_for_state(pid: str, states: str) -> None:
    """Until a process is in one of these states, as /proc names them; Z is that of one that is gone."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            state = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = "Z"
        if state in states:
            return
        assert time.monotonic() < deadline_s, f"{pid} is in state {state}"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_stopped_contender_ends_with_a_bench_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "log")]
    with subprocess.Popen(command, cwd=models.ROOT, stdout=subprocess.PIPE, text=True) as bench:
        try:
            assert bench.stdout is not None
            pid = bench.stdout.readline().strip()
            wait_for_state(pid, "T")
        finally:
            bench.kill()
    wait_for_state(pid, "Z")


def test_an_arm_that_does_not_start_is_left_out_and_tandems_own_must(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    log = tmp_path / "log"
    console = Console(quiet=True)
    spec = {
        "num_threads": 1, "max_tokens": 64,
        "settings": {"num_threads": 1, "max_tokens": 64},
    }  # fmt: skip
    here = Path(sys.executable)
    own = Contender(models.OWN, "tandem", here, bundle, "fp32")
    broken = Contender("broken", "no such arm", here, bundle, "fp32")
    with contextlib.ExitStack() as stack:
        arms = cli._start([own, broken], spec, log, stack, console)
        assert [arm.contender.name for arm in arms] == [models.OWN]
        answer = arms[0].ask("decode", count=3, kind="greedy")
        assert len(answer["steps_s"]) == 3 and json.dumps(answer)
    with contextlib.ExitStack() as stack, pytest.raises(PeerError):
        cli._start([broken, own], spec, log, stack, console)
