"""What surrounds an edge session: its states, the LLM's facts, jobs for the engine, their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

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
    Welcome,
)
from device_runtime.protocol.sampling import Sampling

if TYPE_CHECKING:
    from device_runtime.protocol.judging import Judging


class State(Enum):
    """Where a session stands; docs/protocol.md draws the table below."""

    NEW = auto()
    OPEN = auto()
    READY = auto()
    STREAMING = auto()
    CLOSED = auto()


ALLOWED: dict[State, tuple[type[Message], ...]] = {
    State.NEW: (Hello, Close),
    # A stream may end by itself while the device's Cancel is on its way.
    State.OPEN: (Begin, Cancel, Close),
    State.READY: (Begin, Round, More, Stream, Cancel, Close),
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
    edge_gamma: int = 0
    """Tokens of a stream that the edge may draft itself before it judges them."""

    def welcome(self, resume_token: bytes, resumed: bool, num_shared: int) -> Welcome:
        """What a device is told whose tokenizer defines `num_shared` of the ids."""
        return Welcome(
            model=self.model,
            resume_token=resume_token,
            resumed=resumed,
            num_ids=self.num_ids,
            vocabulary_hash=self.vocabulary_hash(num_shared),
            context_len=self.context_len,
            max_gamma=self.max_gamma,
            end_ids=self.end_ids,
        )


class Rows(Protocol):
    """Logits of a job's last positions."""

    def law(self, row: int, sampling: Sampling, generated: Sequence[int]) -> Law:
        """The law after row's position; `generated` are the tokens penalties count."""
        ...


def read_nothing(_: Rows) -> None:
    """What is read off the rows of a text that had to be cached."""


@dataclass(frozen=True, slots=True)
class Job:
    """Run the model so that `tokens` are in the cache, and read what is wanted off the last rows."""

    tokens: Sequence[int]
    num_rows: int
    read: Callable[[Rows], Any] = field(default=read_nothing, compare=False)
    """Of the rows what the session is told of them. It changes nothing, so that an engine may call it
    when and where it likes."""
    judging: Judging | None = field(default=None, compare=False)
    """Of a stream: what `read` judges, for engines that draft a block of their own before it."""


Result = Callable[[], Any]
"""What was read off a job's rows: known already, or read when it is called. Raises what `read` does."""


class Outcome(NamedTuple):
    """What became of a job, for those who count; an answer to More settles nothing new."""

    gamma: int = 0
    num_accepted: int = 0
    rejected: bool = False
    bonus: bool = False
    num_streamed: int = 0
    """Tokens written without drafts of the device."""
    is_round: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """What to send now, and what to compute next."""

    reply: bytes | None = None
    job: Job | None = None
    outcome: Outcome | None = field(default=None, compare=False)
