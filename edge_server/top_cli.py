"""`tandem top`: what an edge is doing, live."""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import aiohttp
from rich.console import Console
from rich.live import Live

from device_runtime.edge_errors import refused, unreachable
from device_runtime.edge_options import bearer_token, edge_url, trusted
from device_runtime.protocol.errors import ConfigError
from edge_server.status import STATUS_PATH
from edge_server.top import Json, frame, rates

_TIMEOUT_S = 10.0


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
        headers["Authorization"] = f"Bearer {bearer_token(args.token_file)}"
    url = edge_url(args.edge, STATUS_PATH)
    tls = trusted(args.ca_file, args.edge)
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as http:
        before = await _fetch(http, url, tls)
        while True:
            await asyncio.sleep(args.interval)
            after = await _fetch(http, url, tls)
            yield after, rates(before, after)
            before = after


async def _fetch(
    http: aiohttp.ClientSession, url: str, tls: ssl.SSLContext | Literal[True]
) -> Json:
    has_token = "Authorization" in http.headers
    try:
        async with http.get(url, ssl=tls, allow_redirects=False) as answer:
            body = await answer.read()
    except (aiohttp.ClientError, TimeoutError, asyncio.TimeoutError) as error:
        raise unreachable(url, error, has_token=has_token) from None
    if answer.status != 200:
        raise refused(url, answer.status, has_token=has_token)
    try:
        status = json.loads(body)
        known = isinstance(status, dict) and "replicas" in status
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{url} gives no status that this version knows; is it a Tandem edge?")
    found: Json = status
    return found
