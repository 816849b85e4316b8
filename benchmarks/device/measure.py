"""The alternating run: every contender in turn, round after round, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.device.arms import ArmProcess
from device_runtime.energy.meter import EnergyMeter, MeterFacts
from device_runtime.energy.recording import Recording

OWN_KINDS = ("bare", "drafting", "outside")
"""What only Tandem's own arm can tell (see `tandem_arm`)."""


@dataclass(frozen=True, slots=True)
class Phase:
    """Rounds at one length of context."""

    context: int
    num_rounds: int
    num_tokens: int
    """Written in each round, after the same number of tokens."""


@dataclass(slots=True)
class Round:
    """One contender in one round of a phase."""

    contender: str
    context: int
    number: int
    """0 is the warm-up: kept, and outside every median."""
    prefill_s: float
    steps_s: list[float]
    cpu_s: float
    memory: dict[str, int]
    own: dict[str, list[float]] = field(default_factory=dict)
    """OWN_KINDS → a value for each token or block."""


@dataclass(slots=True)
class Measured:
    """The whole run."""

    rounds: list[Round] = field(default_factory=list)
    read_s_per_byte: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    joules_per_token: dict[int, float] = field(default_factory=dict)
    """By context; empty without a meter."""
    meter: MeterFacts | None = None
    idle_w: float | None = None


def phases(contexts: Sequence[int], num_rounds: int, num_tokens: int) -> list[Phase]:
    """The first context in full; longer ones, whose prompts take most of the time, in fewer rounds."""
    first, *longer = contexts
    few = max(3, num_rounds // 4)
    return [Phase(first, num_rounds, num_tokens), *(Phase(c, few, num_tokens // 2) for c in longer)]


def alternate(
    arms: Sequence[ArmProcess], memory: ArmProcess, plan: Sequence[Phase], measured: Measured,
    advance: Callable[[], None],
) -> None:  # fmt: skip
    """Fill in rounds and memory speed; `advance` is called once per contender and round."""
    for phase in plan:
        for number in range(phase.num_rounds + 1):
            for arm in _turned(arms, number):
                measured.rounds.append(_round(arm, phase, number))
                advance()
            if number:
                passes = memory.ask("decode", count=2, kind="read")["steps_s"]
                measured.read_s_per_byte.append(min(passes))


def _turned(arms: Sequence[ArmProcess], by: int) -> Iterator[ArmProcess]:
    """Nobody always runs after the same one."""
    return (arms[(index + by) % len(arms)] for index in range(len(arms)))


def _round(arm: ArmProcess, phase: Phase, number: int) -> Round:
    prefill_s = arm.ask("prefill", count=phase.context)["prefill_s"]
    decoded = arm.ask("decode", count=phase.num_tokens, kind="greedy")
    result = Round(
        arm.contender.name, phase.context, number, prefill_s,
        decoded["steps_s"], decoded["cpu_s"], arm.memory_bytes(),
    )  # fmt: skip
    for kind in OWN_KINDS:
        if kind in arm.kinds:
            own = arm.ask("decode", count=phase.num_tokens, kind=kind)
            result.own[kind] = own["steps_s"]
    return result


def start_times(start: Callable[[], ArmProcess], count: int) -> Iterator[float]:
    """Seconds from the start of a fresh process to its first token; the disk is warm."""
    for number in range(count + 1):
        with start() as arm:
            if number:
                yield arm.start_s


def energy(
    arm: ArmProcess, meter: EnergyMeter, plan: Sequence[Phase], seconds: float
) -> tuple[dict[int, float], float]:
    """(joules per token written after each context, watts of the idle machine before).

    Gross, as the meter sees. The prompt is read before the meter counts, and each token lies as near to
    its context as in the rounds.
    """
    joules = {}
    with Recording(meter) as recording:
        idle_from_s = recording.mark()
        time.sleep(seconds)
        idle_w = recording.energy(idle_from_s, recording.mark()).watts
        for phase in plan:
            arm.ask("prefill", count=phase.context)
            decoded, from_s = 0, recording.mark()
            while time.monotonic() < from_s + seconds:
                found = arm.ask("decode", count=phase.num_tokens, kind="again")
                decoded += len(found["steps_s"])
            joules[phase.context] = recording.energy(from_s, recording.mark()).joules / decoded
    return joules, idle_w
