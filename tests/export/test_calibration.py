"""The texts that a rounding is fitted to, and the sums over what matrices meet."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from export.calibration import NUM_TEXTS, TEXT_LEN, grams, own_texts, texts_of
from export.errors import ExportError
from tests.tiny_models import tiny_model


def words(num: int) -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(num)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def test_own_texts_are_the_models_samples() -> None:
    model = tiny_model("llama")
    texts = own_texts(model, 24)
    assert texts.shape == (NUM_TEXTS, 24)
    assert torch.equal(texts, own_texts(model, 24))
    with torch.no_grad():
        cast(Any, model).lm_head.weight[17] *= (
            200  # one id takes over wherever its logit is positive
        )
    changed = own_texts(model, 24)
    assert torch.equal(changed[:, 0], texts[:, 0])
    assert (changed == 17).float().mean() > 10 * (texts == 17).float().mean()


def test_no_text_is_longer_than_the_context_or_than_needed() -> None:
    assert own_texts(tiny_model("gpt2"), 16).shape[1] == 16
    assert TEXT_LEN == 128
    assert own_texts(tiny_model("llama"), 4096).shape[1] == TEXT_LEN


def test_stretches_lie_all_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(" ".join(f"w{i}" for i in range(1000)))
    texts = texts_of(file, words(1000), 1000, 100)
    assert texts.shape == (10, 100)
    assert texts[0].tolist() == list(range(100))
    assert texts[-1].tolist() == list(range(900, 1000))


@pytest.mark.parametrize(("num_words", "vocab_size"), [(99, 1000), (500, 400)])
def test_a_file_that_does_not_do_is_refused(
    tmp_path: Path, num_words: int, vocab_size: int
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(" ".join(f"w{i}" for i in range(num_words)))
    with pytest.raises(ExportError, match=f"gives {num_words} tokens.*at least 100.*{vocab_size}"):
        texts_of(file, words(1000), vocab_size, 100)


def test_grams_sum_over_every_token_and_are_shared_where_inputs_are() -> None:
    model = cast(Any, tiny_model("llama"))
    attention = model.model.layers[1].self_attn
    seen = []
    handle = attention.k_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    texts = own_texts(model, 16)[:5]
    seen.clear()
    found = grams(model, [attention.q_proj, attention.k_proj, attention.o_proj], texts)
    handle.remove()
    x = torch.cat([part.reshape(-1, part.shape[-1]) for part in seen])
    assert len(x) == texts.numel()
    torch.testing.assert_close(found[attention.k_proj], x.T @ x, rtol=1e-4, atol=1e-4)
    assert found[attention.q_proj] is found[attention.k_proj]
    assert found[attention.o_proj] is not found[attention.k_proj]
    before = found[attention.o_proj].clone()
    model(input_ids=texts)
    assert torch.equal(found[attention.o_proj], before)  # nothing is left behind in the model
