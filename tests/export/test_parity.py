"""The parity check passes a right graph and fails every wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedModel

from export import parity
from export.errors import ExportError
from export.graph_signature import GraphSignature, read_signature
from export.parity import Difference, NumpyRunner, Parity, Rows
from tests.tiny_models import CONTEXT_LEN, tiny_model, tiny_tokenizer, with_noise

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
        return {**feed(self, ids), "position_ids": np.arange(len(ids))[None]}

    monkeypatch.setattr(NumpyRunner, "_feed", anew)
    assert not check(model).passed


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
