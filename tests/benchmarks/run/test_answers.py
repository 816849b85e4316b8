"""What is seen of an answer from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from benchmarks.run import answers


class Answer:
    """Two verdicts, of three and two tokens, and one token more."""

    round_clocks = ()

    def __init__(self) -> None:
        self.transcript = SimpleNamespace(times_s=[], started_s=0.0)

    async def pieces(self, _: object) -> AsyncIterator[str]:
        for times_s in ([1.0, 1.00001, 1.00002], [1.5, 1.50001], [1.8]):
            self.transcript.times_s += times_s
            for _ in times_s:
                yield "a"


async def test_tokens_of_one_message_arrive_together() -> None:
    answer: Any = Answer()
    device: Any = None
    written = await answers._written(device, answer, None, None)
    assert written.arrivals_s == (1.00002, 1.50001, 1.8)
