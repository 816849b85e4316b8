from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_runtime.bundle import Bundle
from device_runtime.cached_graph import CachedGraph, open_graph
from device_runtime.protocol.errors import BundleError, ErrorCode, LocalError, TandemError
from device_runtime.settings import RuntimeSettings
from tests.tiny_bundle import TinyShape, make_bundle

MAX_LEN = 20


def opened(folder: Path) -> CachedGraph:
    return open_graph(Bundle.open(folder), RuntimeSettings(num_threads=1), MAX_LEN)


@pytest.mark.parametrize("kind", ["optimum", "fused"])
def test_a_run_that_does_not_fit_into_the_cache_is_refused(tmp_path: Path, kind: str) -> None:
    graph = opened(make_bundle(tmp_path, kind))
    fits = graph.run(np.arange(MAX_LEN - 1), 0)
    assert np.isfinite(fits).all()
    for num_tokens, num_past in ((2, MAX_LEN - 1), (1, MAX_LEN), (MAX_LEN + 1, 0), (1, -1), (0, 3)):
        with pytest.raises(LocalError, match=f"room for {MAX_LEN}") as caught:
            graph.run(np.arange(num_tokens), num_past)
        assert caught.value.code is ErrorCode.CONTEXT_FULL
    assert np.isfinite(graph.run(np.arange(1), MAX_LEN - 1)).all()


@pytest.mark.parametrize("kind", ["optimum", "fused"])
def test_runs_with_more_rows_than_are_kept_give_the_last_one(tmp_path: Path, kind: str) -> None:
    graph = opened(make_bundle(tmp_path, kind))
    ids = np.arange(9)
    last = graph.run(ids, 0).copy()
    graph.run(ids[:8], 0)
    np.testing.assert_allclose(graph.run(ids[8:], 8), last, atol=2e-5)
    graph.run(ids[:7], 0)
    np.testing.assert_allclose(graph.run(ids[7:], 7), last, atol=2e-5)


@pytest.mark.parametrize("kind", ["optimum", "fused"])
def test_drafts_and_verdicts_reuse_the_same_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and two tokens in turns: only shapes are bound anew. A prompt's rows are let go."""
    bound: dict[str, list[tuple[int, int]]] = {"input_ids": [], "logits": []}
    for way in ("_bind_input", "_bind_output"):
        bind = getattr(CachedGraph, way)

        def watched(
            io: Any, name: str, buffer: Any, shape: tuple[int, ...], *rest: int, bind: Any = bind
        ) -> None:
            if name in bound:
                bound[name].append((shape[1], buffer.pointer))
            bind(io, name, buffer, shape, *rest)

        monkeypatch.setattr(CachedGraph, way, watched)
    graph = opened(make_bundle(tmp_path, kind))
    rows = [graph.run(np.arange(9), 0).copy()]
    for num_past, num_tokens in ((9, 1), (10, 2), (11, 1), (12, 2), (14, 1)):
        rows.append(graph.run(np.arange(num_tokens), num_past).copy())
    graph.run(np.arange(9), 0)
    again = graph.run(np.arange(1), 9)
    assert np.array_equal(again, rows[1])
    for name, calls in bound.items():
        short = {address for num_tokens, address in calls if num_tokens <= 2}
        long = {address for num_tokens, address in calls if num_tokens > 2}
        assert len(short) == 1, name
        assert long and not short & long, name


def test_an_unknown_graph_kind_is_refused(tmp_path: Path) -> None:
    rewrite(make_bundle(tmp_path), graph="spiral")
    with pytest.raises(BundleError, match=r"'spiral'.*fused and optimum"):
        opened(tmp_path)


def test_a_run_that_onnxruntime_refuses_is_told_in_one_line(tmp_path: Path) -> None:
    """The table of rotary positions is shorter than the manifest's context."""
    folder = make_bundle(tmp_path)
    context_len = TinyShape().context_len
    rewrite(folder, context_len=2 * context_len)
    graph = open_graph(Bundle.open(folder), RuntimeSettings(num_threads=1), 2 * context_len)
    assert np.isfinite(graph.run(np.arange(context_len), 0)).all()
    with pytest.raises(TandemError, match=r"cannot run the model \(.*\); free memory .* again$"):
        graph.run(np.arange(1), context_len)
    assert np.isfinite(graph.run(np.arange(1), context_len - 1)).all()


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
