"""The runner that judges the device's own: its cache, and what a failed run leaves of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from export.errors import ExportError
from export.graph_signature import read_signature
from export.numpy_runner import NumpyRunner
from tests.tiny_models import NUM_TOKENS

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(params=["llama_bundle", "gpt2_bundle"], ids=["fused", "optimum"])
def runner(request: pytest.FixtureRequest) -> NumpyRunner:
    folder: Path = request.getfixturevalue(request.param)
    return NumpyRunner(folder / "model.onnx", read_signature(folder / "model.onnx"))


def test_tokens_may_come_in_pieces_and_be_taken_back(runner: NumpyRunner) -> None:
    whole = runner.append(IDS)
    assert whole.shape == (len(IDS), runner.append([7]).shape[1])
    runner.truncate(3)
    assert runner.num_tokens == 3
    pieces = [runner.append(IDS[3:4]), runner.append(IDS[4:])]
    np.testing.assert_allclose(np.concatenate(pieces), whole[3:], atol=1e-4)
    assert runner.num_tokens == len(IDS)


def test_a_failed_run_is_one_line_and_leaves_the_cache_as_it_was(runner: NumpyRunner) -> None:
    expected = runner.append(IDS)[-1]
    runner.truncate(len(IDS) - 1)
    with pytest.raises(ExportError, match=r"^the exported graph does not run: [^\n]*$"):
        runner.append([10 * NUM_TOKENS])
    assert runner.num_tokens == len(IDS) - 1
    np.testing.assert_allclose(runner.append(IDS[-1:])[-1], expected, atol=1e-4)
