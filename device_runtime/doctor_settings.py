"""Facts about a machine, and the settings that follow from them and from its profile: pure."""

from __future__ import annotations

from dataclasses import dataclass

from device_runtime.doctor_power import PowerMode, PowerSensor, Throttling
from device_runtime.doctor_probe import Board, Cpu, Memory, Zone
from device_runtime.doctor_python import Interpreter
from hw_profiles import find_device, load
from hw_profiles.schema import CUDA, DeviceProfile


@dataclass(frozen=True, slots=True)
class Machine:
    """All facts that were found."""

    board: Board
    cpu: Cpu
    memory: Memory | None
    zones: tuple[Zone, ...]
    throttling: Throttling | None
    sensors: tuple[PowerSensor, ...]
    power_mode: PowerMode | None
    python: Interpreter | None
    """None where another machine's files are read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to use on this machine."""

    profile: str
    profile_fits: bool
    """False: no profile is this machine; the one named is the closest by core or instruction sets."""
    extra: str
    export_options: str
    """Of `tandem export`, for a bundle with these weights."""
    weights: str
    accuracy_level: int
    weights_why: str
    num_threads: int
    allow_spinning: bool
    num_context_tokens: int
    providers: tuple[str, ...]


def choose_profile(machine: Machine) -> tuple[DeviceProfile, bool]:
    """The machine's profile; else the closest by its fastest core or instruction sets, and False."""
    cpu = machine.cpu
    found = find_device(machine.board.compatibles, cpu.isa)
    if found is not None:
        return found, True
    boards = [load(f"raspberry-pi-{board}") for board in ("5", "4", "zero-2w")]
    fastest = cpu.cores[0].name if cpu.cores else None
    same_core = (board for board in boards if board.cpu.clusters[0].core == fastest)
    return next(same_core, boards[0 if "dotprod" in cpu.features else 1]), False


def choose_settings(machine: Machine, profile: DeviceProfile, *, fits: bool) -> Settings:
    """The profile's settings, cut to the cores and providers that are there."""
    runtime = profile.runtime
    fast = _num_fast_cores(machine.cpu)
    wanted = int(runtime.num_threads.value) if runtime.num_threads and fits else fast
    online = sum(cores.num_cores for cores in machine.cpu.cores) or wanted
    is_jetson = any(c.startswith("nvidia,") for c in machine.board.compatibles)
    providers = runtime.providers.value
    if machine.python is not None and machine.python.onnxruntime is not None:
        present = machine.python.onnxruntime.providers
        providers = tuple(p for p in providers if p in present) or providers
    weights, export_options = runtime.weights, f"--device {profile.name}"
    if runtime.cpu_weights is not None and CUDA not in providers:
        weights = runtime.cpu_weights
        export_options += f" --weights {weights.value}"
    return Settings(
        profile=profile.name,
        profile_fits=fits,
        extra="jetson" if is_jetson else "device",
        export_options=export_options,
        weights=weights.value,
        accuracy_level=runtime.accuracy_level.value,
        weights_why=weights.why,
        num_threads=min(wanted, online),
        allow_spinning=runtime.allow_spinning.value,
        num_context_tokens=int(runtime.num_context_tokens.value),
        providers=providers,
    )


def _num_fast_cores(cpu: Cpu) -> int:
    """Cores that keep up with the fastest: a team of threads is as slow as its slowest."""
    # Favoured cores of a PC differ by a few percent, small cores by a fifth or more.
    fastest_hz = max((cores.max_clock_hz or 0.0 for cores in cpu.cores), default=0.0)
    fast = [c for c in cpu.cores if (c.max_clock_hz or 0.0) >= 0.85 * fastest_hz]
    return sum(cores.num_cores for cores in fast) or 1
