"""`tandem link`: put a link of your choice between device and edge, with a proxy or with tc."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.link import tc, trace
from benchmarks.link.capacity import Outage, Rates
from benchmarks.link.model import Link
from benchmarks.link.proxy import Proxy, run_precisely
from benchmarks.link.settings import Extras, LinkModel, from_profile
from hw_profiles import ProfileError, load_link
from hw_profiles.units import format_value

COUNTS = "counts"
"""With --control, this line on stdin is answered by a line of JSON; the end of stdin ends it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`run`, `show`, `apply`, `undo`."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="{run,show,apply,undo}")
    text = "a TCP proxy that behaves like the link; needs no rights"
    run = verbs.add_parser("run", help=text, description=f"{text}.")
    run.add_argument("profile", help="a link of `tandem profiles list`, or a TOML file")
    run.add_argument("--edge", required=True, metavar="HOST:PORT", help="where the edge listens")
    run.add_argument(
        "--listen", default="127.0.0.1:8700", metavar="HOST:PORT",
        help="where devices connect (default: 127.0.0.1:8700; port 0 takes a free one)",
    )  # fmt: skip
    _add_model_arguments(run)
    run.add_argument("--seed", type=int, default=0, help="of jitter and losses (default: 0)")
    run.add_argument("--json", action="store_true", help="print address and counts as JSON")
    run.add_argument("--control", action="store_true", help=argparse.SUPPRESS)
    run.add_argument(
        "--no-realtime", action="store_true",
        help="keep the usual priority; without this the proxy takes a real-time one if it may",
    )  # fmt: skip
    text = "what would be emulated, and what tc would be told"
    show = verbs.add_parser("show", help=text, description=f"{text}.")
    show.add_argument("profile", help="a link of `tandem profiles list`, or a TOML file")
    _add_model_arguments(show)
    for action, text in (
        ("apply", "set the link with Linux's tc netem on this device; needs root"),
        ("undo", "take away what `apply` has set"),
    ):
        sub = verbs.add_parser(action, help=text, description=f"{text}.")
        if action == "apply":
            sub.add_argument("profile", help="a link of `tandem profiles list`, or a TOML file")
            sub.add_argument("--near", action="store_true", help="round trip to a server nearby")
        sub.add_argument("--dev", required=True, metavar="IFACE", help="such as wlan0")
        sub.add_argument("--dry-run", action="store_true", help="print the commands only")


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """What a profile does not say."""
    parser.add_argument("--near", action="store_true", help="round trip to a server nearby")
    parser.add_argument(
        "--slow-start", action="store_true",
        help="let connections begin with ten packets a round trip, as TCP does",
    )  # fmt: skip
    parser.add_argument(
        "--always-awake", action="store_true", help="no wake-up of the radio after a silence"
    )
    parser.add_argument(
        "--outage", action="append", default=[], metavar="START:SECONDS[:EVERY]",
        help="nothing passes from START on for SECONDS, and again EVERY so many; may be repeated",
    )  # fmt: skip
    parser.add_argument("--loss-burst", type=float, default=1.0, help="mean losses in a row")
    parser.add_argument("--queue-bytes", type=int, help="default: 0.1 s at the rate, >= 64 KiB")
    parser.add_argument("--rtt-s", type=float, help="another round trip than the profile's")
    for way in ("up", "down"):
        rate = parser.add_mutually_exclusive_group()
        rate.add_argument(f"--{way}-bps", type=float, help="another rate than the profile's")
        rate.add_argument(
            f"--{way}-trace", type=Path, metavar="FILE",
            help="in place of the rate: mahimahi's format, or CSV (time_s,rate_bps)",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; 1 with one line on stderr where a profile or a trace is wrong."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": _run, "show": _show, "apply": _apply, "undo": _undo,
    }  # fmt: skip
    try:
        return actions[args.action](args)
    except (ProfileError, tc.TcError) as error:
        print(f"tandem: {error}", file=sys.stderr)
        return 1


def _model(args: argparse.Namespace) -> LinkModel:
    extras = Extras(
        up_rates=_rates(args.up_trace, args.up_bps),
        down_rates=_rates(args.down_trace, args.down_bps),
        rtt_s=args.rtt_s,
        outages=tuple(_outage(text) for text in args.outage),
        loss_burst=args.loss_burst,
        queue_bytes=args.queue_bytes,
        slow_start=args.slow_start,
        near=args.near,
        radio_sleeps=not args.always_awake,
    )
    return from_profile(load_link(args.profile), extras)


def _rates(file: Path | None, rate_bps: float | None) -> Rates | None:
    if file is not None:
        return trace.load(file)
    return None if rate_bps is None else Rates.constant(rate_bps)


def _outage(text: str) -> Outage:
    try:
        numbers = [float(part) for part in text.split(":")]
        return Outage(*numbers)
    except (TypeError, ValueError) as error:
        reason = error if isinstance(error, ProfileError) else "expected START:SECONDS[:EVERY]"
        raise ProfileError(f"--outage {text}: {reason}") from None


def _address(option: str, text: str) -> tuple[str, int]:
    """Host and port; the URL that other verbs take is good, too."""
    plain = text.partition("://")[2] or text
    host, _, port = plain.rstrip("/").rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 65535:
        raise ProfileError(f"{option} is {text!r}, expected HOST:PORT")
    return host.strip("[]"), int(port)


def _run(args: argparse.Namespace) -> int:
    link = Link(_model(args), args.seed)
    edge = _address("--edge", args.edge)
    if edge == _address("--listen", args.listen):
        raise ProfileError(f"--edge and --listen are both {args.listen}; listen at another port")
    proxy = Proxy(link, edge)
    realtime = not args.no_realtime and _take_realtime_priority()
    run_precisely(_serve(proxy, args, realtime=realtime))
    return 0


def _take_realtime_priority() -> bool:
    """The network does not compete with programs for cores: nor should what stands for it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except (AttributeError, OSError):  # not Linux; no right to
        return False
    return True


async def _serve(proxy: Proxy, args: argparse.Namespace, *, realtime: bool) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with proxy.listening(*_address("--listen", args.listen)) as (host, port):
        if args.json:
            print(json.dumps({"host": host, "port": port, "realtime": realtime}), flush=True)
        else:
            print(f"{args.profile} between {host}:{port} and {args.edge}; Ctrl-C ends", flush=True)
        control = loop.create_task(_control(proxy, ended)) if args.control else None
        await ended.wait()
        if control is not None:
            control.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await control
    if args.json:
        print(json.dumps(proxy.counts()), flush=True)
    else:
        late = proxy.late
        mean_s = late.sum_s / max(1, late.deliveries)
        print(
            f"{late.deliveries} deliveries, late by {format_value('_s', mean_s)} on average and "
            f"{format_value('_s', late.max_s)} at most"
        )


async def _control(proxy: Proxy, ended: asyncio.Event) -> None:
    """Answer the parent's questions until its pipe closes."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            if line.strip() == COUNTS.encode():
                print(json.dumps(proxy.counts()), flush=True)
    finally:
        transport.close()
        ended.set()


def _show(args: argparse.Namespace) -> int:
    model = _model(args)
    for name, way in (("up", model.up), ("down", model.down)):
        outages = f", outages: {len(way.capacity.outages)}" if way.capacity.outages else ""
        print(
            f"{name:<5} {format_value('_bps', way.capacity.rates.mean_bps)}, "
            f"{format_value('_s', way.delay_s)} ± {format_value('_s', way.jitter_s)}, "
            f"loss {way.loss_ratio:.2%}, queue {format_value('_bytes', way.queue_bytes)}{outages}"
        )
    if model.tail_s is not None:
        tail, wake = (format_value("_s", x) for x in (model.tail_s, model.promotion_s))
        print(f"radio sleeps after {tail} of silence and takes {wake} to wake")
    print(f"slow start: {'yes' if model.slow_start else 'no'}")
    print("with tc:")
    for command in tc.apply_commands(model, "IFACE"):
        print("  " + " ".join(command))
    return 0


def _apply(args: argparse.Namespace) -> int:
    model = from_profile(load_link(args.profile), Extras(near=args.near))
    if args.dry_run:
        for command in tc.apply_commands(model, args.dev):
            print(" ".join(command))
        return 0
    tc.apply(model, args.dev, tc.run_command)
    print(f"{args.dev} now behaves like {args.profile}; tandem link undo --dev {args.dev} ends it")
    for text in tc.left_out(model):
        print(f"not emulated by tc: {text}")
    return 0


def _undo(args: argparse.Namespace) -> int:
    if args.dry_run:
        for command in tc.undo_commands(args.dev):
            print(" ".join(command))
        return 0
    tc.undo(args.dev, tc.run_command)
    print(f"{args.dev} is as it was")
    return 0
