"""The joules of one answer: the machine at rest, the answer, the machine at rest again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from device_runtime.energy.find import open_meter
from device_runtime.energy.meter import EnergyMeter, MeterError
from device_runtime.energy.recording import Recording
from device_runtime.energy.report import EnergyReport, Window, make_report
from device_runtime.transcript import Transcript
from hw_profiles.units import format_value

REST_S = 5.0
"""How long the machine is watched at rest, before and after."""


@dataclass(frozen=True, slots=True)
class AnswerEnergy:
    """A report with the phases `answer`, `prefill` (until the first token) and `decode`."""

    report: EnergyReport
    num_tokens: int

    def to_dict(self) -> dict[str, object]:
        """For JSON; joules per token are those of the whole answer."""
        whole, count = self.report.phases["answer"], self.num_tokens or None
        return {
            **self.report.to_dict(),
            "gross_j_per_token": count and whole.gross_j / count,
            "net_j_per_token": None if whole.net_j is None else count and whole.net_j / count,
        }

    def notes(self) -> list[str]:
        """Lines for people."""
        report, whole = self.report, self.report.phases["answer"]
        line = f"energy: {format_value('_j', whole.gross_j)}"
        if self.num_tokens:
            line += f", {format_value('_j', whole.gross_j / self.num_tokens)} per token"
        if whole.net_j is not None and report.idle_w is not None:
            net, idle = format_value("_j", whole.net_j), format_value("_w", report.idle_w)
            line += f"; {net} above the {idle} at rest"
        line += f" ({report.kind} at {report.point}, {report.meter})"
        return [line, *(f"energy: {warning}" for warning in report.warnings)]


AfterAnswer = Callable[[Transcript], AnswerEnergy | None]


@contextmanager
def metered(name: str | None, profile: str | None, rest_s: float = REST_S) -> Iterator[AfterAnswer]:
    """Meter what the block does; call what it gives with the answer, inside the block.

    name: as for `open_meter`; None meters nothing and gives None. MeterError if there is no meter.
    """
    if name is None:
        yield lambda _: None
        return
    meter = open_meter(name, profile=profile)
    try:
        with measured(meter, rest_s) as after:
            yield after
    finally:
        meter.close()


@contextmanager
def measured(
    meter: EnergyMeter, rest_s: float, clock: Callable[[], float] = time.monotonic
) -> Iterator[AfterAnswer]:
    """As `metered`, with a meter that is open; clock: the one of the answer's times."""
    with Recording(meter, clock) as recording:
        if recording.num_failed:  # better now than when the answer is written
            raise MeterError(f"the meter {meter.facts.name} cannot be read; see tandem energy")

        def rest() -> Window:
            start_s = recording.mark()
            time.sleep(rest_s)
            return start_s, recording.mark()

        before = rest()

        def after(transcript: Transcript) -> AnswerEnergy:
            idle = [before, rest()]
            phases = _phases(transcript)
            return AnswerEnergy(make_report(recording, phases, idle), len(transcript.token_ids))

        yield after


def _phases(transcript: Transcript) -> dict[str, Window]:
    start_s = transcript.started_s
    end_s = start_s + transcript.wall_s
    phases = {"answer": (start_s, end_s)}
    if transcript.first_token_s is not None:
        phases["prefill"] = (start_s, transcript.first_token_s)
        phases["decode"] = (transcript.first_token_s, end_s)
    return phases
