"""Where the time of a round went: the device's clock and the edge's, put together. Pure.

Both sides read the same clock (see `edge_server.trace`), so what one side sends and the other
receives can be subtracted. What no reading covers (threads that wake up, the consumer of the text)
is the remainder: it is shown, and counts as an error of the breakdown.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from device_runtime.round_clock import RoundClock
from edge_server.trace import Answered

PARTS = ("draft", "encode", "up", "queue", "verify", "judge", "down", "settle", "remainder")
"""In the order of time. `verify` is the batch in the engine. Logits become laws there on a GPU; on CPUs
they do on the event loop, when the batch is judged: in `judge`."""


def round_parts(clocks: Sequence[RoundClock], jobs: Sequence[Answered]) -> dict[str, float]:
    """Mean seconds of each part, and of the whole (`wall`), over the rounds that can be told.

    The first round is left out, whose draft runs beside the prompt's upload, and the last, whose
    end nothing marks; so are rounds that a lost connection disturbed. Empty if none is left.
    """
    told = [
        parts
        for clock, following in list(pairwise(clocks))[1:]
        if (parts := _parts(clock, following.start_s, jobs)) is not None
    ]
    if not told:
        return {}
    return {name: float(np.mean([parts[name] for parts in told])) for name in told[0]}


def _parts(clock: RoundClock, end_s: float, jobs: Sequence[Answered]) -> dict[str, float] | None:
    """Of one round; None if a message of it has no job of its own."""
    parts = dict.fromkeys(PARTS, 0.0)
    parts["draft"] = clock.drafted_s - clock.start_s
    parts["encode"] = clock.encoded_s - clock.drafted_s
    parts["settle"] = clock.settle_s
    for sent_s, answered_s in clock.exchanges:
        own = [job for job in jobs if sent_s <= job.received_s <= answered_s]
        if len(own) != 1:
            return None
        (job,) = own
        parts["up"] += job.received_s - sent_s
        parts["queue"] += job.queue_s
        parts["verify"] += job.engine_s
        parts["judge"] += job.sent_s - job.received_s - job.queue_s - job.engine_s
        parts["down"] += answered_s - job.sent_s
    wall_s = end_s - clock.start_s
    parts["remainder"] = wall_s - sum(parts.values())
    return {"wall": wall_s, **parts}


def acceptance_by_place(clocks: Sequence[RoundClock]) -> tuple[list[int], list[int]]:
    """How many drafts were judged at each place of their block, and how many of them stood."""
    longest = max((clock.num_judged for clock in clocks), default=0)
    judged = [sum(clock.num_judged > place for clock in clocks) for place in range(longest)]
    accepted = [sum(clock.num_accepted > place for clock in clocks) for place in range(longest)]
    return judged, accepted


def message_gaps(arrivals_s: Sequence[float]) -> list[float]:
    """Seconds between messages that bring text: what a reader waits. To the microsecond."""
    return [round(later - earlier, 6) for earlier, later in pairwise(arrivals_s)]
