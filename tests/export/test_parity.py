"""The parity check passes a right graph and fails every wrong one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from export import decoder_families, fused_graph, parity
from export.errors import ExportError
from export.graph_signature import GraphSignature, read_signature
from export.numpy_runner import NumpyRunner, Rows
from export.parity import Difference, Parity
from export.rounding import round_weights
from tests.tiny_models import CONTEXT_LEN, tiny_model, tiny_tokenizer, with_noise

ROOT = Path(__file__).parents[2]
Check = Callable[[PreTrainedModel], Parity]
GOOD = Parity(1e-6, 1e-4, 10, 4, 4, None)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


@pytest.fixture
def check(llama_bundle: Path) -> Check:
    path = llama_bundle / "model.onnx"
    signature = read_signature(path)
    prompts = parity.encode_prompts(tiny_tokenizer(), signature.vocab_size, CONTEXT_LEN)
    # Two prompts, one of them of a single token, show as much as four here.
    return lambda model: parity.check(model, path, signature, prompts[-2:], CONTEXT_LEN)


def test_telemetry_is_off_before_onnxruntime_is_imported() -> None:
    """An import hook looks at the environment when onnxruntime is first asked for, and ends there."""
    code = """
import os, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            sys.exit(os.environ.get("ORT_DISABLE_TELEMETRY"))
sys.meta_path.insert(0, Hook())
import export.parity
"""
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "1\n"


def test_the_right_graph_passes(check: Check, model: PreTrainedModel) -> None:
    result = check(model)
    assert result.passed
    assert result.num_greedy_equal == result.num_greedy_tokens == 2 * (parity.NUM_GREEDY + 1)
    assert result.max_abs_logit_error < result.tolerance / 10  # the tolerance is not tight
    parity.require(result)


def test_slightly_wrong_weights_fail(check: Check, model: PreTrainedModel) -> None:
    result = check(with_noise(model, 1e-3))
    assert not result.passed
    assert result.max_abs_logit_error > 3 * result.tolerance


def test_quite_wrong_weights_are_told_by_greedy_text(check: Check, model: PreTrainedModel) -> None:
    result = check(with_noise(model, 0.2))
    assert result.first_difference is not None
    with pytest.raises(ExportError, match=r"logits are off by .* greedy text differs first at"):
        parity.require(result)


def test_positions_that_start_anew_in_every_run_fail(
    check: Check, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = NumpyRunner._feed

    def anew(self: NumpyRunner, ids: Sequence[int]) -> dict[str, NDArray[np.generic]]:
        fed = feed(self, ids)
        if "position_ids" in fed:
            return {**fed, "position_ids": np.arange(len(ids))[None]}
        lengths = {"last_position": np.array([len(ids) - 1], np.int32)}
        return {**fed, **lengths, "num_positions": np.array(len(ids), np.int32)}

    monkeypatch.setattr(NumpyRunner, "_feed", anew)
    try:
        passed = check(model).passed
    except ExportError:  # the fused graph does not even run
        passed = False
    assert not passed


def test_a_rollback_that_drops_the_wrong_end_fails(
    check: Check, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def truncate(self: NumpyRunner, num: int) -> None:
        self._cache = {k: v[:, :, v.shape[2] - num :] for k, v in self._cache.items()}
        self.num_tokens = num

    monkeypatch.setattr(NumpyRunner, "truncate", truncate)
    assert not check(model).passed


def test_logits_that_are_no_numbers_fail(
    check: Check, model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = NumpyRunner.append

    def broken(self: NumpyRunner, ids: Sequence[int]) -> Rows:
        rows = append(self, ids).copy()
        rows[:, 5] = np.nan
        return rows

    monkeypatch.setattr(NumpyRunner, "append", broken)
    assert not check(model).passed


@pytest.mark.parametrize(
    ("result", "passed"),
    [
        (GOOD, True),
        (replace(GOOD, max_abs_logit_error=2e-4), False),
        (replace(GOOD, max_abs_logit_error=float("nan")), False),
        (replace(GOOD, num_greedy_equal=3, first_difference=Difference(0, 2, 5e-5)), True),
        (replace(GOOD, num_greedy_equal=3, first_difference=Difference(0, 2, 2e-4)), False),
    ],
)
def test_only_a_tie_excuses_another_greedy_token(result: Parity, passed: bool) -> None:
    assert result.passed is passed


def test_prompts_fit_a_short_context() -> None:
    prompts = parity.encode_prompts(tiny_tokenizer(), 384, 30)
    assert max(map(len, prompts)) == 10
    assert len(prompts[-1]) == 1


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    with pytest.raises(ExportError, match="the tokenizer does not fit the model"):
        parity.encode_prompts(tiny_tokenizer(), 200, CONTEXT_LEN)


def test_a_very_short_context_is_checked_too(llama_bundle: Path, model: PreTrainedModel) -> None:
    path = llama_bundle / "model.onnx"
    signature: GraphSignature = read_signature(path)
    prompts = parity.encode_prompts(tiny_tokenizer(), signature.vocab_size, 16)
    result = parity.check(model, path, signature, prompts[-1:], 16)
    assert result.num_greedy_tokens == 13
    assert result.passed


def rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str, spoil: float) -> Parity:
    """Parity of a graph that rounds activations; its own rows, not its copy's, get noise of `spoil`."""
    model = tiny_model("llama")
    round_weights(model, weights)
    path = tmp_path / "model.onnx"
    fused_graph.write(decoder_families.read_decoder(model, CONTEXT_LEN), path, weights, 4)
    signature = read_signature(path)
    replay = parity._replay

    def spoilt(runner: NumpyRunner, text: parity._Text) -> Rows:
        noise = np.random.default_rng(0).standard_normal(text.rows.shape)
        rows: Rows = replay(runner, text) + spoil * text.rows.std() * noise.astype(np.float32)
        return rows

    monkeypatch.setattr(parity, "_replay", spoilt)
    prompts = parity.encode_prompts(tiny_tokenizer(), signature.vocab_size, CONTEXT_LEN)
    return parity.check(model, path, signature, prompts[-2:], CONTEXT_LEN)


ROUNDING = [("int4", "int8", 0.3), ("fp16", "float16", 0.03)]
"""Kind of weights, what activations are rounded to, and by how much that may change the logits."""


@pytest.mark.parametrize(("weights", "to", "allowed"), ROUNDING)
def test_a_graph_that_rounds_activations_is_compared_twice(
    weights: str, to: str, allowed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rounded(tmp_path, monkeypatch, weights, spoil=0)
    assert result.passed
    assert result.max_abs_logit_error < result.tolerance / 10
    found = result.activations
    assert found is not None
    assert (found.to, found.tolerance) == (to, allowed)
    assert allowed / 300 < found.relative_rms_error < allowed / 3
    assert found.num_greedy_equal > 0.8 * found.num_rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx_data"]


@pytest.mark.parametrize(("weights", "to", "allowed"), ROUNDING)
def test_products_that_round_too_much_fail(
    weights: str, to: str, allowed: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = rounded(tmp_path, monkeypatch, weights, spoil=1.5 * allowed)
    assert not result.passed
    expected = (
        rf"rounding activations to {to} changes them by 0\.\d+ of their size \(allowed {allowed}"
    )
    with pytest.raises(ExportError, match=expected):
        parity.require(result)


def test_a_model_that_leaves_the_range_of_float16_is_refused(tmp_path: Path) -> None:
    """As models do that were made in bfloat16: what their layers add grows beyond 65,504."""
    model: Any = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1e4)
    round_weights(model, "fp16")
    path = tmp_path / "model.onnx"
    fused_graph.write(decoder_families.read_decoder(model, CONTEXT_LEN), path, "fp16", 4)
    signature = read_signature(path)
    prompts = parity.encode_prompts(tiny_tokenizer(), signature.vocab_size, CONTEXT_LEN)
    result = parity.check(model, path, signature, prompts[-2:], CONTEXT_LEN)
    assert result.max_abs_logit_error <= result.tolerance  # the weights themselves are right
    with pytest.raises(ExportError, match=r"by nan of their size .* use --weights int4 or fp32"):
        parity.require(result)


def test_a_graph_that_does_not_run_is_refused(llama_bundle: Path) -> None:
    path = llama_bundle / "model.onnx"
    with pytest.raises(ExportError, match="the exported graph does not run"):
        NumpyRunner(path, read_signature(path)).append([])
