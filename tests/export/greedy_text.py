"""Greedy text by transformers and by the device's own drafter, to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from device_runtime.onnx_drafter import OnnxDrafter, RuntimeSettings
from tests.tiny_models import END_ID, NUM_TOKENS, tiny_tokenizer

PROMPT = tiny_tokenizer().encode("The fox went over the bridge").ids


def generated(checkpoint: Path, prompt: list[int], num_tokens: int) -> list[int]:
    """What transformers writes greedily, not stopping at an end token.

    Eager attention, which knows the soft cap of Gemma 2.
    """
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )
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
    """What the device writes greedily from the bundle.

    Now and then it takes back three wrong tokens, and takes in the last four again in one run, as it
    does after a verdict.
    """
    drafter = OnnxDrafter.open(bundle, RuntimeSettings(num_threads=1, prefill_chunk=8))
    row = drafter.append(np.array(prompt))
    written: list[int] = []
    while len(written) < num_tokens:
        written.append(int(row.argmax()))
        if len(written) % 5 == 0:
            drafter.append(np.array([7, 8, 9]))
            drafter.truncate(len(prompt) + len(written) - 4)
            row = drafter.append(np.array(written[-4:]))
        else:
            row = drafter.append(np.array(written[-1:]))
    return written
