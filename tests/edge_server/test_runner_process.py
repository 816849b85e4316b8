"""A model in a process of its own: the same logits and errors, and nobody waits for a dead one."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from device_runtime.protocol.edge_states import Job
from edge_server.batch import Piece
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.engine import TorchEngine
from edge_server.failures import describe
from edge_server.logs import use_format
from edge_server.runner import LostRunnerError
from edge_server.runner_process import (
    PassFailedError,
    RunnerProcess,
    _Regions,
    read_pieces,
    written_pieces,
)
from tests.runners import another
from tests.tiny_models import NUM_TOKENS

MAX_BLOCKS = 90


def text(length: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(NUM_TOKENS, (length,), generator=generator).tolist())


def start(
    folder: Path, num_ids: int = NUM_TOKENS, dtype: torch.dtype = torch.float64
) -> RunnerProcess:
    return RunnerProcess(Checkpoint.open(folder), num_ids=num_ids, dtype=dtype, num_threads=1)


@pytest.fixture(scope="module")
def runner(checkpoint: Callable[[str], Path]) -> Iterator[RunnerProcess]:
    process = start(checkpoint("llama"))
    process.wait_until_ready()
    yield process
    process.close()


@pytest.fixture(scope="module")
def far(runner: RunnerProcess) -> TorchEngine:
    """The only engine on the process: the blocks' numbers are its own."""
    return TorchEngine(runner, num_ids=NUM_TOKENS, context_len=256, max_blocks=MAX_BLOCKS)


@pytest.fixture(scope="module")
def near(llama: TorchEngine) -> TorchEngine:
    """The same model in this process."""
    return TorchEngine(another(llama), num_ids=NUM_TOKENS, context_len=256, max_blocks=MAX_BLOCKS)


def test_requests_are_read_as_they_were_written() -> None:
    pieces = [Piece((3, 1, 4), 7, (2, 9), 2), Piece([5], 0, [1], 0), Piece((1, 2), 0, (3, 4, 5), 2)]
    found = read_pieces(list(written_pieces(pieces)))
    assert [(*p.token_ids, p.start, *p.blocks, p.num_rows) for p in found] == [
        (*p.token_ids, p.start, *p.blocks, p.num_rows) for p in pieces
    ]
    assert read_pieces([]) == []


def test_logits_are_bit_for_bit_those_of_a_model_in_this_process(
    near: TorchEngine, far: TorchEngine
) -> None:
    """Through prompts, rounds, rollbacks, growth of the pools, wiped blocks and empty passes."""
    slots = [[engine.open() for engine in (near, far)] for _ in range(20)]
    for turn in range(4):
        jobs = [
            Job(text(30 + 11 * i, seed=i)[: 90 + turn] + text(2 + turn, seed=turn), i % 3)
            for i in range(20)
        ]
        both = []
        for number, engine in enumerate((near, far)):
            batch = [(own[number], job) for own, job in zip(slots, jobs, strict=True)]
            both.append(engine.logits(batch))
        for ours, theirs in zip(*both, strict=True):
            assert ours.dtype == torch.float64
            assert torch.equal(ours, theirs)
        for own in slots[::3]:
            near.drop(own[0])
            far.drop(own[1])
    assert far.runner.block_bytes == near.runner.block_bytes


def test_logits_that_are_still_read_are_not_written_over(far: TorchEngine) -> None:
    slot = far.open()
    (first,) = far.logits([(slot, Job(text(12, seed=1), 3))])
    kept = first.clone()
    for seed in range(2, 6):
        far.logits([(slot, Job(text(12, seed=seed), 3))])
    assert torch.equal(first, kept)
    far.drop(slot)


def test_memory_is_used_again_once_nothing_reads_it() -> None:
    regions = _Regions()
    offset, memory = regions.take(100)
    numbers = torch.frombuffer(memory, dtype=torch.float32, count=4)[1:]
    del memory
    gc.collect()
    other, held = regions.take(100)
    assert other != offset  # the tensor reads it
    del numbers
    gc.collect()
    taken, large = regions.take(100)[0], regions.take(1 << 20)[1]
    assert taken == offset
    assert len(held) < len(large) == 1 << 20
    regions.close()
    large[:2] = b"ok"  # stays as long as it is held


def test_a_failed_pass_is_named_without_the_text_and_the_next_one_runs(far: TorchEngine) -> None:
    slot, good = far.open(), Job(text(5, seed=3), 1)
    with pytest.raises(PassFailedError, match=r"IndexError at .*runner_main") as failed:
        far.logits([(slot, Job((1, 2, 999_999), 1))])
    assert "999" not in str(failed.value)
    assert "IndexError at" in describe(failed.value)  # what the log says
    (logits,) = far.logits([(slot, good)])
    assert logits.shape == (1, far.logits([(far.open(), good)])[0].shape[1])


def test_a_model_that_cannot_be_served_is_refused_as_in_this_process(
    checkpoint: Callable[[str], Path],
) -> None:
    process = start(checkpoint("llama"), num_ids=5000)
    with pytest.raises(CheckpointError, match="5000 ids"):
        process.wait_until_ready()


def test_a_process_that_died_is_an_error_that_says_so(checkpoint: Callable[[str], Path]) -> None:
    process = start(checkpoint("llama"), dtype=torch.float32)
    process.wait_until_ready()
    assert process.run([Piece((1,), 0, (1,), 1)]).dtype == torch.float32
    process.check()
    os.kill(process._process.pid, signal.SIGKILL)
    process._process.wait(10)
    with pytest.raises(LostRunnerError, match="runs llama was ended by SIGKILL, mostly for lack"):
        process.check()
    for _ in range(2):
        with pytest.raises(
            LostRunnerError, match="runs llama was ended by SIGKILL, mostly for lack"
        ):
            process.run([Piece((1,), 0, (1,), 1)])
    process.close()


def test_it_interrupts_nobody_who_is_awake(runner: RunnerProcess) -> None:
    assert os.sched_getscheduler(runner._process.pid) == os.SCHED_BATCH


def test_it_ends_with_the_process_that_started_it(
    checkpoint: Callable[[str], Path], runner: RunnerProcess
) -> None:
    """Also while it loads; and with nothing that a supervisor or a terminal sends to all at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(runner._process.pid, number)
    assert runner.run([Piece((1,), 0, (1,), 1)]).shape[0] == 1
    loading = start(checkpoint("llama"))
    loading._pipe.close()  # what the system does when a process ends
    assert loading._process.wait(20) == 0


def test_it_logs_in_the_format_of_the_server(
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "spare"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler()])
    use_format("json")
    process = start(folder)
    process.wait_until_ready()
    process.close()
    (line,) = map(json.loads, capfd.readouterr().err.splitlines())
    assert line["level"] == "warning"
    assert line["message"].startswith("spare brings code of its own")


def test_modules_beside_a_checkpoint_are_never_imported(
    checkpoint: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "json", "edge_server"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    process = start(checkpoint("llama"))
    process.wait_until_ready()
    process.close()
