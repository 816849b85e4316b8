"""Settings of the edge: one frozen dataclass, filled by a TOML file and then by flags."""

from __future__ import annotations

import difflib
import ipaddress
import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from device_runtime.protocol.errors import ConfigError
from edge_server.logs import LOG_FORMATS
from edge_server.plan import ROUND_TOKENS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float64", "float32", "bfloat16")
"""Beside `auto`."""

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
}


@dataclass(frozen=True, slots=True)
class EdgeConfig:
    """What `tandem edge` can be told. Keys of the TOML file are the names of these fields."""

    model: str = ""
    """Folder of the checkpoint."""
    host: str = "127.0.0.1"
    port: int = 8600
    """0 takes a free one."""
    device: str = "auto"
    edge_draft: str = ""
    """Folder of a small model that drafts for streams and completions, beside the large one."""
    edge_gamma: int = 4
    """Tokens it drafts at a time."""
    dtype: str = "auto"
    """float64, float32 or bfloat16; auto is bfloat16 on a GPU and float32 on a CPU."""
    replicas: int = 1
    """Copies of the model on a CPU, each with its own batches and share of the cache."""
    num_threads: int = 0
    """Of each replica; 0 divides the cores among several, and tries how many pay for one. Fewer are
    faster where others compute too."""
    cache_gib: float = 0.0
    """Memory for keys and values; 0 takes a share of what is free."""
    tokens_file: str = ""
    """Bearer tokens, one a line; empty lets everyone in."""
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False
    """Serve other machines without tokens."""
    trace_file: str = ""
    """Gets a line of JSON for each job of a session: when it came, ran and was answered."""
    log_format: str = "text"
    """text or json: one JSON object a line."""
    max_sessions: int = 256
    """Sessions kept, those waiting for their client to come back included."""
    max_sessions_per_token: int = 0
    """As above, of one bearer token; 0 sets no limit of its own. The same goes for those below."""
    max_completions: int = 64
    """Completions and chats over HTTP that run at a time."""
    max_completions_per_token: int = 0
    requests_per_minute: float = 0.0
    """Generations that one bearer token may begin, over HTTP or in sessions."""
    tokens_per_minute: float = 0.0
    """Tokens that the model may run for one bearer token: prompts, drafts and what it writes."""
    max_queue: int = 1024
    """Jobs that may wait; further ones are refused with BUSY."""
    max_batch_rows: int = 256
    """Jobs in one forward pass."""
    max_batch_tokens: int = 1024
    """New tokens in one forward pass."""
    prefill_tokens: int = 256
    """Of these, how many go to long prompts while rounds wait."""
    length_ratio: float = 0.0
    """Rounds run only beside texts at most so many times longer or shorter (LAB); 0: any."""
    resume_ttl_s: float = 600.0
    """How long a session waits for its client after the connection was lost."""
    idle_timeout_s: float = 900.0
    """A connection that says nothing for so long is closed."""
    hello_timeout_s: float = 10.0
    """As above, before the first message."""
    heartbeat_s: float = 20.0
    """Between pings; a client that does not answer within half of it is gone."""
    send_timeout_s: float = 30.0
    """A client that does not take its answer within this time is dropped."""
    drain_timeout_s: float = 30.0
    """How long rounds in hand may take after SIGTERM."""
    max_refusals: int = 8
    """So many refused messages in a row close a connection."""

    def __post_init__(self) -> None:
        self._check_numbers()
        if self.log_format not in LOG_FORMATS:
            known = " or ".join(LOG_FORMATS)
            raise ConfigError(f"log_format is {self.log_format!r}; choose {known}")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ConfigError("TLS needs both a certificate and its key (--tls-cert, --tls-key)")
        if not (self.tokens_file or self.insecure or is_loopback(self.host)):
            raise ConfigError(
                f"{self.host} can be reached from other machines, and there are no bearer tokens; "
                "give --tokens-file FILE, or --insecure to let everyone in"
            )

    def _check_numbers(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; it must lie between 0 and 65535")
        for name in (
            "cache_gib", "num_threads", "length_ratio", "max_sessions_per_token",
            "max_completions_per_token", "requests_per_minute", "tokens_per_minute",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must not be negative")
        for name in (
            "max_sessions", "max_queue", "max_batch_rows", "max_batch_tokens", "prefill_tokens",
            "resume_ttl_s", "idle_timeout_s", "hello_timeout_s", "heartbeat_s", "send_timeout_s",
            "drain_timeout_s", "max_refusals", "max_completions", "edge_gamma", "replicas",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.max_batch_tokens - self.prefill_tokens < ROUND_TOKENS:
            raise ConfigError(
                f"prefill_tokens is {self.prefill_tokens}; it must leave {ROUND_TOKENS} of "
                f"max_batch_tokens ({self.max_batch_tokens}) to rounds"
            )
        if 0 < self.length_ratio < 1:
            raise ConfigError(
                f"length_ratio is {self.length_ratio}; give 0 (any length) or 1 or more"
            )

    def check_paths(self) -> None:
        """ConfigError where a file that is named is not there, or cannot be written."""
        if not self.model:
            raise ConfigError("no model is named; give --model CHECKPOINT")
        for name in ("tokens_file", "tls_cert", "tls_key"):
            path = getattr(self, name)
            if path and not Path(path).is_file():
                raise ConfigError(f"{name} is {path}, and there is no such file")
        trace = Path(self.trace_file)
        if self.trace_file and not trace.parent.is_dir():
            raise ConfigError(f"trace_file is {trace}, and there is no such folder")
        if self.trace_file and not _is_writable(trace):
            raise ConfigError(f"trace_file is {trace}, which cannot be written; name another file")


def _is_writable(path: Path) -> bool:
    """Whether this is a file, or may become one, that this process may write."""
    return not path.is_dir() and os.access(path if path.exists() else path.parent, os.W_OK)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(path: Path | None, flags: dict[str, Any]) -> EdgeConfig:
    """Settings of the TOML file, if there is one, overridden by flags that are not None."""
    settings = {} if path is None else _read_toml(path)
    settings |= {name: value for name, value in flags.items() if value is not None}
    return replace(EdgeConfig(), **settings) if settings else EdgeConfig()


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML ({error})") from None
    known = {field.name: str(field.type) for field in fields(EdgeConfig)}
    for key, value in settings.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
            raise ConfigError(f"{path} has the unknown key {key!r}; {hint}")
        wanted = _TYPES[known[key]]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ConfigError(f"{path} gives {key} = {value!r}; expected {known[key]}")
    return settings
