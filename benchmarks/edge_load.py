"""The load of `tandem bench edge`: many device sessions over sockets, from recorded answers.

`benchmarks.edge_live` has sessions whose devices draft for real.

Closed loop: N sessions, each of which begins its next answer when one ends. Open loop: answers arrive
as a Poisson process, whether or not the edge keeps up. Between rounds a session may pause for as long
as its device would draft and its link would carry the bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import aiohttp

from benchmarks.edge_probe import ACCOUNTS_PATH
from benchmarks.edge_trace import Exchange, Trace
from device_runtime.edge_options import session_url
from device_runtime.protocol.errors import TandemError
from device_runtime.protocol.messages import Hello, Refusal, Stream, Tokens, decode, encode


@dataclass(frozen=True)
class Load:
    """What the sessions do."""

    arm: str
    """split: rounds; anything else: the edge's own streams."""
    num_sessions: int
    warmup_s: float
    seconds: float
    think_s: float = 0.0
    """Between a verdict and the next block."""
    arrivals_per_s: float = 0.0
    """Of answers, over all sessions; 0: closed loop."""
    num_ids: int = 0


@dataclass
class Heard:
    """What the sessions saw within the time that counts."""

    num_tokens: int = 0
    num_rounds: int = 0
    round_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    """From the beginning of an answer to its first token."""
    per_token_s: list[float] = field(default_factory=list)
    """Of each answer, after its first token."""
    num_flipped: int = 0
    """Answers that rounding turned another way."""
    num_refused: int = 0
    """Answers that met a limit, or found no session."""
    num_accepted: int = 0
    num_judged: int = 0
    """Drafted tokens, of live devices."""
    seconds: float = 0.0
    accounts: dict[str, Any] = field(default_factory=dict)
    """The edge's, of that time."""


class LoadError(TandemError):
    """Sessions failed, so that the edge does not have the load that is measured."""


class Player:
    """Sessions that speak to one edge."""

    def __init__(self, url: str, traces: Sequence[Trace], load: Load) -> None:
        self.url = url
        self.load = load
        self.heard = Heard()
        self.counts = False
        """Whether what is heard now lies within the time that counts."""
        self._traces = traces

    async def loop(self, http: aiohttp.ClientSession, number: int) -> None:
        """One session of a closed loop."""
        async with http.ws_connect(session_url(self.url), compress=0) as socket:
            await _shake_hands(socket, self.load.num_ids)
            for turn in range(number, number + (1 << 30)):
                await self._answer(socket, self._traces[turn % len(self._traces)])

    async def arrive(self, http: aiohttp.ClientSession, number: int) -> None:
        """One answer of an open loop, in a session of its own."""
        async with http.ws_connect(session_url(self.url), compress=0) as socket:
            await _shake_hands(socket, self.load.num_ids)
            await self._answer(socket, self._traces[number % len(self._traces)])

    async def _answer(self, socket: aiohttp.ClientWebSocketResponse, trace: Trace) -> None:
        times: list[tuple[float, int]] = []
        start_s = time.perf_counter()
        if self.load.arm == "split":
            await self._rounds(socket, trace.exchanges, times)
        else:
            await self._stream(socket, trace, times)
        self.answered(start_s, times)

    def answered(self, start_s: float, times: Sequence[tuple[float, int]]) -> None:
        """An answer is over; times: when so many tokens of it came."""
        if self.counts and times:
            self.heard.first_s.append(times[0][0] - start_s)
            count = sum(num_tokens for _, num_tokens in times[1:])
            if count:
                self.heard.per_token_s.append((times[-1][0] - times[0][0]) / count)

    def round_heard(self, seconds: float, num_tokens: int) -> None:
        """A verdict came."""
        if self.counts:
            self.heard.round_s.append(seconds)
            self.heard.num_rounds += 1
            self.heard.num_tokens += num_tokens

    async def _rounds(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        exchanges: Sequence[Exchange],
        times: list[tuple[float, int]],
    ) -> None:
        for exchange in exchanges:
            start_s = time.perf_counter()
            await socket.send_bytes(bytes.fromhex(exchange.up))
            answer = await socket.receive_bytes()
            now_s = time.perf_counter()
            if answer.hex() != exchange.down:
                await self._unlike(answer)
                break
            if exchange is exchanges[0]:
                continue
            times.append((now_s, exchange.num_tokens))
            self.round_heard(now_s - start_s, exchange.num_tokens)
            if self.load.think_s:
                await asyncio.sleep(self.load.think_s)

    async def _unlike(self, answer: bytes) -> None:
        """Another answer than was recorded: a refusal, or one that rounding turned another way."""
        message = decode(answer)
        if not isinstance(message, Refusal):
            self.heard.num_flipped += self.counts
            return
        self.heard.num_refused += self.counts
        await asyncio.sleep(message.retry_after_s)

    async def _stream(
        self,
        socket: aiohttp.ClientWebSocketResponse,
        trace: Trace,
        times: list[tuple[float, int]],
    ) -> None:
        await socket.send_bytes(bytes.fromhex(trace.exchanges[0].up))
        await socket.receive_bytes()
        await socket.send_bytes(encode(Stream(trace.num_tokens)))
        is_last = False
        while not is_last:
            message = decode(await socket.receive_bytes())
            if not isinstance(message, Tokens):
                self.heard.num_refused += self.counts
                if isinstance(message, Refusal):
                    await asyncio.sleep(message.retry_after_s)
                return
            is_last = message.last
            times.append((time.perf_counter(), len(message.ids)))
            if self.counts:
                self.heard.num_tokens += len(message.ids)
                self.heard.num_rounds += 1


async def run(player: Player) -> Heard:
    """Put the load on the edge, wait until it has settled, and listen."""
    url, load, heard = player.url, player.load, player.heard
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        source = _arrivals if load.arrivals_per_s else _closed
        works = asyncio.create_task(source(player, http, load))
        await _sleep(works, load.warmup_s)
        before, start_s = await _accounts(http, url), time.perf_counter()
        player.counts = True
        await _sleep(works, load.seconds)
        player.counts = False
        heard.seconds = time.perf_counter() - start_s
        heard.accounts = _difference(before, await _accounts(http, url))
        works.cancel()
        await asyncio.wait([works])
    return heard


async def _sleep(works: asyncio.Task[None], seconds: float) -> None:
    """Wait; an error of the sessions ends it at once."""
    done, _ = await asyncio.wait([works], timeout=seconds)
    for task in done:
        task.result()


async def _closed(player: Player, http: aiohttp.ClientSession, load: Load) -> None:
    await _together(player.loop(http, number) for number in range(load.num_sessions))


async def _together(works: Any) -> None:
    """All at once; all end with the first that fails, or with the caller."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        _require_answers(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _arrivals(player: Player, http: aiohttp.ClientSession, load: Load) -> None:
    tasks = set[asyncio.Task[None]]()
    random = Random(1)  # noqa: S311 -- arrivals need no secrets
    try:
        for number in range(1 << 30):
            await asyncio.sleep(random.expovariate(load.arrivals_per_s))
            _require_answers(tasks)
            tasks = {task for task in tasks if not task.done()}
            if len(tasks) < load.num_sessions:
                tasks.add(asyncio.create_task(player.arrive(http, number)))
            else:
                player.heard.num_refused += player.counts  # no device left to ask
    finally:
        for task in [*tasks]:
            task.cancel()
        if tasks:
            await asyncio.wait([*tasks])


def _require_answers(tasks: Iterable[asyncio.Task[None]]) -> None:
    """LoadError where some have failed: an edge that answers none is one without load."""
    errors = [error for task in tasks if task.done() and (error := task.exception())]
    kinds = Counter(f"{type(error).__name__} ({error})" for error in errors)
    if kinds:
        told = ", ".join(f"{count} × {kind}" for kind, count in kinds.most_common())
        raise LoadError(
            f"what the edge carries cannot be told, since sessions failed: {told}; mend what the edge "
            "says above, or load it with fewer --sessions"
        )


async def _shake_hands(socket: aiohttp.ClientWebSocketResponse, num_ids: int) -> None:
    await socket.send_bytes(encode(Hello("bench", num_ids, b"")))
    await socket.receive_bytes()


async def _accounts(http: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with http.get(url + ACCOUNTS_PATH) as answer:
        found: dict[str, Any] = await answer.json()
        return found


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Totals of the time between; lists hold what came in it, the memory stands as it is."""

    def between(name: str) -> Any:
        if name == "rss_bytes":
            return after[name]
        if isinstance(after[name], list):
            return after[name][len(before[name]) :]
        return after[name] - before[name]

    return {name: between(name) for name in after}


def sessions_within(per_token_s: Sequence[tuple[int, float]], limit_s: float) -> int:
    """The most sessions whose time per token keeps the limit; in between, a straight line."""
    held = 0
    for (fewer, low_s), (more, high_s) in pairwise(sorted(per_token_s)):
        if low_s > limit_s:
            return held
        held = fewer
        if high_s > limit_s:
            return int(fewer + (more - fewer) * (limit_s - low_s) / (high_s - low_s))
        held = more
    if len(per_token_s) == 1:
        ((only, only_s),) = per_token_s
        held = only if only_s <= limit_s else 0
    return held
