"""Which meters this machine has, and the one to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from device_runtime.doctor_power import CommandRunner, PowerSensor, probe_sensors, run_command
from device_runtime.doctor_probe import probe_board, probe_cpu
from device_runtime.energy.ina import Ina3221Meter, InaMeter
from device_runtime.energy.meter import EnergyMeter, MeterError, WallFit
from device_runtime.energy.modelled import ModelledMeter
from device_runtime.energy.nvml import NvmlMeter
from device_runtime.energy.pmic import Mailbox, PmicMeter
from device_runtime.energy.rapl import RaplMeter
from hw_profiles import DeviceProfile, ProfileError, find_device, load

AUTO = "auto"
MAILBOX = "dev/vcio"
KINDS = ("auto", "ina", "ina3221", "pmic", "rapl", "nvml", "modelled")
"""What --energy takes; `ina` is a single-channel chip (INA219, 226, 228, 238)."""
REAL_ROOT = Path("/")


def open_meter(
    name: str = AUTO,
    *,
    root: Path = REAL_ROOT,
    run: CommandRunner = run_command,
    profile: str | None = None,
) -> EnergyMeter:
    """The meter of that kind; `auto` takes the best of this device, or the model if it has none.

    profile: of the device; None finds it by the board. `auto` never takes NVML: that is the edge's.
    """
    sensors = probe_sensors(root, run)
    board = find_profile(profile, root)
    if name != AUTO:
        return _opener(name, root, run, sensors, board)()
    reasons = []
    for kind in KINDS[1:]:
        if kind == "nvml":
            continue
        try:
            return _opener(kind, root, run, sensors, board)()
        except MeterError as error:
            reasons.append(f"{kind}: {error}")
    raise MeterError("no way to know this machine's energy; " + "; ".join(reasons))


def available(
    *, root: Path = REAL_ROOT, run: CommandRunner = run_command, profile: str | None = None
) -> list[tuple[str, EnergyMeter | MeterError]]:
    """Every kind with its meter, open, or the reason why there is none."""
    found: list[tuple[str, EnergyMeter | MeterError]] = []
    for kind in KINDS[1:]:
        try:
            found.append((kind, open_meter(kind, root=root, run=run, profile=profile)))
        except MeterError as error:
            found.append((kind, error))
    return found


def find_profile(name: str | None = None, root: Path = REAL_ROOT) -> DeviceProfile | None:
    """The device profile of that name, or this board's own, or None; MeterError for a wrong name."""
    if name is not None:
        try:
            return load(name)
        except ProfileError as error:
            raise MeterError(str(error)) from None
    return find_device(probe_board(root).compatibles, probe_cpu(root).isa)


def _opener(
    kind: str,
    root: Path,
    run: CommandRunner,
    sensors: tuple[PowerSensor, ...],
    profile: DeviceProfile | None,
) -> Callable[[], EnergyMeter]:
    openers: dict[str, Callable[[], EnergyMeter]] = {
        "ina": lambda: _ina(root, sensors, profile),
        "ina3221": lambda: _ina3221(root, sensors, profile),
        "pmic": lambda: _pmic(root, run, sensors, profile),
        "rapl": lambda: RaplMeter(_folders(root, sensors, "rapl")),
        "nvml": NvmlMeter,
        "modelled": lambda: _modelled(profile),
    }
    if kind not in openers:
        raise MeterError(f"there is no meter {kind!r}; choose one of {', '.join(KINDS)}")
    return openers[kind]


def _folders(root: Path, sensors: tuple[PowerSensor, ...], kind: str) -> list[Path]:
    return [root / sensor.path.lstrip("/") for sensor in sensors if sensor.kind == kind]


def _wall(profile: DeviceProfile | None, kind: str) -> WallFit | None:
    """The profile's fit, if it is about this kind of sensor."""
    sensor = profile.power.sensor if profile is not None else None
    if sensor is None or sensor.kind != kind or sensor.wall_offset_w is None:
        return None
    ratio = sensor.wall_per_sensor_ratio
    return WallFit(1.0 if ratio is None else ratio.value, sensor.wall_offset_w.value)


def _ina(
    root: Path, sensors: tuple[PowerSensor, ...], profile: DeviceProfile | None
) -> EnergyMeter:
    """A chip that somebody wired in; else the board's own. Both see the board's input."""
    kinds = sorted({s.kind for s in sensors if s.kind.startswith("ina") and s.kind != "ina3221"})
    own = profile.power.sensor.kind if profile is not None else None
    added = [folder for kind in kinds if kind != own for folder in _folders(root, sensors, kind)]
    if len(added) > 1:
        raise MeterError(
            f"{len(added)} such chips are here; leave only the one at the board's input"
        )
    if added:
        return InaMeter(added[0])
    for folder in _folders(root, sensors, own or ""):
        if own in kinds:
            return InaMeter(folder)
    raise MeterError("no INA219, INA226, INA228 or INA238 is known to the kernel here")


def _ina3221(
    root: Path, sensors: tuple[PowerSensor, ...], profile: DeviceProfile | None
) -> EnergyMeter:
    folders = _folders(root, sensors, "ina3221")
    if not folders:
        raise MeterError("no INA3221 is known to the kernel here")
    total_rail = profile.power.sensor.total_rail if profile is not None else None
    return Ina3221Meter(folders, total_rail, _wall(profile, "ina3221"))


def _pmic(
    root: Path,
    run: CommandRunner,
    sensors: tuple[PowerSensor, ...],
    profile: DeviceProfile | None,
) -> EnergyMeter:
    wall = _wall(profile, "pmic")
    try:
        meter = PmicMeter(Mailbox(root / MAILBOX), wall)
    except OSError:  # no mailbox, or not open to this user: a process for every reading
        if any(sensor.kind == "pmic" for sensor in sensors):
            return PmicMeter(_vcgencmd(run), wall)
    else:
        try:
            meter.read()
        except OSError:  # the boards before have the mailbox, but not the chip
            meter.close()
        else:
            return meter
    raise MeterError("no power chip answers here; only the Raspberry Pi 5 (500, CM5) has one")


def _vcgencmd(run: CommandRunner) -> Callable[[str], str]:
    """The firmware's answer by its command: a process, some milliseconds, for each."""

    def ask(command: str) -> str:
        done = run(["vcgencmd", command])
        if done is None or done.status:
            raise OSError(f"vcgencmd {command} failed")
        return done.output

    return ask


def _modelled(profile: DeviceProfile | None) -> EnergyMeter:
    if profile is None:
        raise MeterError("no profile is known for this machine; name one")
    return ModelledMeter(profile)
