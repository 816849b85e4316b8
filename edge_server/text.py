"""Text and chats ↔ token ids on the edge, as the device makes them: for HTTP clients only."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

import tokenizers
import transformers
from jinja2.exceptions import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.marks import Marks, guarded_strings
from device_runtime.protocol.start_tokens import TOKENIZER_ADVICE, take_start_tokens
from device_runtime.protocol.text_codec import TextCodec

T = TypeVar("T")
logger = logging.getLogger(__name__)


class PromptError(TandemError, ValueError):
    """No tokens can be made of this prompt or chat."""


class EdgeText:
    """A checkpoint's tokenizer and chat template. One thread at a time, so all goes `in_thread`."""

    def __init__(self, codec: TextCodec, fast: Any) -> None:
        """fast: the same tokenizer as transformers opens it; it renders chats."""
        self._codec = codec
        self._fast = fast
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="text")

    @classmethod
    def open(cls, folder: Path) -> EdgeText:
        """Read tokenizer.json and the files beside it; BundleError if it cannot be streamed."""
        inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        inner.no_truncation()
        inner.no_padding()
        fast = _open_named(folder)
        if fast is None:
            plain: Any = PreTrainedTokenizerFast.from_pretrained
            fast = plain(folder, local_files_only=True)
        elif not take_start_tokens(inner, fast):
            logger.warning(
                "%s makes other tokens of a text than transformers %s does by tokenizer_config.json; "
                "should completions be poor, %s",
                folder / "tokenizer.json", transformers.__version__, TOKENIZER_ADVICE,
            )  # fmt: skip
        return cls(TextCodec(inner), fast)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Long texts take a while: they must not hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def prompt_ids(self, text: str) -> list[int]:
        """A whole text, with the model's start token if it has one; PromptError on an empty one."""
        ids = self._codec.encode_prompt(text)
        if not ids and self._fast.bos_token_id is not None:
            ids = [self._fast.bos_token_id]
        if not ids:
            raise PromptError("the prompt is empty and the model has no start token; write a word")
        return ids

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Messages (role, content) up to where the assistant's answer begins.

        What clients wrote never becomes a token of the template. PromptError where it refuses.
        """
        if self._fast.chat_template is None:
            raise PromptError("this model has no chat template; use /v1/completions")
        try:
            template = self._fast.get_chat_template()
            marks = Marks(guarded_strings(self._codec, template), token_hex(8))
            masked = [{**turn, "content": marks.hide(turn["content"])} for turn in messages]
            text = self._fast.apply_chat_template(
                masked, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise PromptError(f"the chat template refuses these messages ({error})") from None
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError):
            raise PromptError("the chat template fails on these messages") from None
        ids = self._codec.encode_segments(marks.reveal(text))
        if not ids:
            raise PromptError("these messages come to an empty prompt; write a word")
        return ids

    def detokenizer(self, context: Sequence[int], stops: Sequence[str]) -> Detokenizer:
        """A streaming decoder of what follows, up to the first of the stop strings.

        context: the text that is continued; empty for an answer in a chat.
        """
        return self._codec.detokenizer(context, stops)

    def token_bytes(self, token_id: int) -> bytes:
        """What an id adds to the text; nothing for a special token."""
        return self._codec.token_bytes(token_id)

    def token_name(self, token_id: int) -> str:
        """An id in a list of logprobs: its text, or how a special token is written."""
        entry = self._codec.token(token_id)
        if entry is not None and entry[1]:
            return entry[0]
        return self.token_bytes(token_id).decode("utf-8", "replace")


def _open_named(folder: Path) -> Any:
    """By the class that tokenizer_config.json names; None where it names none that loads here."""
    load: Any = AutoTokenizer.from_pretrained
    with suppress(Exception):  # whatever a config can make transformers raise
        if get_tokenizer_config(folder, local_files_only=True).get("tokenizer_class"):
            return load(folder, trust_remote_code=False, local_files_only=True)
    return None
