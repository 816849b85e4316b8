"""What surrounds an edge session: its states, the LLM's facts, jobs for the engine and their rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from device_runtime.protocol.law import Law
from device_runtime.protocol.messages import (
    MAX_GAMMA,
    Begin,
    Cancel,
    Close,
    Hello,
    Message,
    More,
    Round,
    Stream,
)
from device_runtime.protocol.sampling import Sampling


class State(Enum):
    """Where a session stands; docs/protocol.md draws the table below."""

    NEW = auto()
    OPEN = auto()
    READY = auto()
    STREAMING = auto()
    CLOSED = auto()


ALLOWED: dict[State, tuple[type[Message], ...]] = {
    State.NEW: (Hello, Close),
    State.OPEN: (Begin, Close),
    State.READY: (Begin, Round, More, Stream, Close),
    State.STREAMING: (Cancel, Close),
    State.CLOSED: (),
}


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """What a session needs to know of the LLM."""

    model: str
    num_ids: int
    """Ids the tokenizer defines; logits beyond are padding."""
    vocabulary_hash: Callable[[int], bytes]
    """count → hash over the first count ids."""
    context_len: int
    end_ids: tuple[int, ...]
    max_gamma: int = MAX_GAMMA


@dataclass(frozen=True, slots=True)
class Job:
    """Run the model so that `tokens` are in the cache; give rows of the last positions."""

    tokens: Sequence[int]
    num_rows: int


class Rows(Protocol):
    """Logits of a job's last positions."""

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        """The law after row's position; `generated` are the tokens penalties count."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """What to send now, and what to compute next."""

    reply: bytes | None = None
    job: Job | None = None
