"""Sessions as the device runs them: rejected drafts leave no trace, and 2,000 tokens drift nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from tests.tiny_models import NUM_TOKENS, save_checkpoint, tiny_model

Export = Callable[..., int]
Rows = NDArray[np.float32]

CONTEXT_LEN = 2304
SESSION_TOKENS = 2000
GREEDY_TOKENS = 64
GAMMA = 4
SETTINGS = RuntimeSettings(num_threads=1, max_tokens=CONTEXT_LEN, prefill_chunk=64)

LOGIT_ATOL = 1e-4
"""Logits are about 8 at the most, and sums over 2,000 positions come in another order: 3e-5 seen."""

GRAPHS = {
    "fused, fp32": ("--graph", "fused", "--weights", "fp32"),
    "optimum, fp32": ("--graph", "optimum", "--weights", "fp32"),
    "fused, int4, level 4": ("--graph", "fused", "--weights", "int4", "--accuracy-level", "4"),
    "fused, int8, level 4": ("--graph", "fused", "--weights", "int8", "--accuracy-level", "4"),
    "fused, int8-dynamic": ("--graph", "fused", "--weights", "int8-dynamic"),
    "optimum, int4, level 4": ("--graph", "optimum", "--weights", "int4", "--accuracy-level", "4"),
}


def random_ids(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(4, NUM_TOKENS, count)


@pytest.mark.parametrize("kind", GRAPHS)
def test_rows_after_a_rollback_equal_those_of_a_drafter_that_never_drafted(
    kind: str, llama: Path, export: Export, tmp_path: Path
) -> None:
    """Bit for bit, in runs of the same shapes, with activations rounded to int8, too."""
    assert export(llama, "--out", tmp_path / "out", *GRAPHS[kind], "--json") == 0
    prompt, drafts, committed = random_ids(11, 0), random_ids(GAMMA, 1), random_ids(2, 2)
    for num_kept in range(GAMMA + 1):
        drafter, fresh = (OnnxDrafter.open(tmp_path / "out", SETTINGS) for _ in range(2))
        drafter.append(prompt)
        for token in drafts:
            drafter.append(token[None])
        drafter.truncate(len(prompt) + num_kept)
        fresh.append(prompt)
        for token in drafts[:num_kept]:
            fresh.append(token[None])
        assert np.array_equal(drafter.append(committed), fresh.append(committed))


@pytest.fixture(scope="module")
def long_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model("llama", max_position_embeddings=CONTEXT_LEN)
    return save_checkpoint(model, tmp_path_factory.mktemp("long") / "llama")


def session(drafter: OnnxDrafter) -> tuple[list[int], list[tuple[int, Rows]]]:
    """2,000 tokens in rounds of greedy drafts, of which chance accepts some and adds one.

    All ids, and (number of ids before it, row) of every run that stood.
    """
    random = np.random.default_rng(7)
    ids = [int(id_) for id_ in random_ids(5, 3)]
    row = drafter.append(np.array(ids))
    rows = [(len(ids), row.copy())]
    while len(ids) < SESSION_TOKENS:
        drafts: list[int] = []
        for _ in range(GAMMA):
            drafts.append(int(row.argmax()))
            row = drafter.append(np.array(drafts[-1:]))
            rows.append((len(ids) + len(drafts), row.copy()))
        num_accepted = int(random.integers(GAMMA + 1))
        ids += [*drafts[:num_accepted], int(random.integers(4, NUM_TOKENS))]
        rows = [entry for entry in rows if entry[0] < len(ids)]
        # One token is run, or two, as after a verdict: the last accepted draft once more.
        drafter.truncate(max(len(ids) - 2, drafter.num_tokens - GAMMA))
        row = drafter.append(np.array(ids[drafter.num_tokens :]))
        rows.append((len(ids), row.copy()))
    return ids, rows


def greedy(drafter: OnnxDrafter, row: Rows) -> list[int]:
    written = [int(row.argmax())]
    while len(written) < GREEDY_TOKENS:
        written.append(int(drafter.append(np.array(written[-1:])).argmax()))
    return written


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["fused", "optimum"])
def test_a_session_of_2000_tokens_drifts_nowhere(
    graph: str, long_llama: Path, export: Export, tmp_path: Path
) -> None:
    options = ("--graph", graph, "--weights", "fp32", "--json")
    assert export(long_llama, "--out", tmp_path / "out", *options) == 0
    drafter = OnnxDrafter.open(tmp_path / "out", SETTINGS)
    ids, rows = session(drafter)
    written = greedy(drafter, rows[-1][1])
    model: Any = tiny_model("llama", max_position_embeddings=CONTEXT_LEN)
    with torch.inference_mode():
        exact = model(input_ids=torch.tensor([ids + written]), use_cache=False).logits[0].numpy()
    assert written == exact[len(ids) - 1 : -1].argmax(-1).tolist()
    assert len(rows) > 0.9 * SESSION_TOKENS
    errors = [float(np.abs(row - exact[count - 1]).max()) for count, row in rows]
    print(f"\n{graph}: {len(rows)} rows, largest error {max(errors):.1e}, last {errors[-1]:.1e}")
    assert max(errors) < LOGIT_ATOL
    wrong = [count for count, row in rows if row.argmax() != exact[count - 1].argmax()]
    assert wrong == []
