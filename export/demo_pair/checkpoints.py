"""The pair's models in memory and on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from export.demo_pair.recipe import Recipe


def new_model(recipe: Recipe, seed: int, device: torch.device) -> LlamaForCausalLM:
    """Fresh weights, ready to train."""
    torch.manual_seed(seed)
    return _placed(LlamaForCausalLM(recipe.config()), device)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """fp16 safetensors, config and tokenizer, as transformers lays them out."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_fp32(folder: Path, device: torch.device) -> LlamaForCausalLM:
    """The saved model, rounded as it ships, computing in float32."""
    return _placed(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), device)


def _placed(model: Any, device: torch.device) -> LlamaForCausalLM:
    """On device, with eager attention: torch.compile fuses that best on a CPU."""
    model.set_attn_implementation("eager")
    placed: LlamaForCausalLM = model.to(device)
    return placed
