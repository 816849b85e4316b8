"""Joules of one answer: the device's by its profile's model, the radio's by the link's.

No meter is read here. Edges and links run on the machine that plays the device, and every meter sees
the whole machine: what it told would be their joules, too. A model takes this process' own CPU time.
"""

from __future__ import annotations

from typing import Any

from benchmarks.run.answers import Written
from device_runtime.energy.find import find_profile
from device_runtime.energy.meter import MeterError
from device_runtime.energy.modelled import ModelledMeter
from device_runtime.energy.radio import Burst, radio_energy
from device_runtime.protocol.errors import ConfigError
from hw_profiles import DeviceProfile, LinkProfile

AUTO, MODELLED, NONE = "auto", "modelled", "none"


def modelled_board(energy: str, profile: str | None) -> DeviceProfile | None:
    """The board whose joules are modelled, named or found; None where there are to be none.

    energy: of the command line; `auto` does without where this machine's profile tells no powers.
    ConfigError for a meter, MeterError where a model was asked for and cannot be.
    """
    if energy == NONE:
        return None
    if energy not in (AUTO, MODELLED):
        raise ConfigError(
            f"--energy {energy} would count edges and links as the device, for all of them run on "
            f"this machine; take {MODELLED} or {NONE} here. `tandem run --energy {energy}` against "
            "an edge on another machine measures a device, `tandem bench device` its drafter alone"
        )
    try:
        return _with_powers(profile)
    except MeterError:
        if energy == AUTO and profile is None:
            return None
        raise


def _with_powers(profile: str | None) -> DeviceProfile:
    board = find_profile(profile)
    if board is None:
        raise MeterError("no profile is known for this machine; name one with --profile")
    ModelledMeter(board)  # says what the profile lacks
    return board


def board_values(board: DeviceProfile, written: Written) -> dict[str, Any]:
    """By the keys of `benchmarks.record_keys`."""
    model = ModelledMeter(board)
    rest_j, work_j = model.joules(written.answer.transcript.wall_s, written.busy_s)
    return {
        "energy_kind": model.facts.kind, "energy_meter": model.facts.name,
        "energy_point": model.facts.point, "gross_j": rest_j + work_j, "net_j": work_j,
        "compute_j": work_j, "wait_j": rest_j,
    }  # fmt: skip


def radio_values(written: Written, link: LinkProfile) -> dict[str, Any]:
    """The radio's joules where the link's profile knows any; its tail counts whole."""
    if link.radio is None or written.bills is None:
        return {}
    transcript = written.answer.transcript
    times = {"up": [transcript.started_s], "down": list(written.arrivals_s)}
    for clock in written.answer.round_clocks:
        times["up"] += [sent_s for sent_s, _ in clock.exchanges]
    if written.answer.round_clocks:
        exchanges = (e for clock in written.answer.round_clocks for e in clock.exchanges)
        times["down"] = [answered_s for _, answered_s in exchanges]
    bursts = [
        Burst(
            time_s,
            round(written.bills[way]["wire_bytes"] / len(times[way])),
            max(1, round(written.bills[way]["packets"] / len(times[way]))),
            way == "up",
        )
        for way in times
        for time_s in times[way]
    ]
    bursts.sort(key=lambda burst: burst.time_s)
    return {"radio_j": radio_energy(link, bursts, transcript.wall_s).joules}
