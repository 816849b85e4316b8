"""Bytes on the wire of one WebSocket message: what a mobile plan bills beside the payload.

Counted per message: the frame header (RFC 6455, section 5.2; the client masks), one TLS 1.3 record
per 16 KiB (RFC 8446, section 5.2), and a TCP/IPv4 header with time stamps (RFC 9293, RFC 7323) per
segment of 1,448 bytes. Not counted: acknowledgements without data, retransmissions, link framing.
"""

from __future__ import annotations

from enum import Enum

MASK_BYTES = 4
TLS_RECORD_BYTES = 22
"""Header 5, content type 1, tag 16."""
TLS_RECORD_PAYLOAD_BYTES = 1 << 14
TCP_IP_HEADER_BYTES = 52
SEGMENT_PAYLOAD_BYTES = 1448


class Direction(Enum):
    """Who sends."""

    UP = "up"
    DOWN = "down"


def frame_bytes(payload_bytes: int, direction: Direction) -> int:
    """A WebSocket frame with its header."""
    length_bytes = 0 if payload_bytes < 126 else 2 if payload_bytes < 1 << 16 else 8
    mask = MASK_BYTES if direction is Direction.UP else 0
    return 2 + length_bytes + mask + payload_bytes


def wire_bytes(payload_bytes: int, direction: Direction, tls: bool = True) -> int:
    """All bytes of one message down to IP."""
    size = frame_bytes(payload_bytes, direction)
    if tls:
        size += TLS_RECORD_BYTES * -(-size // TLS_RECORD_PAYLOAD_BYTES)
    return size + TCP_IP_HEADER_BYTES * -(-size // SEGMENT_PAYLOAD_BYTES)
