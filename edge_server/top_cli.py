"""`tandem top`: what an edge is doing, live."""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from device_runtime.protocol.errors import ConfigError, TandemError
from edge_server.status import STATUS_PATH
from edge_server.top import Json, frame, rates

_TIMEOUT_S = 10.0


class EdgeUnreachableError(TandemError):
    """There is no status to show."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem top`."""
    parser.add_argument(
        "--edge", metavar="URL", default="http://127.0.0.1:8600", help="default: %(default)s"
    )
    parser.add_argument("--token-file", type=Path, help="file with the edge's bearer token")
    parser.add_argument("--ca-file", help="certificates to trust, for an edge with its own TLS")
    parser.add_argument(
        "--interval", type=float, default=1.0, metavar="S",
        help="seconds between two looks; rates are of this time (default: 1)",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="look for one interval, print, end")
    parser.add_argument(
        "--json", action="store_true", help="print each look as one line of JSON: status and rates"
    )


def run(args: argparse.Namespace) -> int:
    """Show until interrupted, or once."""
    if not 0.05 <= args.interval <= 3600:
        raise ConfigError(f"--interval is {args.interval}; it must be 0.05 to 3600 seconds")
    if not args.edge.startswith(("http://", "https://")):
        raise ConfigError(f"--edge is {args.edge!r}; it must begin with http:// or https://")
    asyncio.run(_show(args))
    return 0


async def _show(args: argparse.Namespace) -> None:
    async with aclosing(_looks(args)) as looks:
        if args.json or args.once:
            async for status, now in looks:
                if args.json:
                    print(json.dumps({"status": status, "rates": now}), flush=True)
                else:
                    Console().print(frame(status, now))
                if args.once:
                    return
        with Live(screen=Console().is_terminal, auto_refresh=False) as live:
            async for status, now in looks:
                live.update(frame(status, now), refresh=True)


async def _looks(args: argparse.Namespace) -> AsyncGenerator[tuple[Json, Json], None]:
    """Status and rates, once an interval."""
    headers = {}
    if args.token_file:
        headers["Authorization"] = f"Bearer {args.token_file.read_text().strip()}"
    tls = ssl.create_default_context(cafile=args.ca_file) if args.ca_file else True
    url = args.edge.rstrip("/") + STATUS_PATH
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        before = await _fetch(http, url, tls)
        while True:
            await asyncio.sleep(args.interval)
            after = await _fetch(http, url, tls)
            yield after, rates(before, after)
            before = after


async def _fetch(http: aiohttp.ClientSession, url: str, tls: ssl.SSLContext | bool) -> Json:
    try:
        async with http.get(url, ssl=tls, allow_redirects=False) as answer:
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
        system = getattr(error, "os_error", error)
        cause = getattr(system, "strerror", None) or str(error) or type(error).__name__
        raise EdgeUnreachableError(f"no edge answers at {url} ({cause}); check --edge") from None
    if answer.status == 401:
        raise EdgeUnreachableError(f"{url} wants a bearer token; give --token-file FILE")
    try:
        status = json.loads(body)
        known = answer.status == 200 and isinstance(status, dict) and "uptime_s" in status
    except ValueError:
        known = False
    if not known:
        raise EdgeUnreachableError(
            f"{url} answers {answer.status} and no status; is this a Tandem edge of this version?"
        )
    found: Json = status
    return found
