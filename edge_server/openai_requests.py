"""What clients may ask of the OpenAI-compatible routes. Whatever is not listed here is refused.

Names, defaults and ranges are OpenAI's; top_k, min_p and repetition_penalty are added, as other
servers have them. null stands for the default. Lists end with their first wrong item: each error
costs more than the item it is about, and one is told.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.messages.fields import MAX_TOKENS
from device_runtime.protocol.sampling import MAX_BIASES, MAX_TOKEN_ID, Sampling

MAX_BODY_BYTES = 4 << 20
MAX_MESSAGES = 1024
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP = 20
DEFAULT_MAX_TOKENS = 16
"""Of completions, as OpenAI has it; a chat's answer may fill the context."""

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
_TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
_BiasId = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,7})$")]
_Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
_Content = Annotated[str, Field(max_length=MAX_BODY_BYTES)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Strict):
    """How a stream ends."""

    include_usage: bool | None = None


class _Request(_Strict):
    """What both kinds of request have in common."""

    model: str = Field(min_length=1, max_length=256)
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    temperature: _Number | None = Field(None, ge=0, le=2)
    top_p: _Number | None = Field(None, ge=1e-6, le=1)
    top_k: int | None = Field(None, ge=0, le=MAX_TOKEN_ID)
    min_p: _Number | None = Field(None, ge=0, le=1)
    repetition_penalty: _Number | None = Field(None, ge=0.01, le=100)
    presence_penalty: _Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: _Number | None = Field(None, ge=-2, le=2)
    logit_bias: dict[_BiasId, _Bias] | None = Field(None, max_length=MAX_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: _Stop | Annotated[list[_Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=1)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a list."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def sampling(self) -> Sampling:
        """ConfigError where the parts do not fit together."""
        biases = {int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()}
        default = Sampling()

        def stated(name: str) -> float:
            value = getattr(self, name)
            return float(getattr(default, name) if value is None else value)

        return Sampling(
            temperature=stated("temperature"),
            top_k=self.top_k or 0,
            top_p=stated("top_p"),
            min_p=stated("min_p"),
            repetition_penalty=stated("repetition_penalty"),
            presence_penalty=stated("presence_penalty"),
            frequency_penalty=stated("frequency_penalty"),
            logit_bias=tuple(sorted(biases.items())),
        )

    def check(self, num_ids: int) -> None:
        """ConfigError where parameters contradict each other or the model's vocabulary."""
        if self.stream_options is not None and not self.stream:
            raise ConfigError("stream_options goes with stream = true only")
        self.sampling.check_ids(num_ids)


class CompletionRequest(_Request):
    """A text to continue."""

    prompt: (
        str
        | Annotated[list[_TokenId], Field(min_length=1, max_length=MAX_TOKENS, fail_fast=True)]
        | Annotated[list[str], Field(min_length=1, max_length=1, fail_fast=True)]
    )
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    best_of: int | None = Field(None, ge=1, le=1)
    echo: Literal[False] | None = None

    @property
    def max_written(self) -> int:
        """Tokens that may be written."""
        return self.max_tokens or DEFAULT_MAX_TOKENS

    @property
    def num_top(self) -> int | None:
        """As in `Wish`."""
        return self.logprobs


class TextPart(_Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: _Content


class ChatMessage(_Strict):
    """One turn."""

    # Templates write the role between special tokens, as trusted text.
    role: str = Field(pattern=r"^[a-z_]{1,32}$")
    content: (
        _Content | Annotated[list[TextPart], Field(min_length=1, max_length=64, fail_fast=True)]
    )

    @property
    def text(self) -> str:
        """Its pieces, one a line."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class ChatRequest(_Request):
    """A chat to answer."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)

    def check(self, num_ids: int) -> None:
        super().check(num_ids)
        if self.top_logprobs is not None and not self.logprobs:
            raise ConfigError("top_logprobs goes with logprobs = true only")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ConfigError("max_tokens and max_completion_tokens are the same; give one of them")

    @property
    def max_written(self) -> int:
        """Tokens that may be written."""
        return self.max_completion_tokens or self.max_tokens or MAX_TOKENS

    @property
    def num_top(self) -> int | None:
        """As in `Wish`."""
        return (self.top_logprobs or 0) if self.logprobs else None
