"""What must hold between the numbers of one profile."""

from __future__ import annotations

from hw_profiles.schema import (
    GPU_PROVIDERS,
    DeviceProfile,
    LinkProfile,
    ProfileError,
    Quantity,
    Runtime,
)


def check_device(profile: DeviceProfile, where: str) -> None:
    """ProfileError where two facts of the profile contradict each other."""
    for problem in _device_problems(profile):
        raise ProfileError(f"{where}: {problem}")


def check_link(profile: LinkProfile, where: str) -> None:
    """ProfileError where the numbers of the link cannot be."""
    if profile.loss_ratio is not None and profile.loss_ratio.value >= 1:
        raise ProfileError(f"{where}: loss_ratio is a share of packets and must be below 1")
    for name in ("down_bps", "up_bps"):
        if getattr(profile, name).value == 0:
            raise ProfileError(f"{where}: {name} is 0; a link must carry something")


def _device_problems(profile: DeviceProfile) -> list[str]:
    problems = []
    cpu, memory, power, runtime = profile.cpu, profile.memory, profile.power, profile.runtime
    if _above(memory.smallest_bytes, memory.largest_bytes):
        problems.append("memory.smallest_bytes is above memory.largest_bytes")
    if _above(memory.read_one_core_bytes_per_s, memory.theoretical_bytes_per_s):
        problems.append("memory: one core reads faster than the memory can deliver")
    if _above(power.idle_w, power.active_w):
        problems.append("power.idle_w is above power.active_w")
    if _apart(power.idle_w, power.active_w):
        problems.append(
            "power.idle_w and power.active_w are measured at different points, and what is modelled "
            "subtracts one from the other"
        )
    if _above(power.envelope_min_w, power.envelope_max_w):
        problems.append("power.envelope_min_w is above power.envelope_max_w")
    sensor = power.sensor
    if sensor.total_rail is not None and sensor.total_rail not in sensor.rails:
        problems.append(f"power.sensor.total_rail {sensor.total_rail!r} is not one of its rails")
    cores = profile.num_cores
    if cores and runtime.num_threads is not None and runtime.num_threads.value > cores:
        problems.append(f"runtime.num_threads is above the {cores} cores of cpu.clusters")
    if cores and any(mode.num_cores.value > cores for mode in profile.modes):
        problems.append(f"a power mode has more cores than the {cores} of cpu.clusters")
    if runtime.accuracy_level.value == 4 and cpu.isa == "aarch64" and "dotprod" not in cpu.features:
        problems.append(
            "runtime.accuracy_level 4 needs the feature dotprod on aarch64: "
            "without it onnxruntime ignores the level; choose 0"
        )
    return problems + _weight_problems(runtime)


def _weight_problems(runtime: Runtime) -> list[str]:
    if runtime.weights.value != "fp16":
        return []
    problems = []
    if not set(GPU_PROVIDERS) & set(runtime.providers.value):
        problems.append("runtime.weights fp16 is for a GPU, and runtime.providers wishes for none")
    if runtime.cpu_weights is None or runtime.cpu_weights.value == "fp16":
        problems.append("runtime.weights fp16 needs other runtime.cpu_weights beside it")
    return problems


def _apart(a: Quantity | None, b: Quantity | None) -> bool:
    return a is not None and b is not None and a.measuring_point != b.measuring_point


def _above(a: Quantity | None, b: Quantity | None) -> bool:
    return a is not None and b is not None and a.value > b.value
