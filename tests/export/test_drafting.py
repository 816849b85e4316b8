"""The device's own drafter writes from a bundle what transformers writes from the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from device_runtime.bundle import Bundle
from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from export import optimum_graph
from tests.tiny_models import (
    ARCHITECTURES,
    END_ID,
    NUM_TOKENS,
    save_checkpoint,
    tiny_model,
    tiny_tokenizer,
)

Export = Callable[..., int]


def generated(checkpoint: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """What transformers writes greedily, not stopping at an end token."""
    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    ids = torch.tensor([prompt])
    text = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        eos_token_id=NUM_TOKENS + 1000,
        pad_token_id=END_ID,
    )
    return [int(id_) for id_ in text[0, len(prompt) :]]


def drafted(bundle: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """What the device writes greedily from the bundle, taking back three tokens now and then."""
    drafter = OnnxDrafter.open(bundle, RuntimeSettings(num_threads=1))
    row = drafter.append(np.array(prompt))
    written: list[int] = []
    while len(written) < num_tokens:
        written.append(int(row.argmax()))
        if len(written) % 5 == 0:
            drafter.append(np.array([7, 8, 9]))
            drafter.truncate(len(prompt) + len(written) - 1)
        row = drafter.append(np.array(written[-1:]))
    return written


PROMPT = tiny_tokenizer().encode("The fox went over the bridge").ids


def test_the_device_writes_what_transformers_writes_from_a_llama(
    llama: Path, llama_bundle: Path
) -> None:
    assert drafted(llama_bundle, PROMPT, 64) == generated(llama, PROMPT, 64)


def test_the_device_writes_what_transformers_writes_from_a_padded_tied_float16_gpt2(
    gpt2: Path, gpt2_bundle: Path
) -> None:
    assert drafted(gpt2_bundle, PROMPT, 64) == generated(gpt2, PROMPT, 64)


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    gpt2: Path,
    gpt2_bundle: Path,
    export: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")  # optimum: as if above 2 GB
    monkeypatch.setattr(optimum_graph, "MAX_INLINE_BYTES", 1000)
    assert export(gpt2, "--out", tmp_path / "out", "--json") == 0
    names = Bundle.open(tmp_path / "out").manifest.files.keys()
    assert names == {"model.onnx", "model.onnx_data", "tokenizer.json"}
    assert drafted(tmp_path / "out", PROMPT, 8) == drafted(gpt2_bundle, PROMPT, 8)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_each_architecture_is_exported_with_parity(
    model_type: str, export: Export, tmp_path: Path
) -> None:
    """Prompts and text go beyond the sliding window of 32 that some of them have."""
    checkpoint = save_checkpoint(tiny_model(model_type), tmp_path / model_type)
    assert export(checkpoint, "--out", tmp_path / "out", "--json") == 0
    assert drafted(tmp_path / "out", PROMPT, 48) == generated(checkpoint, PROMPT, 48)
