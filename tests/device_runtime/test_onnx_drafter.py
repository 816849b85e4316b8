from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from device_runtime.cancellation import in_thread
from device_runtime.drafter import Drafter
from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from device_runtime.protocol.errors import LocalError
from tests.tiny_bundle import TinyShape, make_bundle

SHAPE = TinyShape()
ONE_THREAD = RuntimeSettings(num_threads=1)
Row = NDArray[np.float32]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bundles")
    return {graph: make_bundle(root / graph, graph) for graph in ("optimum", "fused")}


@pytest.fixture(params=["optimum", "fused"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def random_ids(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, SHAPE.vocab_size, count)


def drafted(folder: Path, *blocks: NDArray[np.int64]) -> Row:
    """The last row after appending the blocks to a fresh drafter."""
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    for block in blocks:
        row = drafter.append(block)
    return row.copy()


def without_cache(folders: dict[str, Path], ids: NDArray[np.int64]) -> Row:
    """Logits after ids by one run of the plain graph, fed by hand."""
    session = ort.InferenceSession(folders["optimum"] / "model.onnx")
    empty = np.zeros((1, SHAPE.num_kv_heads, 0, SHAPE.head_size), np.float32)
    feeds: dict[str, NDArray[Any]] = {item.name: empty for item in session.get_inputs()}
    feeds["input_ids"] = ids[None]
    feeds["attention_mask"] = np.ones((1, len(ids)), np.int64)
    feeds["position_ids"] = np.arange(len(ids))[None]
    row: Row = session.run(["logits"], feeds)[0][0, -1]
    return row


def test_every_row_equals_a_run_without_cache(folder: Path, folders: dict[str, Path]) -> None:
    drafter: Drafter = OnnxDrafter.open(folder, ONE_THREAD)
    ids = random_ids(24)
    at = 0
    for size in (9, 1, 1, 3, 1, 2, 7):
        row = drafter.append(ids[at : at + size])
        at += size
        np.testing.assert_allclose(row, without_cache(folders, ids[:at]), atol=2e-5)
        assert row.dtype == np.float32
        assert row.shape == (SHAPE.vocab_size,)
        assert drafter.num_tokens == at


def test_rows_after_a_rollback_equal_those_of_a_drafter_that_never_drafted(folder: Path) -> None:
    prompt, committed, drafts = random_ids(11), random_ids(2, 1), random_ids(4, 2)
    for num_kept in range(5):
        drafter = OnnxDrafter.open(folder, ONE_THREAD)
        drafter.append(prompt)
        for token in drafts:
            drafter.append(token[None])
        drafter.truncate(len(prompt) + num_kept)
        row = drafter.append(committed)
        kept = [token[None] for token in drafts[:num_kept]]
        assert np.array_equal(row, drafted(folder, prompt, *kept, committed))


def test_a_rollback_into_the_prompt_forgets_the_rest_of_it(folder: Path) -> None:
    prompt = random_ids(11)
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    drafter.append(prompt)
    drafter.truncate(4)
    row = drafter.append(random_ids(3, 1))
    np.testing.assert_allclose(row, drafted(folder, prompt[:4], random_ids(3, 1)), atol=2e-5)
    drafter.truncate(0)
    assert np.array_equal(drafter.append(prompt), drafted(folder, prompt))


def test_many_rounds_of_drafting_and_rollback_drift_nowhere(
    folder: Path, folders: dict[str, Path]
) -> None:
    random = np.random.default_rng(3)
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    ids = list(random_ids(3))
    drafter.append(np.array(ids))
    while len(ids) < SHAPE.context_len - 6:
        for token in random_ids(4, len(ids)):
            drafter.append(token[None])
        num_accepted = int(random.integers(0, 2))
        ids += [*random_ids(4, len(ids))[:num_accepted], int(random.integers(SHAPE.vocab_size))]
        drafter.truncate(len(ids) - 1)
        row = drafter.append(np.array(ids[-1:]))
    np.testing.assert_allclose(row, without_cache(folders, np.array(ids)), atol=5e-5)


def test_both_graphs_agree(folders: dict[str, Path]) -> None:
    blocks = random_ids(20), random_ids(1, 1), random_ids(3, 2)
    fused, optimum = (drafted(folders[graph], *blocks) for graph in ("fused", "optimum"))
    np.testing.assert_allclose(fused, optimum, atol=2e-5)


@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_a_prompt_in_chunks_gives_the_logits_of_one_run(folder: Path, chunk: int) -> None:
    drafter = OnnxDrafter.open(folder, RuntimeSettings(num_threads=1, prefill_chunk=chunk))
    prompt = random_ids(20)
    np.testing.assert_allclose(drafter.append(prompt), drafted(folder, prompt), atol=2e-5)


def test_the_same_runs_give_the_same_bits(folder: Path) -> None:
    blocks = random_ids(20), random_ids(1, 1), random_ids(2, 2)
    assert np.array_equal(drafted(folder, *blocks), drafted(folder, *blocks))


def test_a_full_cache_is_refilled_with_the_last_half_of_its_length(folder: Path) -> None:
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    ids = random_ids(SHAPE.context_len + 1)
    drafter.append(ids[:-1])
    row = drafter.append(ids[-1:]).copy()
    assert drafter.num_tokens == len(ids)
    assert np.array_equal(row, drafted(folder, ids[-SHAPE.context_len // 2 :]))


def test_a_prompt_beyond_the_cache_is_drafted_from_its_tail(folder: Path) -> None:
    ids = random_ids(3 * SHAPE.context_len)
    row = drafted(folder, ids)
    assert np.array_equal(row, drafted(folder, ids[-SHAPE.context_len // 2 :]))


def test_the_cache_is_never_longer_than_the_settings_allow(folder: Path) -> None:
    drafter = OnnxDrafter.open(folder, RuntimeSettings(num_threads=1, max_tokens=16))
    ids = random_ids(17)
    assert np.array_equal(drafter.append(ids), drafted(folder, ids[-8:]))


def test_a_rollback_after_a_refill_keeps_the_tail(folder: Path) -> None:
    ids, half = random_ids(SHAPE.context_len + 4), SHAPE.context_len // 2
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    drafter.append(ids)
    drafter.truncate(len(ids) - 3)
    row = drafter.append(ids[:1])
    tail = ids[-half:-3]
    np.testing.assert_allclose(row, drafted(folder, tail, ids[:1]), atol=2e-5)


def test_a_rollback_before_the_tail_starts_from_the_whole_text_again(folder: Path) -> None:
    ids = random_ids(SHAPE.context_len + 4)
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    drafter.append(ids)
    drafter.truncate(10)
    assert drafter.num_tokens == 10
    assert np.array_equal(drafter.append(ids[10:12]), drafted(folder, ids[:12]))


def test_long_texts_keep_rows_finite_and_counts_absolute(folder: Path) -> None:
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    for token in random_ids(3 * SHAPE.context_len):
        assert np.isfinite(drafter.append(token[None])).all()
    assert drafter.num_tokens == 3 * SHAPE.context_len


def test_ids_that_only_the_llm_knows_count_as_id_0(folder: Path) -> None:
    unknown = np.array([5, SHAPE.vocab_size, 7, SHAPE.vocab_size + 1000])
    assert np.array_equal(drafted(folder, unknown), drafted(folder, np.array([5, 0, 7, 0])))


def test_illegal_calls_are_refused_and_change_nothing(folder: Path) -> None:
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    drafter.append(random_ids(5))
    with pytest.raises(ValueError, match="one or more ids"):
        drafter.append(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="one or more ids"):
        drafter.append(np.zeros((1, 2), np.int64))
    with pytest.raises(LocalError, match="-1"):
        drafter.append(np.array([3, -1]))
    for num_tokens in (-1, 6):
        with pytest.raises(ValueError, match="cannot truncate 5 tokens"):
            drafter.truncate(num_tokens)
    assert drafter.num_tokens == 5
    row = drafter.append(random_ids(1, 1))
    assert np.array_equal(row, drafted(folder, random_ids(5), random_ids(1, 1)))


def test_a_failed_run_leaves_the_drafter_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = OnnxDrafter.open(folder, ONE_THREAD)
    prompt = random_ids(5)
    drafter.append(prompt)

    def fail(token_ids: NDArray[np.int64], num_past: int) -> Row:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(drafter._graph, "run", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            drafter.append(random_ids(2, 1))
    assert drafter.num_tokens == 5
    assert np.array_equal(drafter.append(random_ids(1)), drafted(folder, prompt, random_ids(1)))


async def test_a_cancelled_run_ends_after_the_chunk_at_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = OnnxDrafter.open(folder, RuntimeSettings(num_threads=1, prefill_chunk=4))
    run, begun, goes_on = drafter._graph.run, threading.Event(), threading.Event()
    chunks = []

    def watched(token_ids: NDArray[np.int64], num_past: int) -> Row:
        chunks.append(num_past)
        begun.set()
        goes_on.wait()
        return run(token_ids, num_past)

    monkeypatch.setattr(drafter._graph, "run", watched)
    reading = asyncio.create_task(in_thread(drafter.append, random_ids(40)))
    assert await asyncio.to_thread(begun.wait, 20)
    reading.cancel()
    await asyncio.sleep(0.01)
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (chunks, drafter.num_tokens) == ([0], 0)
    prompt = random_ids(5, 1)
    assert np.array_equal(drafter.append(prompt), drafted(folder, prompt[:4], prompt[4:]))
