"""What a board that is not at hand would do: work measured here × the board's bandwidth and power.

Decoding reads every weight once a token, so its speed follows the bandwidth of memory. A second of
the device's work here counts as `bandwidth_here` bytes read:

    time on the board = time here × bandwidth_here / bandwidth_of_the_board
    joules = idle_w · time of the answer + (active_w − idle_w) · busy core-seconds / cores + radio

Both bandwidths are those of one core that reads in sequence. Everything that comes of it is labelled
*projected*: caches, kernels and clocks of the board are in no term of it. Where the model stays in a
cache here (the demo pair's SLM does), the first line asks too much of the board.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.device.memory_arm import MemoryArm
from benchmarks.record import Record
from device_runtime.protocol.errors import TandemError
from hw_profiles import DeviceProfile
from hw_profiles.schema import Published

FORMULA = (
    "projected: device time × (read bandwidth here / board's, one core); "
    "joules = idle power × time + (active − idle) × busy core-seconds / cores + radio"
)
CAVEAT = (
    "Where the SLM stays in a cache of the machine that measured, as the demo pair's does, this asks "
    "too much of the board"
)
"""To be said beside every projection."""

DEVICE_PARTS = ("draft", "encode", "settle")
"""Of a round: what the device does."""


class ProjectionError(TandemError):
    """The profile lacks a number that the formula needs."""


@dataclass(frozen=True, slots=True)
class Board:
    """What the formula needs of a profile: SI units."""

    name: str
    title: str
    read_bytes_per_s: float
    idle_w: float
    active_w: float
    num_cores: int

    @classmethod
    def of(cls, profile: DeviceProfile) -> Board:
        """ProjectionError names the number that is not there."""
        needed = {
            "memory.read_one_core_bytes_per_s": profile.memory.read_one_core_bytes_per_s,
            "power.idle_w": profile.power.idle_w,
            "power.active_w": profile.power.active_w,
        }
        lacking = [name for name, quantity in needed.items() if quantity is None]
        lacking += [] if profile.num_cores else ["cpu.clusters"]
        if lacking:
            raise ProjectionError(
                f"nothing can be projected to {profile.name}: its profile lacks "
                f"{', '.join(lacking)}; measure it and give a profile of your own (a TOML file)"
            )
        read, idle, active = (quantity.value for quantity in needed.values() if quantity)
        return cls(profile.name, profile.title, read, idle, active, profile.num_cores or 1)


@dataclass(frozen=True, slots=True)
class Work:
    """One answer, or the sum of several, as measured here; seconds, tokens, joules."""

    num_tokens: int
    wall_s: float
    device_s: float
    """Of wall_s: while the other side and the link wait for the device."""
    busy_s: float
    """CPU seconds of the device's process over all cores."""
    radio_j: float


def work_of(answers: Sequence[Record]) -> Work | None:
    """The sum of the answers of one arm that tell how long the device was waited for.

    A split answer tells it by the parts of its rounds: lossy arms and answers of one or two rounds
    have none and are left out. None if no answer is left. Every round counts as a mean one; the first
    one's draft runs beside the prompt's way, so that asks a little too much.
    """
    told = [(a, device_s) for a in answers if (device_s := _device_s(a)) is not None]
    if not told:
        return None
    return Work(
        num_tokens=sum(len(answer.results["token_ids"]) for answer, _ in told),
        wall_s=sum(answer.results["wall_s"] for answer, _ in told),
        device_s=sum(device_s for _, device_s in told),
        busy_s=sum(answer.results["device_busy_s"] for answer, _ in told),
        radio_j=sum(answer.results.get("radio_j", 0.0) for answer, _ in told),
    )


def _device_s(answer: Record) -> float | None:
    """Of one answer; None where it was not clocked."""
    mode, results = answer.settings["mode"], answer.results
    if mode != "split":
        return float(results["wall_s"]) if mode == "device" else 0.0
    parts = [results.get(f"round_{name}_s") for name in DEVICE_PARTS]
    known = [part for part in parts if part is not None]
    return float(results["rounds"] * sum(known)) if len(known) == len(parts) else None


@dataclass(frozen=True, slots=True)
class Projected:
    """Per token."""

    seconds: float
    compute_j: float
    wait_j: float
    radio_j: float

    @property
    def joules(self) -> float:
        """All of it, at the point where the board's powers were measured."""
        return self.compute_j + self.wait_j + self.radio_j


def project(work: Work, board: Board, bandwidth_here: float) -> Projected:
    """The answer on the board, per token; bandwidth_here: bytes/s read by one core of this machine."""
    slower = bandwidth_here / board.read_bytes_per_s
    wall_s = work.wall_s + (slower - 1) * work.device_s
    core_w = (board.active_w - board.idle_w) / board.num_cores
    return Projected(
        seconds=wall_s / work.num_tokens,
        compute_j=core_w * slower * work.busy_s / work.num_tokens,
        wait_j=board.idle_w * wall_s / work.num_tokens,
        radio_j=work.radio_j / work.num_tokens,
    )


@dataclass(frozen=True, slots=True)
class Check:
    """A published decode speed against the bandwidth that the projection leans on."""

    published: Published
    bandwidth_share: float
    """Bytes of the model · tokens/s over the read bandwidth of one core."""
    j_per_token: float | None
    """Power while it ran, over its speed; None where no power was published."""


def check(profile: DeviceProfile) -> list[Check]:
    """Every published figure of the profile that says how many bytes its model has."""
    read = profile.memory.read_one_core_bytes_per_s
    if read is None:
        return []
    return [
        Check(
            published,
            published.model_bytes.value * published.speed_tokens_per_s.value / read.value,
            published.load_w.value / published.speed_tokens_per_s.value
            if published.load_w is not None
            else None,
        )
        for published in profile.published
        if published.model_bytes is not None and published.processor == "cpu"
    ]


def read_bandwidth(num_passes: int = 5) -> float:
    """Bytes/s that one core of this machine reads in sequence: the best of a few passes."""
    arm = MemoryArm({"num_threads": 1})
    return 1 / min(arm.kinds["read"](num_passes))
