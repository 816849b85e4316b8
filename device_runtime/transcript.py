"""What an answer has become so far: its tokens, its text, its clock, and whether it is over."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.turn import Committed, Origin


class FinishReason(str, Enum):
    """Why an answer ended."""

    END = "stop"
    """The model wrote an end token, or a stop string came up."""
    LENGTH = "length"
    """max_tokens, or the end of the LLM's context."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain now, and the token with which it became so."""

    text: str
    origin: Origin


@dataclass(slots=True)
class Transcript:
    """Collects committed tokens. Tokens after the end of the answer are not taken."""

    detokenizer: Detokenizer
    end_ids: frozenset[int]
    max_tokens: int
    token_ids: list[int] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    """One for each token."""
    text: str = ""
    logprobs: dict[int, float] = field(default_factory=dict)
    """By index of the token; filled where they were asked for."""
    finish_reason: FinishReason | None = None
    started_s: float = field(default_factory=time.monotonic)
    times_s: list[float] = field(default_factory=list)
    """When each token became certain, by `time.monotonic`; those of a stop string are among them."""
    num_first: int = 0
    """Tokens that became certain together with the first one."""

    @property
    def num_left(self) -> int:
        """Tokens that may still come."""
        return self.max_tokens - len(self.token_ids)

    def add(self, committed: Iterable[Committed]) -> list[Piece]:
        """Take tokens; what can be shown now. At the end of the answer held-back text comes too.

        Those of one call became certain together.
        """
        is_first = not self.times_s
        pieces = []
        for token in committed:
            if self.finish_reason is not None:
                break
            self.origins.append(token.origin)
            pieces.append(Piece(self._take(token.token_id), token.origin))
        if is_first:
            self.num_first = len(self.times_s)
        return [piece for piece in pieces if piece.text]

    def _take(self, token_id: int) -> str:
        self.times_s.append(time.monotonic())
        self.token_ids.append(token_id)
        ended = token_id in self.end_ids
        # An end token is committed and never shown, whatever its string is.
        text = "" if ended else self.detokenizer.feed([token_id])
        if self.detokenizer.stop is not None:
            # The tokens of the stop string do not stand: neither cache may keep them.
            del self.token_ids[self.detokenizer.num_tokens :]
            del self.origins[self.detokenizer.num_tokens :]
        if ended or self.detokenizer.stop is not None:
            self.finish_reason = FinishReason.END
        elif self.num_left == 0:
            self.finish_reason = FinishReason.LENGTH
        if self.finish_reason is not None:
            text += self.detokenizer.flush()
        self.text += text
        return text

    @property
    def unverified_spans(self) -> list[tuple[int, int]]:
        """[first, end) of every run of tokens that no edge has seen."""
        marks = [False, *(origin is Origin.UNVERIFIED for origin in self.origins), False]
        edges = [i for i, (before, after) in enumerate(pairwise(marks)) if before != after]
        return list(zip(edges[::2], edges[1::2], strict=True))

    def out_of_context(self) -> list[Piece]:
        """The context is full: end here, unless the answer has ended by itself."""
        if self.finish_reason is not None:
            return []
        self.finish_reason = FinishReason.LENGTH
        text = self.detokenizer.flush()
        self.text += text
        return [Piece(text, Origin.BONUS)] if text else []

    @property
    def first_token_s(self) -> float | None:
        """When the first token became certain."""
        return self.times_s[0] if self.times_s else None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first committed token."""
        return None if self.first_token_s is None else self.first_token_s - self.started_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token, of those that did not come together with the first one."""
        num_after = (
            len(self.times_s) - self.num_first
        )  # those of a stop string took their time, too
        return (self.times_s[-1] - self.times_s[0]) / num_after if num_after > 0 else None

    @property
    def wall_s(self) -> float:
        """From the start to the last token."""
        return (self.times_s[-1] if self.times_s else time.monotonic()) - self.started_s
