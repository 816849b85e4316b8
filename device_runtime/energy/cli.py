"""`tandem energy`: the power meters of this machine, and what one of them reads."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

from device_runtime.energy.find import AUTO, KINDS, available, open_meter
from device_runtime.energy.meter import EnergyMeter, MeterError
from device_runtime.energy.recording import Energy, Recording
from device_runtime.protocol.errors import ConfigError
from hw_profiles.units import format_value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which meter, and how long."""
    parser.add_argument(
        "--read", type=float, metavar="SECONDS", help="read a meter for so long, not only list"
    )
    parser.add_argument(
        "--meter", choices=KINDS, default=AUTO,
        help="which to read (default: auto, the best of this device)",
    )  # fmt: skip
    parser.add_argument("--profile", metavar="NAME", help="of the device; default: by the board")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List the meters, or read one; exit code 0."""
    if args.read is None:
        _list(args.profile, as_json=args.json)
        return 0
    if not 0 < args.read <= 86400:
        raise ConfigError(f"--read is {args.read:g}; it must lie between 0 and 86,400 s")
    meter = open_meter(args.meter, profile=args.profile)
    try:
        _print(meter, _measure(meter, args.read), as_json=args.json)
    finally:
        meter.close()
    return 0


def _list(profile: str | None, *, as_json: bool) -> None:
    found = available(profile=profile)
    if as_json:
        facts = {
            kind: {"missing": str(meter)} if isinstance(meter, MeterError) else asdict(meter.facts)
            for kind, meter in found
        }
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    for kind, meter in found:
        if isinstance(meter, MeterError):
            text = f"not here: {meter}"
        else:
            text = f"{meter.facts.kind} at {meter.facts.point}: {meter.facts.covers}"
            meter.close()
        if not as_json:
            print(f"{kind:<9} {text}")


def _measure(meter: EnergyMeter, seconds: float) -> tuple[Energy, int]:
    with Recording(meter) as recording:
        start_s = time.monotonic()
        time.sleep(seconds)
        energy = recording.energy(start_s, time.monotonic())
    return energy, recording.num_failed


def _print(meter: EnergyMeter, measured: tuple[Energy, int], *, as_json: bool) -> None:
    (energy, num_failed), facts = measured, meter.facts
    wall_j = facts.wall.joules(energy.joules, energy.seconds) if facts.wall else None
    if as_json:
        values = {**asdict(energy), "watts": energy.watts, "wall_j": wall_j, "failed": num_failed}
        print(json.dumps({"meter": asdict(facts), "energy": values}, indent=2, ensure_ascii=False))
        return
    joules, watts = format_value("_j", energy.joules), format_value("_w", energy.watts)
    print(f"{joules} in {energy.seconds:.2f} s, {watts}, {facts.kind} at {facts.point}")
    print(f"{facts.name}: {facts.covers}")
    if wall_j is not None:
        print(f"at the supply about {format_value('_j', wall_j)}, by the published fit")
    print(
        f"{energy.num_readings} readings, {num_failed} failed, {energy.gap_s:.2g} s without readings"
    )
