"""Energy of a board without sensors: its idle power, and more for every second a core is busy."""

from __future__ import annotations

import time
from collections.abc import Callable

from device_runtime.energy.meter import MeterError, MeterFacts
from hw_profiles.schema import DeviceProfile


class ModelledMeter:
    """idle_w · time + (active_w − idle_w) · busy core-seconds / cores, from the board's profile.

    Busy time is this process' own: other programs are not seen, nor clocks below the highest.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        busy_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """busy_s: CPU time over all threads. MeterError where the profile lacks the powers."""
        power = profile.power
        if power.idle_w is None or power.active_w is None or profile.num_cores is None:
            raise MeterError(
                f"the profile {profile.name} lacks idle_w, active_w or its cores: nothing to "
                "model from; measure them and put them into a profile of your own"
            )
        point = power.active_w.measuring_point
        assert point is not None  # the profile's reader asks for it beside every power
        self._idle_w = power.idle_w.value
        self._core_w = (power.active_w.value - power.idle_w.value) / profile.num_cores
        self._busy_s, self._clock = busy_s, clock
        self._start_s, self._start_busy_s = clock(), busy_s()
        self._facts = MeterFacts(
            name="modelled",
            kind="modelled",
            point=point,
            covers=f"{profile.name}: {self._idle_w:g} W at rest and {self._core_w:.3g} W more for "
            "each busy core, whatever it does; without the radio",
            unit="j",
            period_s=0.1,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        seconds, busy_s = self._clock() - self._start_s, self._busy_s() - self._start_busy_s
        return sum(self.joules(seconds, busy_s))

    def joules(self, seconds: float, busy_s: float) -> tuple[float, float]:
        """Of a window with that CPU time: the board at rest, and what busy cores add to it."""
        return self._idle_w * seconds, self._core_w * busy_s

    def close(self) -> None:
        pass
