"""`--scheme auto`: the lossless scheme with the least expected time per committed token.

Arithmetic alone: what is measured or assumed comes in as arguments (`estimates.py` makes them), so
the same numbers give the same choice everywhere. The formula and its defaults are in
docs/schemes.md, "How auto chooses".

Only schemes that some real link can favour are candidates. `dssd` sends the row that `dssd-packed`
sends, unpacked. `dsd`, `tk-slt`, `sqs` and `qsv` send q up, hundreds of bytes and more a block, to
save at most the tens of bytes of a rejection: that pays only where the uplink is over ten times as
fast as the downlink, and no link known to us is built so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

AUTO = "auto"
"""What stands for the choice where a scheme is named."""

CANDIDATES = ("dssd-thinned", "dssd-packed", "coupled", "greedy-draft")
"""In the order in which they win a tie."""

MORE_UP_BYTES = 13
"""Payload of a request for more draws, without padding."""


@dataclass(frozen=True, slots=True)
class Path:
    """What a round costs on this link and edge, whatever the scheme."""

    round_trip_s: float
    """A message up and its answer, headers included, beside the time of their bytes."""
    verify_s: float
    """What the edge takes for a block, waiting for its turn included."""
    up_s_per_byte: float
    down_s_per_byte: float
    """Time that one byte more of payload takes."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is expected of one scheme. Bytes are payloads of messages."""

    scheme: str
    alpha: float
    """Chance that a judged draft stands."""
    draft_s: float
    """Per drafted token."""
    up_bytes: float
    """Per round."""
    accepted_bytes: float
    """Down, for a block that stands as a whole."""
    rejected_bytes: float
    """Down, for any other."""
    more_share: float = 0.0
    """Further exchanges per rejection."""
    more_up_bytes: float = MORE_UP_BYTES
    """Of a request for more draws."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The scheme taken and why."""

    scheme: str
    why: str
    expected_s_per_token: dict[str, float] = field(default_factory=dict)
    """Of every candidate that could be judged, the quickest first."""
    assumed: tuple[str, ...] = ()
    """What had not been measured."""


def tokens_per_round(alpha: float, gamma: int) -> float:
    """Expected committed tokens: 1 + α + … + α^γ (Leviathan et al. 2023, equation 1)."""
    return math.fsum(alpha**i for i in range(gamma + 1))


def seconds_per_round(candidate: Candidate, path: Path, gamma: int) -> float:
    """DSSD's equation 13 (arXiv 2507.12000) with bytes both ways and further exchanges.

    γ·t_draft + t_round_trip + t_verify + c_up·U + α^γ·c_down·A + (1 − α^γ)·(c_down·B + m·t_more),
    t_more = t_round_trip + c_up·U_more + c_down·B.
    """
    stands = candidate.alpha**gamma
    rejection_s = path.down_s_per_byte * candidate.rejected_bytes
    more_s = path.round_trip_s + path.up_s_per_byte * candidate.more_up_bytes + rejection_s
    return math.fsum((
        gamma * candidate.draft_s,
        path.round_trip_s,
        path.verify_s,
        path.up_s_per_byte * candidate.up_bytes,
        stands * path.down_s_per_byte * candidate.accepted_bytes,
        (1 - stands) * (rejection_s + candidate.more_share * more_s),
    ))  # fmt: skip


def seconds_per_token(candidate: Candidate, path: Path, gamma: int) -> float:
    """Expected time per committed token."""
    return seconds_per_round(candidate, path, gamma) / tokens_per_round(candidate.alpha, gamma)


def choose(
    candidates: Sequence[Candidate], path: Path, gamma: int, assumed: tuple[str, ...] = ()
) -> Choice:
    """The quickest of the candidates, at least one; the earlier of equals."""
    seconds = {c.scheme: seconds_per_token(c, path, gamma) for c in candidates}
    ranked = dict(sorted(seconds.items(), key=lambda item: item[1]))
    return Choice(next(iter(ranked)), "least expected time per token", ranked, assumed)
