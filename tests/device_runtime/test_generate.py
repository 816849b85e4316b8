"""An answer that is cancelled while the SLM reads a long prompt."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from device_runtime.cancellation import leave_off_if_cancelled
from device_runtime.edge_loss import write_until_back
from device_runtime.generate import write_device_only, write_lossy, write_split
from device_runtime.lossy import Improbable
from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Counts
from tests.table_model import TableDrafter, TableEdge, open_session, random_table

VOCAB = 12
TABLE = random_table(VOCAB, seed=1)
PROMPT = [3, 1, 4]
GENERATION = Generation(scheme_named("coupled"), Sampling(), seed=7, end_ids=())


class SlowDrafter(TableDrafter):
    """Takes ten seconds for every run, in many chunks."""

    def __init__(self) -> None:
        super().__init__(TABLE)
        self.begun, self.ended = threading.Event(), threading.Event()

    def append(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.begun.set()
        try:
            for _ in range(1000):
                time.sleep(0.01)
                leave_off_if_cancelled()
        finally:
            self.ended.set()
        return super().append(token_ids)


class Edge:
    """A link to an edge that is as good as gone, or answers the first message only."""

    def __init__(self, *, answers: bool) -> None:
        self._edge, self._answers = TableEdge(TABLE), answers
        self.session = open_session(self._edge)
        self.session.append(PROMPT)
        self.traffic = SimpleNamespace(frames_up=0)

    async def exchange(self, data: bytes) -> bytes:
        if not self._answers:
            await asyncio.Event().wait()
        return self._edge.answer(data)

    async def reopen(self) -> None:
        await asyncio.Event().wait()


def split(drafter: SlowDrafter, transcript: Transcript) -> AsyncIterator[Piece]:
    link: Any = Edge(answers=False)
    return write_split(link, drafter, GENERATION, 3, device_coins(5), transcript, Counts())


def lossy(drafter: SlowDrafter, transcript: Transcript) -> AsyncIterator[Piece]:
    link: Any = Edge(answers=True)
    coins, policy = device_coins(5), Improbable()
    return write_lossy(link, drafter, GENERATION, policy, coins, transcript, Counts())


def device_only(drafter: SlowDrafter, transcript: Transcript) -> AsyncIterator[Piece]:
    return write_device_only(drafter, PROMPT, GENERATION, VOCAB, device_coins(5), transcript)


def without_the_edge(drafter: SlowDrafter, transcript: Transcript) -> AsyncIterator[Piece]:
    link: Any = Edge(answers=False)
    return write_until_back(link, drafter, GENERATION, device_coins(5), transcript, Counts())


@pytest.mark.parametrize("write", [split, lossy, device_only, without_the_edge])
async def test_a_cancelled_answer_does_not_wait_until_the_prompt_is_read(
    write: Callable[[SlowDrafter, Transcript], AsyncIterator[Piece]],
) -> None:
    drafter = SlowDrafter()
    transcript = Transcript(Detokenizer(lambda i: bytes([97 + i])), frozenset(), 10)

    async def consume() -> None:
        async for _ in write(drafter, transcript):
            pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(drafter.begun.wait, 20)
    start_s = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.monotonic() - start_s < 5
    assert drafter.ended.is_set() and drafter.num_tokens == 0


def never_alone(drafter: TableDrafter, link: Any, transcript: Transcript) -> AsyncIterator[Piece]:
    return write_split(link, drafter, GENERATION, 3, device_coins(5), transcript, Counts())


def mostly_alone(drafter: TableDrafter, link: Any, transcript: Transcript) -> AsyncIterator[Piece]:
    policy, coins = Improbable(threshold=0.0), device_coins(5)
    return write_lossy(link, drafter, GENERATION, policy, coins, transcript, Counts())


@pytest.mark.parametrize("write", [never_alone, mostly_alone])
async def test_an_answer_that_a_stop_string_ended_can_be_gone_on_with(
    write: Callable[[TableDrafter, Any, Transcript], AsyncIterator[Piece]],
) -> None:
    """With no token in between: the drafter's row after the last one went with the stop string."""
    link, drafter = Edge(answers=True), TableDrafter(TABLE)
    for stop in "abcdefghijkl":
        transcript = Transcript(Detokenizer(lambda i: bytes([97 + i]), (stop,)), frozenset(), 10)
        text = [*link.session.tokens.ids]
        async for _ in write(drafter, link, transcript):
            pass
        assert [*link.session.tokens.ids] == [*text, *transcript.token_ids]
        assert drafter.tokens == tuple(link.session.tokens.ids)[: drafter.num_tokens]
