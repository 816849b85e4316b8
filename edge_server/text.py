"""Text and chats ↔ token ids on the edge, as the device makes them: for HTTP clients only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

import tokenizers
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.marks import Marks, guarded_strings
from device_runtime.protocol.text_codec import TextCodec

T = TypeVar("T")


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
        codec = TextCodec(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
        load: Any = PreTrainedTokenizerFast.from_pretrained
        return cls(codec, load(folder, local_files_only=True))

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
