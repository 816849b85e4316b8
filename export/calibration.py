"""What a model reads while its rounding is fitted, and what its matrices meet meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from export.errors import ExportError

NUM_TEXTS = 64
TEXT_LEN = 128
"""Tokens of each. Four times as many did not change the acceptance of the demo pair."""
FILE_BYTES = 4 << 20
"""Of a file no more is read: the texts are spread over that."""
Told = Callable[[int, int], None]
"""Hears how much of a long work is done, and of how much."""

_TEXTS_AT_ONCE = 2
"""Logits of all their tokens are held at once."""


def own_texts(model: PreTrainedModel, context_len: int, told: Told = lambda *_: None) -> Tensor:
    """Ids (NUM_TEXTS, tokens) that the model writes itself, at temperature 1 after a random token.

    They fit as well as text from its training (docs/device.md), and nobody has to find any.
    """
    random = torch.Generator().manual_seed(0)
    vocab_size: int = model.config.get_text_config().vocab_size
    ids = [torch.randint(vocab_size, (NUM_TEXTS, 1), generator=random)]
    length = min(TEXT_LEN, context_len)
    cache: Any = None
    with torch.inference_mode():
        while len(ids) < length:
            out: Any = model(input_ids=ids[-1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            law = out.logits[:, -1].softmax(-1)
            ids.append(torch.multinomial(law, 1, generator=random))
            told(len(ids), length)
    return torch.cat(ids, dim=1)


def texts_of(path: Path, tokenizer: Tokenizer, vocab_size: int, context_len: int) -> Tensor:
    """Ids (texts, tokens) of stretches all over a text file; ExportError where it holds too little."""
    with path.open("rb") as file:
        text = file.read(FILE_BYTES).decode("utf-8", errors="ignore")
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    length = min(TEXT_LEN, context_len)
    num_texts = min(NUM_TEXTS, len(ids) // length)
    if not num_texts or max(ids) >= vocab_size:
        raise ExportError(
            f"--calibration: {path} gives {len(ids)} tokens, and the model needs at least {length} "
            f"of ids below {vocab_size}"
        )
    starts = torch.linspace(0, len(ids) - length, num_texts).long()
    return torch.tensor(ids)[starts[:, None] + torch.arange(length)]


def batches(texts: Tensor) -> Sequence[Tensor]:
    """Ids (texts, tokens), as many at once as their logits leave room for."""
    found: Sequence[Tensor] = texts.split(_TEXTS_AT_ONCE)
    return found


def grams(
    model: PreTrainedModel, modules: Sequence[torch.nn.Module], texts: Tensor
) -> dict[torch.nn.Module, Tensor]:
    """Σ x xᵀ (inputs, inputs), float32, over the inputs x of each module while the model reads texts.

    texts: ids (texts, tokens). Modules that met nothing are left out.
    """
    found: dict[torch.nn.Module, Tensor] = {}
    last: tuple[Tensor, Tensor] | None = None  # queries, keys and values share input and sum

    def add(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal last
        x = inputs[0]
        if last is not None and last[0] is x:
            found[module] = last[1]
            return
        rows = x.reshape(-1, x.shape[-1])
        if module in found:
            found[module].addmm_(rows.T, rows)
        else:
            found[module] = rows.T @ rows
        last = x, found[module]

    hooks = [module.register_forward_pre_hook(add) for module in modules]
    try:
        with torch.inference_mode():
            for some in batches(texts):
                model(input_ids=some, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found
