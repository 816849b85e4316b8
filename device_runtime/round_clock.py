"""The clock's readings of one round, on the device's side."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class RoundClock:
    """Readings of `time.monotonic`, in seconds, and what became of the block."""

    start_s: float
    """Drafting begins."""
    drafted_s: float
    """The block is drafted; its encoding begins, unless it is the first one."""
    encoded_s: float = 0.0
    """Its message is there. That of the first block waits until the edge has read the text."""
    exchanges: list[tuple[float, float]] = field(default_factory=list)
    """When each message went up and its answer was there: the round, then requests for more draws."""
    settle_s: float = 0.0
    """Seconds spent on verdicts: judging them, drawing the replacement, rolling back."""
    num_judged: int = 0
    """Drafted tokens up to and with the first rejected one."""
    num_accepted: int = 0
