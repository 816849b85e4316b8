"""What `tandem bench edge` computes from what it hears; a short run over real sockets is slow."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import edge_floors
from benchmarks.edge_load import Heard, _difference, sessions_within
from benchmarks.edge_map import NONE, Cost, Setting, best, winners
from benchmarks.edge_passes import pass_s, pretend_read, random_engine
from benchmarks.edge_report import markdown, values_of
from benchmarks.edge_trace import Exchange, Trace, load, num_committed, save
from benchmarks.record import Record, read
from device_runtime.cli import main
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.messages import Ending, Verdict, encode
from edge_server.cache import num_blocks_for

ACCOUNTS = {
    "loop_cpu_s": 3.0, "law_cpu_s": 1.0, "num_laws": 900, "engine_s": 5.0, "num_judged": 400,
    "batch_jobs": [4, 8], "batch_tokens": [20, 40], "batch_s": [0.01, 0.03],
    "waited_s": [0.001, 0.002, 0.003], "cache_bytes": 4096, "num_sessions": 4, "rss_bytes": 10,
}  # fmt: skip


def heard() -> Heard:
    return Heard(1000, 400, [0.02] * 400, [0.1], [0.004, 0.006, 0.02], 0, 0, 10.0, ACCOUNTS)


def test_the_server_s_time_leaves_out_laws() -> None:
    values = values_of(heard())
    assert values["server_cpu_s_per_round"] == pytest.approx(2.0 / 400)
    assert values["law_cpu_s_per_round"] == pytest.approx(1.0 / 400)
    assert values["engine_s_per_token"] == pytest.approx(0.005)
    assert values["rounds_per_s"] == 40 and values["tokens_per_round"] == 2.5
    assert values["queue_p50_s"] == 0.002 and values["batch_jobs_mean"] == 6
    assert values["cache_bytes_per_session"] == 1024


def test_accounts_of_a_time_are_differences_of_totals_and_ends_of_lists() -> None:
    before = {"engine_s": 1.0, "batch_jobs": [1, 2], "cache_bytes": 7, "num_sessions": 1}
    after = {"engine_s": 1.5, "batch_jobs": [1, 2, 3], "cache_bytes": 9, "num_sessions": 2}
    expected = {"engine_s": 0.5, "batch_jobs": [3], "cache_bytes": 9, "num_sessions": 2}
    assert _difference(before, after) == expected


@pytest.mark.parametrize(
    ("limit_s", "expected"), [(0.005, 0), (0.01, 1), (0.02, 8), (0.03, 20), (1.0, 32)]
)
def test_sessions_held_within_a_limit(limit_s: float, expected: int) -> None:
    points = [(32, 0.04), (1, 0.01), (8, 0.02)]
    assert sessions_within(points, limit_s) == expected


def test_tokens_of_a_verdict() -> None:
    ended = encode(Verdict(0, 0, 3, Ending.NOTHING, b"", ()))
    rejected = encode(Verdict(0, 0, 2, Ending.REJECTION, b"\x00", ()))
    assert (num_committed(ended), num_committed(rejected)) == (3, 3)


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    trace = Trace(5, 3, 4, [Exchange("01", "02", 0), Exchange("0a", "0b", 4)])
    save(tmp_path / "traces", [trace, trace])
    assert load(tmp_path / "traces") == [trace, trace]
    assert (trace.num_tokens, trace.num_rounds) == (4, 1)


def test_the_report_tells_speedup_and_capacity() -> None:
    records = []
    for sessions, scale in ((1, 1.0), (32, 5.0)):
        values = values_of(heard())
        values["rounds_per_s"] *= scale
        values["per_token_p50_s"] *= scale
        settings = {"arm": "split", "sessions": sessions, "length_ratio": 0.0}
        records += [Record.of("edge", {}, {**settings, **values}, repeat=i) for i in range(3)]
    text = markdown(records, (0.01,))
    assert "split: 40 rounds/s with one session; 5.0× at 32." in text
    assert "6 at 10 ms" in text


def test_the_map_names_the_cheapest_arm_that_keeps_the_limit() -> None:
    found = [
        Cost("edge", 64, 1, 0.004, 0.004),
        Cost("edge", 64, 8, 0.008, 0.001),
        Cost("split", 64, 8, 0.050, 0.0005),
    ]
    assert winners(found, (64,), (0.001, 0.005, 0.01, 0.1)) == [
        [NONE],
        ["edge"],
        ["edge"],
        ["split"],
    ]
    assert best(found, "edge", 64, 0.005) == found[0]


def test_expected_tokens_of_a_round() -> None:
    assert Setting(alpha=0.5, gamma=2).tokens_per_round == pytest.approx(1.75)
    assert Setting(alpha=1.0, gamma=4).tokens_per_round == pytest.approx(5.0)


SMALL = edge_floors.LLAMA_8B | {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 512,
}  # fmt: skip


def test_passes_over_texts_that_were_never_read() -> None:
    engine = random_engine(SMALL, dtype=torch.float32, device=torch.device("cpu"), max_blocks=60)
    free = engine.num_free_blocks
    slots = pretend_read(engine, 3, 100)
    assert free - engine.num_free_blocks == 3 * num_blocks_for(100)
    for slot in slots:
        engine.drop(slot)
    assert pass_s(engine, 4, 64, 5, repeats=1) > 0
    assert engine.num_free_blocks == free
    assert edge_floors.gemms_s(engine.model, 20) > 0
    assert edge_floors.kv_read_s(engine, 2, 64) > 0


def test_bytes_of_the_8b_shape() -> None:
    assert edge_floors.kv_bytes_per_token(edge_floors.LLAMA_8B) == 131_072


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_floors_without_a_gpu_say_so(tmp_path: Path) -> None:
    from rich.console import Console

    with pytest.raises(ConfigError, match="CUDA"):
        edge_floors.run(tmp_path, Console(quiet=True))


@pytest.mark.gpu
def test_the_floors_run(tmp_path: Path) -> None:
    assert main(["bench", "edge", "--gpu-floors", "--out", str(tmp_path)]) == 0
    assert "ratio" in read(tmp_path / "results.jsonl")[0].results


@pytest.mark.slow
def test_a_short_run_gives_records_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--sessions", "1", "--sessions", "4", "--json", "--out", str(tmp_path)]
    assert main(["bench", "edge", *arguments]) == 0
    records = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(records) == 3 * 2 + 3
    assert all(record["results"]["verified_tokens_per_s"] > 0 for record in records)
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "table.md", "edge.png"}
