"""Where an edge listens: found out before a model loads, which takes minutes."""

from __future__ import annotations

import os
import socket

from device_runtime.protocol.errors import ConfigError
from edge_server.config import EdgeConfig


def check_address(config: EdgeConfig) -> None:
    """ConfigError where the address is taken, or not this machine's."""
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)
        for family, kind, _, _, address in found:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
    except OSError as error:
        raise unavailable(config, error) from None


def unavailable(config: EdgeConfig, error: OSError) -> ConfigError:
    """What to say where an edge cannot listen."""
    number = error.errno or 0
    words = os.strerror(number) if number > 0 else error.strerror
    return ConfigError(
        f"nothing can listen at {config.host}:{config.port} ({words}); take another --port (0 takes a "
        "free one) or --host"
    )
