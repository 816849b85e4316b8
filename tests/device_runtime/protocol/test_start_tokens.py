"""transformers' classes decide what a text begins with, not tokenizer.json alone."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import LlamaTokenizerFast, PreTrainedTokenizerFast

from device_runtime.protocol.start_tokens import take_start_tokens
from device_runtime.protocol.text_codec import TextCodec
from tests.tiny_models import END, START, START_ID, tiny_tokenizer


def tokenizer(*, starts: bool) -> Tokenizer:
    inner = Tokenizer.from_str(tiny_tokenizer().to_str())
    if starts:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", special_tokens=[(START, START_ID)]
        )
    return inner


def llama(inner: Tokenizer, start: str = START, *, add_bos_token: bool) -> Any:
    fast: Any = LlamaTokenizerFast
    return fast(tokenizer_object=inner, bos_token=start, eos_token=END, add_bos_token=add_bos_token)


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("add_bos_token", [True, False])
def test_a_class_that_writes_the_start_token_anew_wins(starts: bool, add_bos_token: bool) -> None:
    inner = tokenizer(starts=starts)
    assert take_start_tokens(inner, llama(inner, add_bos_token=add_bos_token))
    ids = TextCodec(inner).encode_prompt("hello")
    assert (ids[0] == START_ID) == add_bos_token
    assert ids[-1:] == inner.encode("hello").ids[-1:]


@pytest.mark.parametrize("starts", [True, False])
def test_a_plain_class_leaves_tokenizer_json_alone(starts: bool) -> None:
    inner = tokenizer(starts=starts)
    before = inner.to_str()
    fast: Any = PreTrainedTokenizerFast
    assert take_start_tokens(inner, fast(tokenizer_object=inner, bos_token=START))
    assert inner.to_str() == before


def test_a_start_token_that_no_model_knows_is_refused() -> None:
    inner = tokenizer(starts=False)
    assert not take_start_tokens(inner, llama(inner, "<novel>", add_bos_token=True))


def test_a_text_of_other_tokens_is_refused() -> None:
    inner, other = tokenizer(starts=False), tokenizer(starts=False)
    other.add_tokens(["short"])
    fast: Any = PreTrainedTokenizerFast
    assert not take_start_tokens(inner, fast(tokenizer_object=other))
