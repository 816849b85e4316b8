"""Who may speak to this edge: bearer tokens, on every route except the health checks.

Without tokens everyone may who reaches it, but for web pages: a page that a user of this machine looks
at must not be able to use an edge that listens to this machine alone.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from device_runtime.protocol.errors import ConfigError
from edge_server.config import EdgeConfig

Identity = bytes
"""What tells clients apart: the hash of their token; empty if there are no tokens. Never logged."""

IDENTITY = web.RequestKey("identity", bytes)
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
MIN_TOKEN_CHARS = 16


def tokens_in_force(config: EdgeConfig) -> tuple[str, ...]:
    """The bearer tokens that the settings name; none let everyone in. ConfigError on bad ones."""
    return read_tokens_file(Path(config.tokens_file)) if config.tokens_file else ()


def read_tokens_file(path: Path) -> tuple[str, ...]:
    """The tokens, one a line; # starts a comment. ConfigError on an empty file or a short token."""
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text; write one token a line into it") from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    tokens = tuple(line for line in lines if line)
    short = sum(len(token) < MIN_TOKEN_CHARS or not token.isascii() for token in tokens)
    if not tokens or short:
        raise ConfigError(
            f"{path} holds {len(tokens)} tokens, {short} of them shorter than {MIN_TOKEN_CHARS} "
            "characters or not ASCII; make one with: "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return tokens


class KnownTokens:
    """The tokens in force; without any, everyone is let in, with one identity in common."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Sequence[str]) -> None:
        """From now on these."""
        self.digests = tuple(_digest(token.encode()) for token in tokens)

    def allows(self, identity: Identity) -> bool:
        """Whether a client that was let in before would be so now."""
        return identity in self.digests if self.digests else identity == b""


def bearer_auth(tokens: KnownTokens) -> Middleware:
    """Middleware that refuses requests without one of the tokens with 401.

    Without tokens it refuses those of foreign web pages with 403. Browsers name the page's origin with
    every WebSocket and POST; other programs do not.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        identity = _identify(request, tokens.digests) if tokens.digests else b""
        resource = request.match_info.route.resource
        is_open = resource is not None and resource.canonical in OPEN_PATHS
        if identity is None and not is_open:
            raise web.HTTPUnauthorized(
                text="a valid bearer token is needed\n", headers={"WWW-Authenticate": "Bearer"}
            )
        if not tokens.digests and is_foreign(request.headers.get("Origin"), request.host):
            raise web.HTTPForbidden(text="an edge without bearer tokens serves no web pages\n")
        request[IDENTITY] = identity or b""
        return await handler(request)

    return check


def is_foreign(origin: str | None, host: str) -> bool:
    """Whether a request comes from a web page that this edge did not serve.

    A page's own name proves nothing: its owner can let the name point here. An address or `localhost`
    cannot be rebound so.
    """
    if origin is None:
        return False
    try:
        page = urlsplit(origin)
        name = page.hostname or ""
        if name != "localhost":
            ipaddress.ip_address(name)
    except ValueError:
        return True
    return page.netloc != host


def _identify(request: web.Request, known: Sequence[Identity]) -> Identity | None:
    """The known digest that fits the request's token. All are compared, in constant time each."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    given = _digest(token.strip().encode("utf-8", "surrogateescape"))
    fitting = [digest for digest in known if hmac.compare_digest(digest, given)]
    return fitting[0] if fitting and kind.lower() == "bearer" else None


def _digest(token: bytes) -> Identity:
    return hashlib.sha256(token).digest()
