"""What `tandem bench edge` computes from what it hears; a short run over real sockets is slow."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import edge, edge_floors, edge_map, edge_replay
from benchmarks.edge_floors import Floor, Plan, gain_floor
from benchmarks.edge_load import (
    Heard,
    Load,
    LoadError,
    Player,
    _arrivals,
    _closed,
    _difference,
    sessions_within,
)
from benchmarks.edge_map import NONE, Cost, Setting, best, costs, winners
from benchmarks.edge_passes import model_of, pass_s, pretend_read, random_engine
from benchmarks.edge_replay import drafting_s, standing, stream_s, verify_s
from benchmarks.edge_report import held, markdown, values_of
from benchmarks.edge_trace import Exchange, Terms, Trace, load, num_committed, save
from benchmarks.record import Record, read
from device_runtime.cli import main
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ConfigError, ErrorCode
from device_runtime.protocol.judging import Judging
from device_runtime.protocol.messages import Begun, Ending, Refusal, Verdict, encode
from device_runtime.protocol.sampling import to_law
from edge_server.blocks import num_blocks_for
from edge_server.edge_draft import DraftingEngine

ACCOUNTS = {
    "loop_cpu_s": 3.0, "law_cpu_s": 1.0, "num_laws": 900, "engine_s": 5.0, "num_judged": 400,
    "batch_jobs": [4, 8], "batch_tokens": [20, 40], "batch_s": [0.01, 0.03],
    "waited_s": [0.001, 0.002, 0.003], "session_cache_bytes": [512, 2560, 0], "rss_bytes": 10,
}  # fmt: skip


def heard() -> Heard:
    return Heard(
        num_tokens=1000, num_rounds=400, round_s=[0.02] * 400, first_s=[0.1],
        per_token_s=[0.004, 0.006, 0.02], seconds=10.0, accounts=ACCOUNTS,
    )  # fmt: skip


def test_laws_are_the_engine_s_time_wherever_they_are_made_and_not_the_server_s() -> None:
    """Drafts of the edge's own have theirs made within the engine's batches: so all arms pay alike."""
    values = values_of(heard())
    assert values["server_cpu_s_per_round"] == pytest.approx(2.0 / 400)
    assert values["law_cpu_s_per_round"] == pytest.approx(1.0 / 400)
    assert values["engine_s_per_token"] == pytest.approx(0.006)
    assert values["engine_busy"] == pytest.approx(0.5)
    assert values["rounds_per_s"] == 40 and values["tokens_per_round"] == 2.5
    assert values["queue_p50_s"] == 0.002 and values["batch_jobs_mean"] == 6
    assert values["cache_bytes_per_session"] == 1024


def test_accounts_of_a_time_are_differences_of_totals_and_ends_of_lists() -> None:
    before = {"engine_s": 1.0, "batch_jobs": [1, 2], "rss_bytes": 7}
    after = {"engine_s": 1.5, "batch_jobs": [1, 2, 3], "rss_bytes": 9}
    expected = {"engine_s": 0.5, "batch_jobs": [3], "rss_bytes": 9}
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


TERMS = Terms("a1", "b2", "dssd-thinned", 4, 0.8, 0.9, 64, num_answers=2)
TRACE = Trace(5, 3, 4, [Exchange("01", "02", 0), Exchange("0a", "0b", 4)])


def test_traces_are_read_as_they_were_written(tmp_path: Path) -> None:
    save(tmp_path / "traces", [TRACE, TRACE], TERMS)
    assert load(tmp_path / "traces", TERMS) == [TRACE, TRACE]
    assert TRACE.num_tokens == 4


def runs(arm: str, **changes: Any) -> list[Record]:
    """Three repeats of each of two sizes, the slowest at 0.9 of the middle one, the fastest at 1.2."""
    records = []
    for sessions, scale in ((1, 1.0), (32, 5.0)):
        for repeat, luck in enumerate((1.0, 0.9, 1.2)):
            values = {**values_of(heard()), **changes}
            values["rounds_per_s"] *= scale * luck
            values["per_token_p50_s"] *= scale
            settings = {"arm": arm, "sessions": sessions, "length_ratio": 0.0, "think_s": 0.0}
            records.append(Record.of("edge", {}, {**settings, **values}, repeat=repeat))
    return records


def test_the_report_tells_speedup_and_capacity() -> None:
    records = runs("split")
    text = markdown(records, (0.01, 0.03))
    assert "split: 40 rounds/s with one session; 5.0× at 32." in text
    assert "| split | 32 | 200 [180–240] | 100 |" in text
    assert "6 at 10 ms, ≥ 32 at 30 ms" in text  # more than 32 were never tried
    assert "with one session" not in markdown(records[:3], (0.01,))  # nothing to compare with


def test_sessions_fewer_than_the_fewest_tried_are_not_called_none() -> None:
    """32 were tried, and miss 1 ms: one may keep it."""
    records = [record for record in runs("split") if record.settings["sessions"] == 32]
    assert "< 32 at 1 ms, ≥ 32 at 30 ms" in markdown(records, (0.001, 0.03))
    assert "0 at 1 ms" in markdown(runs("split"), (0.001,))


def test_sessions_held_are_records_too() -> None:
    found = [
        (record.settings["limit_s"], record.settings["sessions"], record.results["sessions_held"])
        for record in held(runs("split"), (0.001, 0.01, 0.03))
    ]
    assert found == [(0.001, 32, 0), (0.01, 32, 6), (0.03, 32, 32)]
    several = [record for record in runs("split") if record.settings["sessions"] == 32]
    assert not [*held(several, (0.001,))]


def test_slow_arrivals_are_no_closed_loop() -> None:
    """Answers of a thousand tokens arrive once in half a minute."""
    text = markdown([*runs("split"), *runs("split", arrivals_per_s=0.0333)], ())
    assert "| split | 32 | 200 [180–240] |" in text
    assert "| split | 0.0333 answers/s | 200 [180–240] |" in text


def test_the_report_says_whose_time_per_token_leaves_out_the_device() -> None:
    text = markdown([*runs("split"), *runs("edge+draft")], (0.01,))
    assert "split: sessions held within a time per token (the edge's part alone, at" in text
    assert "edge+draft: sessions held within a time per token: 6" in text
    assert "part alone" not in markdown(runs("split", think_s=0.1), (0.01,))


def test_the_report_tells_of_answers_that_were_lost() -> None:
    assert "answers" not in markdown(runs("split"), ()).partition("\n")[0]
    text = markdown([*runs("split"), *runs("edge", answers_flipped=2)], ())
    head, _, *rows = text.splitlines()
    assert head.endswith("| cache KiB a session | diverged answers |")
    ends = {row.split(" | ")[0].strip("| "): row.split(" | ")[-1] for row in rows[:4]}
    assert ends == {"split": "0 |", "edge": "6 |"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"llm": "c3"}, "llm a1, not c3:"),
        ({"scheme": "dssd", "gamma": 2}, "scheme dssd-thinned, not dssd; gamma 4, not 2:"),
        ({"temperature": 1.0}, "temperature 0.8, not 1.0:"),
        ({"max_tokens": 32}, "max_tokens 64, not 32: give the options as they were then"),
        ({"num_answers": 8}, "num_answers 2, not 8:"),
    ],
)
def test_answers_recorded_under_other_terms_are_not_replayed(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    """Each of them would diverge at once, or be measured under settings that it does not have."""
    save(tmp_path / "traces", [TRACE, TRACE], TERMS)
    with pytest.raises(ConfigError, match=f"were recorded with {expected}"):
        load(tmp_path / "traces", replace(TERMS, **changes))


def test_answers_that_are_not_all_there_are_not_replayed(tmp_path: Path) -> None:
    save(tmp_path / "traces", [TRACE], TERMS)
    with pytest.raises(ConfigError, match="cut off: 1 answers of 2 are there"):
        load(tmp_path / "traces", TERMS)


@pytest.mark.parametrize("content", ["", "[]", '{"prompt_tokens": 5}\n', '{"terms": 1}', "{"])
def test_a_file_without_terms_is_not_replayed(tmp_path: Path, content: str) -> None:
    (tmp_path / "traces").write_text(content)
    with pytest.raises(ConfigError, match="holds no answers of this version"):
        load(tmp_path / "traces", TERMS)


def test_what_cannot_be_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "exported_slm", lambda _: pytest.fail("an export"))
    out, traces = tmp_path / "out", tmp_path / "traces"
    save(traces, [TRACE, TRACE], TERMS)
    for words, expected in (
        (("--trace", str(traces)), "were recorded with"),
        (("--trace", str(tmp_path / "none" / "traces")), "there is no folder"),
        (("--think-ms", "-1"), "--think-ms is -1.0; it must be 0 or more"),
    ):
        assert main(["bench", "edge", "--out", str(out), *words]) == 1
        assert expected in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    "option", ["--max-tokens", "--repeats", "--gamma", "--sessions", "--replicas"]
)
def test_counts_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["bench", "edge", option, "0", "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert f"{option} is 0; it must be 1 or more" in capsys.readouterr().err


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


def test_the_map_is_of_the_device_and_link_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    class Started:
        def engines(self) -> list[object]:
            return [object.__new__(DraftingEngine)]

    def found(_: object, contexts: Any, sessions: Any, setting: Setting) -> list[Cost]:
        asked.append((tuple(sessions), setting.gamma, setting.think_s))
        return []

    monkeypatch.setattr(edge_map, "start", lambda *_, **__: Started())
    monkeypatch.setattr(edge_map, "costs", found)
    words = ["bench", "edge", "--map", "--out", str(tmp_path)]
    assert main([*words, "--gamma", "6", "--think-ms", "40", "--sessions", "16"]) == 0
    assert main([*words, "--quick"]) == 0
    assert asked == [((16,), 6, 0.04), ((1, 8, 32), 4, 0.14)]
    assert main([*words, "--think-ms", "-1"]) == 1


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
    assert edge_floors.gemms_s(model_of(engine), 20) > 0
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
    code = main(["bench", "edge", "--gpu-floors", "--out", str(tmp_path)])
    assert "ratio" in read(tmp_path / "results.jsonl")[0].results
    assert (code == 0) is ("MISSES" not in (tmp_path / "table.md").read_text())


TINY_PLAN = Plan(
    SMALL, SMALL | {"num_hidden_layers": 1}, sessions=3, new=3, context=64, contexts=(64, 128),
    counts=(1, 3), limits_s=(1e-6, 100.0), gain_context=128, gain_limit_s=100.0,
    numerics_layers=1, repeats=1, spare_bytes=0,
)  # fmt: skip


@pytest.fixture
def tiny_floors(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tandem bench edge --gpu-floors` on this processor, with models that take no time."""
    run = edge_floors.run

    def tiny(out: Path, console: Any) -> Any:
        return run(out, console, TINY_PLAN, torch.device("cpu"))

    monkeypatch.setattr(edge_floors, "run", tiny)
    monkeypatch.setattr(edge_floors, "SETTING", Setting(alpha=0.7, gamma=4, think_s=0.0))


@pytest.mark.usefixtures("tiny_floors")
@pytest.mark.parametrize(("most", "least"), [(1e9, 0.0), (1e-9, 0.0), (1e9, 1e9)])
def test_one_command_measures_all_floors_and_fails_where_one_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, least: float
) -> None:
    monkeypatch.setattr(edge_floors, "MAX_RATIO", most)
    monkeypatch.setattr(edge_floors, "MIN_GAIN", least)
    code = main(["bench", "edge", "--gpu-floors", "--out", str(tmp_path)])
    text = (tmp_path / "table.md").read_text()
    num_missed = (most < 1) + (least > 1)
    assert code == (1 if num_missed else 0)
    assert text.count("MISSES") == num_missed
    assert f"floors missed: {num_missed} of 3" in text
    for words in ("verify pass, 3 sessions × 3 tokens", "logits in bf16", "per GPU second"):
        assert words in text
    ratio, error, *map_ = read(tmp_path / "results.jsonl")
    assert ratio.results["pass_s"] > 0 and ratio.results["verify_p50_s"] > 0
    assert 0 < error.results["logit_error"] < 0.3
    assert {record.settings["arm"] for record in map_} == {"edge", "edge+draft", "split"}
    assert len(map_) == 3 * 2 * 2
    assert (tmp_path / "map.png").exists()


def test_the_gain_can_be_reached_at_all() -> None:
    """Device, link and an edge without any work of its own keep the limit, with time to spare."""
    setting, plan = edge_floors.SETTING, edge_floors.FLOORS
    left_s = plan.gain_limit_s * setting.tokens_per_round - setting.think_s
    assert 0.05 < left_s < 0.06
    assert plan.gain_context in plan.contexts


def test_the_gain_compares_the_best_of_both_arms_within_the_limit() -> None:
    plan = Plan({}, {}, gain_context=64, gain_limit_s=0.05)
    found = [
        Cost("edge", 64, 8, 0.02, 0.004), Cost("edge", 64, 64, 0.06, 0.001),
        Cost("split", 64, 8, 0.04, 0.0015), Cost("split", 32, 8, 0.04, 0.0001),
    ]  # fmt: skip
    floor = gain_floor(found, plan)
    assert floor.is_kept and "2.67 ×; keeps ≥ 2" in floor.text
    assert not gain_floor(found[1:], plan).is_kept
    assert "edge only cannot keep" in gain_floor(found[1:], plan).text
    assert not Floor.of("x", 1.36, "≤", 1.35).is_kept


# batches that are judged for real


def test_as_many_tokens_stand_as_the_acceptance_says() -> None:
    for alpha in (0.3, 0.7, 0.9):
        counts = [standing(number, 4, alpha) for number in range(4000)]
        for k in range(1, 5):
            assert sum(count >= k for count in counts) / 4000 == pytest.approx(alpha**k, abs=0.005)
    assert (standing(3, 4, 1.0), standing(3, 4, 0.0)) == (4, 0)


@pytest.mark.parametrize("together", [False, True])
def test_replayed_rounds_are_judged_and_end_as_they_were_made_up(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = random_engine(SMALL, dtype=torch.float32, device=torch.device("cpu"), max_blocks=60)
    monkeypatch.setattr(engine, "reads_together", together)
    free = engine.num_free_blocks
    seen: list[int] = []
    original = Judging.judge

    def judge(judging: Judging, rows: Any) -> Any:
        judgement = original(judging, rows)
        seen.append(judgement.num_accepted)
        return judgement

    monkeypatch.setattr(Judging, "judge", judge)
    timed = verify_s(engine, 4, 64, 4, alpha=0.7, repeats=3)
    assert sorted(seen) == sorted(standing(number, 4, 0.7) for number in range(16))
    assert timed.tokens_per_round == pytest.approx(sum(seen) / len(seen) + 1)
    assert timed.seconds > 0
    assert stream_s(engine, 4, 64, repeats=1) > 0
    assert engine.num_free_blocks == free


@pytest.mark.parametrize("together", [False, True])
def test_the_edge_s_own_drafts_are_timed_as_it_drafts_them(
    together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    engines = [
        random_engine(SMALL, dtype=torch.float32, device=cpu, max_blocks=60) for _ in range(2)
    ]
    for engine in engines:
        monkeypatch.setattr(engine, "reads_together", together)
    drafting = DraftingEngine(*engines)
    assert drafting_s(drafting, 3, 64, gamma=4, repeats=2) > 0
    assert drafting.num_passes == 3 * 4
    found = costs(drafting, (64,), (1, 400), Setting(), repeats=1)
    assert [cost.arm for cost in found] == ["edge", "edge+draft", "split"]  # 400 do not fit


def test_random_logits_have_nuclei_of_a_trained_model_s_size() -> None:
    shape = SMALL | {"vocab_size": 32_000}
    engine = random_engine(shape, dtype=torch.float32, device=torch.device("cpu"), max_blocks=9)
    (logits,) = engine.logits([(engine.open(), Job(tuple(range(40)), 8))])
    for row in logits:
        law = to_law(row.numpy(), edge_replay.SAMPLING, ())
        assert 2 <= len(law.ids) <= 1000


# what devices hear


class FakeSocket:
    """Answers as a test says."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)

    async def send_bytes(self, data: bytes) -> None:
        assert data

    async def receive_bytes(self) -> bytes:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("second", "flipped", "refused"),
    [(b"\2", 0, 0), (encode(Refusal(ErrorCode.BUSY, 0.001)), 0, 1), (encode(Begun(7)), 1, 0)],
)
async def test_a_refusal_is_no_flipped_answer(second: bytes, flipped: int, refused: int) -> None:
    trace = Trace(5, 3, 4, [Exchange("01", "01", 0), Exchange("02", "02", 4)])
    player = Player("http://x", [trace], Load("split", 1, 0.0, 0.0))
    player.counts = True
    socket: Any = FakeSocket(b"\1", second)
    await player._answer(socket, trace)
    assert (player.heard.num_flipped, player.heard.num_refused) == (flipped, refused)


async def test_a_stream_that_is_refused_is_counted_once_it_counts() -> None:
    trace = Trace(5, 3, 4, [Exchange("01", "01", 0)])
    player = Player("http://x", [trace], Load("edge", 1, 0.0, 0.0))
    busy = encode(Refusal(ErrorCode.BUSY, 0.001))
    for counts in (False, True):
        player.counts = counts
        socket: Any = FakeSocket(b"\1", busy)
        await player._answer(socket, trace)
    assert player.heard.num_refused == 1


@pytest.mark.parametrize("source", [_arrivals, _closed])
async def test_errors_end_the_run_and_are_told_by_their_kinds(source: Any) -> None:
    load = Load("split", 3, 0.0, 0.0, arrivals_per_s=1000.0)
    gone = asyncio.Event()

    class Broken(Player):
        async def arrive(self, http: Any, number: int) -> None:
            if number == 2:
                gone.set()
            await gone.wait()
            raise ConnectionError("gone") if number else TypeError("closed")

        loop = arrive

    http: Any = None
    words = r": 2 × ConnectionError \(gone\), 1 × TypeError \(closed\); mend"
    with pytest.raises(LoadError, match=words):
        await asyncio.wait_for(source(Broken("http://x", [], load), http, load), 10)


def test_a_run_that_is_interrupted_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = iter(runs("split")[:2])

    def measure(bench: edge.Bench, *_: Any, **__: Any) -> None:
        bench.records.append(next(done, None) or interrupt())

    def interrupt() -> Record:
        raise KeyboardInterrupt

    monkeypatch.setattr(edge, "exported_slm", lambda _: tmp_path)
    monkeypatch.setattr(edge.Bench, "record_traces", lambda _: None)
    monkeypatch.setattr(edge.Bench, "measure", measure)
    assert main(["bench", "edge", "--quick", "--out", str(tmp_path)]) == 130
    assert len(read(tmp_path / "results.jsonl")) == 2
    assert "| split |" in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_short_run_gives_records_a_table_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--quick", "--sessions", "1", "--sessions", "4", "--json", "--out", str(tmp_path)]
    assert main(["bench", "edge", *arguments, "--live"]) == 0
    records = json.loads(capsys.readouterr().out.splitlines()[-1])
    capacities = [record for record in records if record["bench"] == "edge-held"]
    records = [record for record in records if record not in capacities]
    assert len(records) == 3 * 2 + 3 + 2 and len(capacities) == 4 * len(edge.LIMITS_S)
    assert all(record["results"]["verified_tokens_per_s"] > 0 for record in records)
    live = [record for record in records if record["settings"]["arm"] == "split-live"]
    assert all(record["results"]["alpha"] > 0.3 for record in live)
    expected = "bfloat16" if torch.cuda.is_available() else "float32"
    assert {record["settings"]["dtype"] for record in records} == {expected}
    assert {path.name for path in tmp_path.iterdir()} == {"results.jsonl", "table.md", "edge.png"}
