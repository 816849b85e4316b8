"""Whether somebody listens on a port of this machine."""

from __future__ import annotations

import socket
import time


def is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            return True
    except ConnectionRefusedError:
        return False


def wait_until_closed(port: int) -> None:
    """Fails if somebody still listens after 20 s."""
    deadline_s = time.monotonic() + 20
    while is_open(port):
        assert time.monotonic() < deadline_s, "the port is still open"
        time.sleep(0.02)
