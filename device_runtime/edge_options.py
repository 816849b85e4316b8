"""How a command reaches an edge: --edge, --token-file and --ca-file, checked before all else."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.messages import SESSION_PATH


def edge_url(typed: str, path: str) -> str:
    """http:// or https:// URL of a route of the edge at the URL that a user types."""
    schemes = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
    try:
        parts = urlsplit(typed if "//" in typed else f"http://{typed}")
        is_right = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number below 65536
        is_right = False
    if not is_right:
        raise ConfigError(f"{typed!r} is no edge URL; expected http(s)://HOST:PORT")
    before = parts.path.rstrip("/").removesuffix(SESSION_PATH)
    return urlunsplit((schemes[parts.scheme], parts.netloc, before + path, "", ""))


def session_url(typed: str) -> str:
    """ws:// or wss:// URL of the session route."""
    return edge_url(typed, SESSION_PATH).replace("http", "ws", 1)


def bearer_token(path: Path) -> str:
    """The bearer token in a file; ConfigError where there is none, or the list of an edge."""
    lines = text_file(path, "--token-file").strip().splitlines()
    if len(lines) == 1 and lines[0].isprintable():
        return lines[0]
    found = "control characters" if len(lines) == 1 else f"{len(lines)} lines"
    raise ConfigError(
        f"--token-file {path} holds {found}; write into it one line, this device's own bearer token"
    )


def trusted(ca_file: str | None, edge: str) -> ssl.SSLContext | Literal[True]:
    """What aiohttp trusts: the certificates of --ca-file, else (True) the system's authorities.

    ConfigError where no certificates are in the file, or the edge has no TLS to trust them for.
    """
    if not ca_file:
        return True
    if edge_url(edge, "").startswith("http:"):
        raise ConfigError(
            f"--ca-file is for TLS, and --edge {edge} has none; write https://, or leave --ca-file out"
        )
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"--ca-file {ca_file} gives no certificates: {error}") from None


def text_file(path: Path, option: str) -> str:
    """A text file that an option names."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{option} {path} is no UTF-8 text ({error})") from None
