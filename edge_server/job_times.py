"""What a scheduler tells of its jobs and batches: how long they waited and ran."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Done:
    """A job that has its result."""

    is_prompt: bool
    """Whether it wanted none: the text had to be cached."""
    waited_s: float
    """From when it came to when its last batch began."""
    seconds: float
    """From when it came to the end of that batch."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a batch was, for those who count."""

    num_jobs: int
    num_tokens: int
    """New ones, which the model ran."""
    seconds: float
    done: tuple[Done, ...]
    """The jobs that it finished."""


@dataclass(slots=True)
class JobTimes:
    """Where a job's time went; a long prompt waits and runs once for each of its chunks."""

    queue_s: float = 0.0
    engine_s: float = 0.0
    """Of its batches, which other jobs shared."""
