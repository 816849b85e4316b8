"""Delays and rates through the proxy against what they should be.

A device and an edge in this process, the proxy in one of its own: what is measured holds the
wake-ups of all three. Without a proxy the same messages show what the measuring itself costs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median, quantiles

from benchmarks.link.model import HEADER_BYTES, SEGMENT_BYTES
from benchmarks.link_process import LinkProcess

PROFILE = "papers-20ms-100mbps"
MESSAGE_BYTES = 100
RTTS_S = (0.0, 0.02, 0.05)
RATES_BPS = (1e6, 10e6, 50e6, 100e6, 200e6)
READ_BYTES = 1 << 20
TOLERATED_S = 1e-3
TOLERATED_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Delay:
    """Small messages, one way, one at a time."""

    rtt_s: float
    way: str
    expected_s: float
    median_s: float
    p90_s: float
    direct_s: float
    """Median without a proxy."""

    @property
    def error_s(self) -> float:
        """Of the median."""
        return self.median_s - self.expected_s


@dataclass(frozen=True, slots=True)
class Throughput:
    """A long transfer, one way, counted with the headers that the model bills."""

    way: str
    expected_bps: float
    measured_bps: float

    @property
    def error(self) -> float:
        """Share of the expected rate."""
        return self.measured_bps / self.expected_bps - 1


@dataclass(frozen=True, slots=True)
class Accuracy:
    """All of them."""

    delays: tuple[Delay, ...]
    rates: tuple[Throughput, ...]

    @property
    def ok(self) -> bool:
        """Whether every median delay is within 1 ms and every rate within 3 %."""
        good = all(abs(delay.error_s) <= TOLERATED_S for delay in self.delays)
        return good and all(abs(rate.error) <= TOLERATED_SHARE for rate in self.rates)


def measure(messages: int, seconds: float, step: Callable[[], None]) -> Accuracy:
    """`messages` for each round trip, `seconds` for each rate; `step` is called after each part."""
    direct_s = {way: median(times) for way, times in _direct(messages).items()}
    delays: list[Delay] = []
    for rtt_s in RTTS_S:
        delays += _delays(rtt_s, messages, direct_s)
        step()
    rates: list[Throughput] = []
    for rate_bps in RATES_BPS:
        rates += _throughputs(rate_bps, seconds)
        step()
    return Accuracy(tuple(delays), tuple(rates))


@contextlib.contextmanager
def _pair(arguments: list[str] | None) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A device's and an edge's socket, connected over a link, or directly with None."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(10.0)
        host, port = listener.getsockname()
        if arguments is not None:
            link = stack.enter_context(LinkProcess(PROFILE, f"{host}:{port}", arguments))
            host, port = link.ready()
        device = stack.enter_context(socket.create_connection((host, port), timeout=60.0))
        edge = stack.enter_context(listener.accept()[0])
        edge.settimeout(60.0)
        for end in (device, edge):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield device, edge


def _receive(end: socket.socket, num_bytes: int) -> float:
    """Take so many bytes; when the last was there."""
    while num_bytes > 0:
        data = end.recv(min(num_bytes, READ_BYTES))
        if not data:
            raise ConnectionError("the connection was closed before all bytes were there")
        num_bytes -= len(data)
    return time.monotonic()


def _in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _one_way(device: socket.socket, edge: socket.socket, num: int) -> dict[str, list[float]]:
    """Seconds that messages took up and down, in turn; the first, with the handshake, left out."""
    taken: dict[str, list[float]] = {"up": [], "down": []}
    sent_s: dict[str, float] = {}

    def answer() -> None:
        for _ in range(num + 1):
            taken["up"].append(_receive(edge, MESSAGE_BYTES) - sent_s["up"])
            sent_s["down"] = time.monotonic()
            edge.sendall(bytes(MESSAGE_BYTES))

    thread = _in_thread(answer)
    for _ in range(num + 1):
        sent_s["up"] = time.monotonic()
        device.sendall(bytes(MESSAGE_BYTES))
        taken["down"].append(_receive(device, MESSAGE_BYTES) - sent_s["down"])
    thread.join()
    return {way: times[1:] for way, times in taken.items()}


def _direct(num: int) -> dict[str, list[float]]:
    with _pair(None) as (device, edge):
        return _one_way(device, edge, num)


def _delays(rtt_s: float, num: int, direct_s: dict[str, float]) -> list[Delay]:
    with _pair(["--rtt-s", str(rtt_s)]) as (device, edge):
        taken = _one_way(device, edge, num)
    expected_s = rtt_s / 2 + 8 * (MESSAGE_BYTES + HEADER_BYTES) / 100e6
    return [
        Delay(rtt_s, way, expected_s, median(times), quantiles(times, n=10)[-1], direct_s[way])
        for way, times in taken.items()
    ]


def _throughputs(rate_bps: float, seconds: float) -> list[Throughput]:
    rate = ["--up-bps", str(rate_bps), "--down-bps", str(rate_bps)]
    with _pair(rate) as (device, edge):
        return [
            Throughput("up", rate_bps, _rate(device, edge, rate_bps, seconds)),
            Throughput("down", rate_bps, _rate(edge, device, rate_bps, seconds)),
        ]


def _rate(sender: socket.socket, receiver: socket.socket, rate_bps: float, seconds: float) -> float:
    """Bits per second on the link, headers included, after a tenth of the transfer."""
    packets = max(20, int(rate_bps * seconds / 8 / (SEGMENT_BYTES + HEADER_BYTES)))
    warm_up = packets // 10
    thread = _in_thread(lambda: sender.sendall(bytes(packets * SEGMENT_BYTES)))
    start_s = _receive(receiver, warm_up * SEGMENT_BYTES)
    end_s = _receive(receiver, (packets - warm_up) * SEGMENT_BYTES)
    thread.join()
    return 8 * (packets - warm_up) * (SEGMENT_BYTES + HEADER_BYTES) / (end_s - start_s)
