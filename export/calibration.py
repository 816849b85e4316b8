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


class Grams:
    """Σ x xᵀ (inputs, inputs), float32, over the inputs x of some matrices; for a `with`."""

    def __init__(self, modules: Sequence[torch.nn.Module]) -> None:
        self.of: dict[torch.nn.Module, Tensor] = {}
        """Of every matrix that has met anything."""
        self._last: tuple[Tensor, Tensor] | None = None
        """Input and sum of the matrix before: queries, keys and values share both."""
        self._hooks = [module.register_forward_pre_hook(self._add) for module in modules]

    def __enter__(self) -> Grams:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._last = None

    def read(self, model: PreTrainedModel, texts: Tensor) -> None:
        """Run the model over ids (texts, tokens)."""
        with torch.inference_mode():
            for some in texts.split(_TEXTS_AT_ONCE):
                model(input_ids=some, use_cache=False)

    def _add(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        if self._last is not None and self._last[0] is x:
            self.of[module] = self._last[1]
            return
        rows = x.reshape(-1, x.shape[-1])
        if module in self.of:
            self.of[module].addmm_(rows.T, rows)
        else:
            self.of[module] = rows.T @ rows
        self._last = (x, self.of[module])
