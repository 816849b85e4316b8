"""Live devices for `tandem bench edge --live`: each session drafts with an SLM of its own.

They share this machine with the edge and with one another, so they take processors from what is
measured: replayed answers (`benchmarks.edge_load`) are the measure of an edge, these the check that a
replay behaves as devices do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from benchmarks.edge_load import Load, Player
from benchmarks.edge_trace import num_committed
from device_runtime.edge_errors import EdgeLostError
from device_runtime.generate import write_split
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.messages import Kind
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes.base import Scheme
from device_runtime.settings import RuntimeSettings
from device_runtime.transcript import Transcript
from device_runtime.turn import Counts
from device_runtime.writer import Device


class HeardLink(EdgeLink):
    """A link that tells when verdicts come and how many tokens they commit."""

    def __init__(self, settings: LinkSettings, session: DeviceSession, player: Player) -> None:
        super().__init__(settings, session)
        self.times: list[tuple[float, int]] = []
        self._player = player

    async def exchange(self, data: bytes) -> bytes:
        start_s = time.perf_counter()
        answer = await super().exchange(data)
        if data[1] == Kind.ROUND:
            now_s, count = time.perf_counter(), num_committed(answer)
            self.times.append((now_s, count))
            self._player.round_heard(now_s - start_s, count)
        return answer


class LivePlayer(Player):
    """Sessions of real devices, in closed loops."""

    def __init__(
        self, url: str, load: Load, bundle: Path, prompts: Sequence[str], *, scheme: Scheme,
        gamma: int, sampling: Sampling, num_tokens: int,
    ) -> None:  # fmt: skip
        super().__init__(url, (), load)
        self._bundle = bundle
        self._prompts = prompts
        self._scheme = scheme
        self._gamma = gamma
        self._sampling = sampling
        self._num_tokens = num_tokens

    async def loop(self, http: aiohttp.ClientSession, number: int) -> None:
        settings = RuntimeSettings(num_threads=1)
        device = await asyncio.to_thread(Device, self._bundle, settings)
        link = HeardLink(LinkSettings(self.url), device.session(), self)
        async with link:
            for turn in range(number, number + (1 << 30)):
                await self._write(link, device, turn)

    async def _write(self, link: HeardLink, device: Device, turn: int) -> None:
        """One answer, after which the session begins anew."""
        prompt_ids = device.encode(self._prompts[turn % len(self._prompts)], system=None)
        link.session.truncate(0)
        link.session.append(prompt_ids)
        device.drafter.truncate(0)
        link.times.clear()
        counts = Counts()
        transcript = Transcript(
            device.tokenizer.detokenizer(prompt_ids, ()), frozenset(), self._num_tokens
        )
        generation = Generation(self._scheme, self._sampling, turn, ())
        start_s = time.perf_counter()
        try:
            pieces = write_split(
                link,
                device.drafter,
                generation,
                self._gamma,
                device_coins(turn),
                transcript,
                counts,
            )
            async for _ in pieces:
                pass
        except EdgeLostError:  # busy, or away, for longer than the link's patience
            self.heard.num_refused += self.counts
        self.answered(start_s, link.times)
        if self.counts:
            self.heard.num_accepted += counts.accepted
            self.heard.num_judged += counts.accepted + counts.rejected
