"""The JSON that the OpenAI-compatible routes answer with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_server.completion import Delta, FinishReason
from edge_server.logprobs import TokenLogprob
from edge_server.metrics import Operation, Usage
from edge_server.text import EdgeText

Json = dict[str, Any]


@dataclass(slots=True)
class Reply:
    """Makes the parts of one answer, whole or streamed."""

    operation: Operation
    model: str
    text: EdgeText
    has_logprobs: bool
    id: str = field(init=False)
    created: int = field(default_factory=lambda: int(time.time()))
    _num_chars: int = 0
    """Given out so far: completions number the characters at which tokens begin."""

    def __post_init__(self) -> None:
        prefix = "chatcmpl" if self.operation == "chat" else "cmpl"
        self.id = f"{prefix}-{secrets.token_hex(12)}"

    def whole(self, deltas: Sequence[Delta], reason: FinishReason | None, usage: Usage) -> Json:
        """The answer in one piece."""
        text = "".join(delta.text for delta in deltas)
        tokens = [token for delta in deltas for token in delta.tokens]
        logprobs = self._logprobs(tokens)
        choice: Json = {"index": 0, "logprobs": logprobs, "finish_reason": reason}
        if self.operation == "chat":
            choice["message"] = {"role": "assistant", "content": text, "refusal": None}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.operation == "chat" else "text_completion"
        return {**self._head(kind), "choices": [choice], "usage": usage_json(usage)}

    def opening(self) -> Json | None:
        """The first chunk of a chat says who speaks."""
        if self.operation != "chat":
            return None
        delta = {"role": "assistant", "content": ""}
        return self._chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})

    def chunk(self, delta: Delta, reason: FinishReason | None) -> Json:
        """A bit of the answer; the last one has a reason."""
        choice: Json = {"index": 0, "finish_reason": reason}
        choice["logprobs"] = self._logprobs(delta.tokens) if delta.tokens else None
        if self.operation == "chat":
            choice["delta"] = {"content": delta.text} if delta.text else {}
        else:
            choice["text"] = delta.text
        return self._chunk(choice)

    def closing(self, usage: Usage) -> Json:
        """The chunk after the last, where usage was asked for."""
        return {**self._chunk(), "usage": usage_json(usage)}

    def _chunk(self, *choices: Json) -> Json:
        kind = "chat.completion.chunk" if self.operation == "chat" else "text_completion"
        return {**self._head(kind), "choices": list(choices)}

    def _head(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> Json | None:
        if not self.has_logprobs:
            return None
        if self.operation == "chat":
            return {"content": [self._chat_token(token) for token in tokens], "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(self._num_chars)
            begun = self.text.token_bytes(token.token_id)
            self._num_chars += sum(byte & 0xC0 != 0x80 for byte in begun)  # where characters begin
        return {
            "tokens": [self.text.token_name(token.token_id) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [
                {self.text.token_name(index): logprob for index, logprob in token.top}
                for token in tokens
            ],
            "text_offset": offsets,
        }

    def _chat_token(self, token: TokenLogprob) -> Json:
        top = [self._named(index, logprob) for index, logprob in token.top]
        return {**self._named(token.token_id, token.logprob), "top_logprobs": top}

    def _named(self, token_id: int, logprob: float) -> Json:
        return {
            "token": self.text.token_name(token_id),
            "logprob": logprob,
            "bytes": list(self.text.token_bytes(token_id)),
        }


def usage_json(usage: Usage) -> Json:
    """Tokens in and out."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.written_tokens,
        "total_tokens": usage.prompt_tokens + usage.written_tokens,
    }


def model_json(model: str, created: int, context_len: int) -> Json:
    """The model as /v1/models lists it."""
    return {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": "tandem",
        "max_model_len": context_len,
    }
