"""When the jobs of devices' messages came, ran and were answered: for measurements, off by default.

A line of JSON a job, with numbers and never with content. `received_s` and `sent_s` are readings of
`time.monotonic`, which all processes of a machine share on Linux, so that a bench on the same machine
can put them beside the device's own.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from device_runtime.protocol.messages import Kind
from edge_server.job_times import JobTimes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """One job: seconds, and the clock's readings at both ends."""

    session: int
    kind: str
    """Of the message, in lower case: begin, round, more or stream."""
    received_s: float
    """When the message came; of a stream, which takes a job a token, always the same."""
    queue_s: float
    engine_s: float
    sent_s: float
    """When the answer was handed to the socket."""


class Trace:
    """Writes to a file; without one it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8") if path is not None else None

    def close(self) -> None:
        """Nothing more is written."""
        if self._file is not None:
            self._file.close()

    def answered(
        self, session: int, kind: int, received_s: float, times: JobTimes, sent_s: float
    ) -> None:
        """A job's answer was sent."""
        if self._file is None:
            return
        line = {
            "session": session,
            "kind": Kind(kind).name.lower(),
            "received_s": received_s,
            "queue_s": times.queue_s,
            "engine_s": times.engine_s,
            "sent_s": sent_s,
        }
        try:
            self._file.write(f"{json.dumps(line)}\n")
        except OSError as error:
            logger.error("the trace ends here: %s", error)  # noqa: TRY400 -- no bug of ours
            with suppress(OSError):  # what is still to be written fails again
                self._file.close()
            self._file = None


def read_trace(text: str) -> list[Answered]:
    """The jobs in the lines of a trace."""
    return [Answered(**json.loads(line)) for line in text.splitlines()]
