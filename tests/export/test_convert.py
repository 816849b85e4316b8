"""What an exporter raises becomes one line that names the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedModel

from export import checkpoint
from export.choose import Choice
from export.convert import BUILDERS, convert
from export.errors import ExportError
from tests.tiny_models import tiny_model

OWN = ExportError("the disk is full")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OWN, "the disk is full"),
        (RuntimeError("\nfirst line\nsecond"), "RuntimeError: first line"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 300),
    ],
    ids=["own", "lines", "silent", "long"],
)
def test_an_exporter_that_fails_is_quoted_in_one_line(
    error: Exception, expected: str, llama: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def failing(_: PreTrainedModel, path: Path, choice: Choice, texts: object) -> None:
        raise error

    monkeypatch.setitem(BUILDERS, "fused", failing)
    choice = Choice("fused", "fp32", 4, "fp32", "none", 64)
    with pytest.raises(ExportError) as caught:
        convert(
            checkpoint.read(llama, "hub/it"), tiny_model("llama"), tmp_path / "it.onnx", choice, []
        )
    quoted = f"hub/it (llama) could not be turned into a graph: {expected}"
    assert str(caught.value) == (expected if error is OWN else quoted)
