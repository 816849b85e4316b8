"""`tandem doctor`: what this machine is, what to use on it, and what to fix first.

Needs nothing beyond the standard library and hw_profiles, so that it runs where nothing else does.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from device_runtime import (
    doctor_advice,
    doctor_power,
    doctor_probe,
    doctor_python,
    doctor_settings,
)
from device_runtime.doctor_advice import Finding
from device_runtime.doctor_power import CommandRunner
from device_runtime.doctor_python import Interpreter
from device_runtime.doctor_settings import Machine, Settings
from device_runtime.protocol.errors import ConfigError
from hw_profiles.units import format_value

_WIDTH = 100
_HEADINGS = {"fix": "To fix first", "advice": "Worth doing", "note": "Good to know"}


@dataclass(frozen=True, slots=True)
class Report:
    """Facts, settings and findings; `ok` says whether the device runtime can run."""

    ok: bool
    machine: Machine
    settings: Settings
    findings: tuple[Finding, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to look and how to print."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="read another machine's /proc, /sys and /etc below DIR; commands are not run then",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 when this machine can run, 1 when something must be fixed."""
    if not args.root.is_dir():
        raise ConfigError(
            f"{args.root} is not a folder; --root wants one that holds proc/ and sys/"
        )
    if args.root == Path("/"):
        command_runner: CommandRunner = doctor_power.run_command
        report = examine(args.root, command_runner, doctor_python.probe_interpreter(command_runner))
    else:
        report = examine(args.root, lambda _: None, None)
    print(to_json(report) if args.json else to_text(report))
    return 0 if report.ok else 1


def examine(root: Path, run_command: CommandRunner, python: Interpreter | None) -> Report:
    """Gather the facts below `root` and judge them."""
    machine = Machine(
        board=doctor_probe.probe_board(root),
        cpu=doctor_probe.probe_cpu(root),
        memory=doctor_probe.probe_memory(root),
        zones=doctor_probe.probe_zones(root),
        throttling=doctor_power.probe_throttling(run_command),
        sensors=doctor_power.probe_sensors(root, run_command),
        power_mode=doctor_power.probe_power_mode(run_command),
        python=python,
    )
    profile, fits = doctor_settings.choose_profile(machine)
    settings = doctor_settings.choose_settings(machine, profile, fits=fits)
    findings = doctor_advice.find_all(machine, profile, settings)
    ok = all(finding.level != "fix" for finding in findings)
    return Report(ok, machine, settings, findings)


def to_json(report: Report) -> str:
    """The whole report; units are in the keys."""
    return json.dumps(asdict(report), indent=2, ensure_ascii=False)


def to_text(report: Report) -> str:
    """For people: facts, settings, then what to do."""
    lines = [*_block("This machine", _facts(report.machine))]
    lines += _block("What to use", _settings(report.settings))
    for level, heading in _HEADINGS.items():
        texts = [finding.text for finding in report.findings if finding.level == level]
        if texts:
            lines += ["", heading]
        for text in texts:
            lines += _wrap(text, "  - ", "    ")
    verdict = "can run" if report.ok else "cannot run"
    advice = "" if report.ok else " before the points above are fixed"
    return "\n".join([*lines, "", f"Tandem's device runtime {verdict} here{advice}."]).lstrip("\n")


def _block(heading: str, rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield from ("", heading)
    for key, text in rows:
        yield from _wrap(text, f"  {key:<12}", " " * 14)


def _wrap(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _facts(machine: Machine) -> Iterator[tuple[str, str]]:
    board, cpu = machine.board, machine.cpu
    release = f", Jetson Linux {board.jetson_release}" if board.jetson_release else ""
    yield "board", f"{board.model or 'unknown'}{release}"
    cores = [
        f"{kind.num_cores} × {kind.name}"
        + (f" at up to {format_value('_hz', kind.max_clock_hz)}" if kind.max_clock_hz else "")
        for kind in cpu.cores
    ]
    yield "CPU", f"{' + '.join(cores) or 'unknown'}; {cpu.isa or 'unknown instruction set'}"
    yield "features", " ".join(cpu.features) or "none that the kernels could use"
    if machine.memory is not None:
        total, free = machine.memory.total_bytes, machine.memory.available_bytes
        yield "memory", f"{format_value('_bytes', total)}, {format_value('_bytes', free)} free"
    yield from _state(machine)
    if machine.python is not None:
        yield from _python(machine.python)


def _state(machine: Machine) -> Iterator[tuple[str, str]]:
    if machine.zones:
        hottest = machine.zones[0]
        trip_c = hottest.throttles_at_c
        limit = f", slows down from {trip_c:.0f} °C" if trip_c is not None else ""
        yield "temperature", f"{hottest.temperature_c:.1f} °C ({hottest.name}{limit})"
    if machine.throttling is not None:
        now = ", ".join(machine.throttling.now) or "nothing now"
        before = ", ".join(machine.throttling.since_boot) or "nothing"
        yield "throttling", f"{now}; since boot: {before}"
    if machine.cpu.governors:
        yield "governor", ", ".join(machine.cpu.governors)
    if machine.power_mode is not None:
        yield "power mode", f"{machine.power_mode.name} (nvpmodel {machine.power_mode.id})"
    for sensor in machine.sensors:
        locked = "" if sensor.readable else " (not readable)"
        yield "sensor", f"{sensor.kind} at {sensor.path}{locked}: {', '.join(sensor.rails)}"


def _python(python: Interpreter) -> Iterator[tuple[str, str]]:
    yield "Python", f"{python.version}, {python.bits} bits on {python.machine}"
    runtime = python.onnxruntime
    if runtime is None:
        yield "onnxruntime", "not installed"
    else:
        providers = ", ".join(runtime.providers) or "no providers"
        yield "onnxruntime", f"{runtime.version or 'unknown version'}: {providers}"


def _settings(settings: Settings) -> Iterator[tuple[str, str]]:
    closest = "" if settings.profile_fits else " (the closest; none is this machine)"
    yield "profile", f"{settings.profile}{closest}"
    yield "bundle", f"tandem export ... {settings.export_options}"
    yield "command", f"tandem run ... --profile {settings.profile}"
    yield "extra", settings.extra
    level = f"accuracy level {settings.accuracy_level}"
    yield "weights", f"{settings.weights}, {level}. {settings.weights_why}"
    spinning = "on" if settings.allow_spinning else "off"
    yield "threads", f"{settings.num_threads}, spinning {spinning}"
    yield "context", f"at most {settings.num_context_tokens:,} tokens"
    yield "providers", ", ".join(settings.providers)
