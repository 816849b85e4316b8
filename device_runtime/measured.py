"""What a generation teaches about link, edge, device and scheme: numbers alone, never text.

`RoundTimes` collects while an answer is written; clock readings come in as arguments.
`Measured` is what remains of it, the unit that `estimates.py` reasons about and a file may keep.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from device_runtime.protocol.sampling import Sampling
from device_runtime.round_clock import RoundClock
from device_runtime.turn import Counts

MAX_COUNT = 1 << 40
MAX_SECONDS = 1e6
MAX_TEXT = 64
MIN_SPREAD_BYTES = 8
"""Two rounds whose answers differ by less say nothing about the downlink's rate."""
MIN_PAIRS = 20
"""Of rounds whose answers differ by more, before a rate is believed."""
MAX_PAIRED = 200
"""Rounds that are paired with each other."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """The hello of a connection and its welcome: an exchange in which no model runs."""

    seconds: float
    hello_bytes: int
    welcome_bytes: int

    def delay_s(self, up_s_per_byte: float, down_s_per_byte: float) -> float:
        """What it took beside its bytes."""
        bytes_s = self.hello_bytes * up_s_per_byte + self.welcome_bytes * down_s_per_byte
        return max(0.0, self.seconds - bytes_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """One generation. None stands for what could not be measured in it."""

    scheme: str
    sampling: str
    """As `sampling_label` writes it."""
    accepted: int
    rejected: int
    more_requests: int
    rejected_bytes: float | None
    """Down, mean over rejected rounds, without requests for more; None if padded."""
    draft_s: float | None
    """Per drafted token, median over blocks."""
    round_s: float | None
    """From a round's first byte up to its verdict, median."""
    handshake_s: float
    hello_bytes: int
    welcome_bytes: int
    """As in `Handshake`, on the same connection."""
    up_bytes: float
    down_bytes: float
    """Of a round, mean."""
    up_s_per_byte: float | None
    """At most this: the prompt's upload, the edge's reading of it included."""
    down_s_per_byte: float | None
    """How much later a larger answer came than a smaller one, per byte between them."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Measured:
        """From what `to_values` gave; ValueError on anything else."""
        if values.keys() != {f.name for f in fields(cls)}:
            raise ValueError(f"a measurement has the keys {sorted(values)}")
        for name, value in values.items():
            if not _allowed(name, value):
                raise ValueError(f"{name} of a measurement is {value!r}")
        return cls(**values)

    @property
    def handshake(self) -> Handshake:
        return Handshake(self.handshake_s, self.hello_bytes, self.welcome_bytes)

    def to_values(self) -> dict[str, Any]:
        """Plain values for a file."""
        return asdict(self)


_TEXTS = {"scheme", "sampling"}
_COUNTS = {"accepted", "rejected", "more_requests", "hello_bytes", "welcome_bytes"}
_NEEDED = {"handshake_s", "up_bytes", "down_bytes"}


def _allowed(name: str, value: object) -> bool:
    if name in _TEXTS:
        return isinstance(value, str) and len(value) <= MAX_TEXT
    if name in _COUNTS:
        return type(value) is int and 0 <= value <= MAX_COUNT
    if value is None:
        return name not in _NEEDED
    largest = MAX_COUNT if name.endswith("_bytes") else MAX_SECONDS
    return type(value) in (int, float) and 0 <= float(value) <= largest  # type: ignore[arg-type]


def sampling_label(sampling: Sampling) -> str:
    """Generations with the same label have about the same acceptance. Biases are left out."""
    if sampling.temperature == 0:
        return "greedy"
    return (
        f"T={sampling.temperature:.3g} k={sampling.top_k} p={sampling.top_p:.3g} "
        f"m={sampling.min_p:.3g}"
    )


@dataclass(slots=True)
class RoundTimes:
    """Collects the times of a generation."""

    begin_s: float = math.inf
    begin_bytes: int = 0
    draft_s: list[float] = field(default_factory=list)
    """Per drafted token, one entry a block."""
    rounds: list[tuple[float, int, int, bool]] = field(default_factory=list)
    """(seconds, bytes up, bytes down, whether a token was rejected) of undisturbed rounds."""
    clocks: list[RoundClock] = field(default_factory=list)
    """Of every round that came to its end, in their order."""

    def began(self, seconds: float, num_bytes: int) -> None:
        """The prompt went up and the edge has read it."""
        self.begin_s, self.begin_bytes = seconds, num_bytes

    def drafted(self, seconds: float, num_tokens: int) -> None:
        """A block was drafted; not to be told of the first, which reads the prompt, too."""
        if num_tokens:
            self.draft_s.append(seconds / num_tokens)

    def judged(self, seconds: float, up_bytes: int, down_bytes: int, *, rejected: bool) -> None:
        """A round went up and its verdict came down, on one connection."""
        self.rounds.append((seconds, up_bytes, down_bytes, rejected))

    def up_s_per_byte(self, handshake: Handshake) -> float | None:
        """What a byte took at most: how much longer the prompt's upload took than the hello.

        The edge's reading of the prompt is in it, too.
        """
        more_bytes = self.begin_bytes - handshake.hello_bytes
        if more_bytes < MIN_SPREAD_BYTES or not math.isfinite(self.begin_s):
            return None
        welcome_s = handshake.welcome_bytes * (self.down_s_per_byte() or 0.0)
        return max(0.0, self.begin_s - (handshake.seconds - welcome_s)) / more_bytes

    def down_s_per_byte(self) -> float | None:
        """How much later an answer came for each byte that it was larger.

        The median slope over pairs of rounds, weighted by their difference in size (Sievers 1978,
        after Theil and Sen): one lost packet is worth a hundred rounds' difference in time.
        """
        recent = self.rounds[-MAX_PAIRED:]
        seconds = np.array([r[0] for r in recent])
        sizes = np.array([r[2] for r in recent], np.float64)
        first, second = np.triu_indices(len(recent), k=1)
        differences = sizes[second] - sizes[first]
        differ = np.abs(differences) >= MIN_SPREAD_BYTES
        if np.count_nonzero(differ) < MIN_PAIRS:
            return None
        slopes = (seconds[second] - seconds[first])[differ] / differences[differ]
        order = np.argsort(slopes)
        weights = np.cumsum(np.abs(differences[differ])[order])
        middle = np.searchsorted(weights, weights[-1] / 2)
        return max(0.0, float(slopes[order][middle]))

    def measured(
        self,
        scheme: str,
        sampling: Sampling,
        counts: Counts,
        handshake: Handshake,
        *,
        padded: bool = False,
    ) -> Measured | None:
        """What the generation taught; None where no round was undisturbed."""
        if not self.rounds:
            return None
        rejected_bytes = [] if padded else [r[2] for r in self.rounds if r[3]]
        return Measured(
            scheme=scheme,
            sampling=sampling_label(sampling),
            accepted=counts.accepted,
            rejected=counts.rejected,
            more_requests=counts.more_requests,
            rejected_bytes=statistics.fmean(rejected_bytes) if rejected_bytes else None,
            draft_s=statistics.median(self.draft_s) if self.draft_s else None,
            round_s=statistics.median(r[0] for r in self.rounds),
            handshake_s=handshake.seconds,
            hello_bytes=handshake.hello_bytes,
            welcome_bytes=handshake.welcome_bytes,
            up_bytes=statistics.fmean(r[1] for r in self.rounds),
            down_bytes=statistics.fmean(r[2] for r in self.rounds),
            up_s_per_byte=self.up_s_per_byte(handshake),
            down_s_per_byte=self.down_s_per_byte(),
        )
