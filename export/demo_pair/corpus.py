"""Plain text → tokens: the tokenizer of the demo pair and the windows it is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_TOKEN = "<|endoftext|>"
"""Separates tales; id 0. Generation ends at it."""

TITLE_MARK = "## "
"""A line that begins so opens a new tale."""


def read_tales(path: Path) -> list[str]:
    """The tales of a text file, title line included, without the mark."""
    text = path.read_text(encoding="utf-8")
    tales = [tale.strip() for tale in ("\n" + text).split("\n" + TITLE_MARK)]
    return [tale for tale in tales if tale]


def train_tokenizer(tales: list[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE without normalisation, so that every string has a lossless encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tales, trainer)
    return tokenizer


def encode_tales(tokenizer: Tokenizer, tales: list[str]) -> NDArray[np.int64]:
    """One long row of ids: every tale preceded by the end token, one more at the end."""
    end_id = tokenizer.token_to_id(END_TOKEN)
    rows = [[end_id, *encoding.ids] for encoding in tokenizer.encode_batch(tales)]
    return np.concatenate([np.array(row, np.int64) for row in rows] + [np.array([end_id])])


def shuffled_windows(
    ids: NDArray[np.int64], batch_size: int, window_len: int, seed: int
) -> Iterator[torch.Tensor]:
    """Endless batches (batch_size, window_len + 1); every epoch starts its grid elsewhere."""
    rng = np.random.default_rng(seed)
    while True:
        offset = int(rng.integers(window_len))
        starts = np.arange(offset, len(ids) - window_len - 1, window_len)
        rng.shuffle(starts)
        for i in range(0, len(starts) - batch_size + 1, batch_size):
            rows = [ids[s : s + window_len + 1] for s in starts[i : i + batch_size]]
            yield torch.from_numpy(np.stack(rows))
