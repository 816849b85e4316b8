"""Whether somebody listens on a port of this machine."""

from __future__ import annotations

import socket


def is_open(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5.0):
            return True
    except ConnectionRefusedError:
        return False
