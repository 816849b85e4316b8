"""One class per cause; each has the code that stands for it on the wire.

`LocalError`: this side was asked for something illegal. `RemoteError`: the other side sent it.
The text that crosses the wire is fixed per code: it never holds paths, values or tracebacks.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """Causes as they cross the wire, with the sentence each stands for."""

    MALFORMED = 1
    UNSUPPORTED_VERSION = 2
    UNEXPECTED_MESSAGE = 3
    TOO_LARGE = 4
    BAD_TOKEN_ID = 5
    WRONG_ROUND = 6
    WRONG_PREFIX = 7
    CONTEXT_FULL = 8
    UNSUPPORTED_PARAMETER = 9
    VOCABULARY_MISMATCH = 10
    BUSY = 11
    DRAINING = 12
    INTERNAL = 13


SENTENCES = {
    ErrorCode.MALFORMED: "the message does not follow the wire format",
    ErrorCode.UNSUPPORTED_VERSION: "the two sides speak other protocol versions; update the older",
    ErrorCode.UNEXPECTED_MESSAGE: "a message of this kind is not allowed in this state",
    ErrorCode.TOO_LARGE: "the message or a count in it is above the agreed limit",
    ErrorCode.BAD_TOKEN_ID: "a token id is outside the shared vocabulary",
    ErrorCode.WRONG_ROUND: "the round is not the expected one, or its bytes changed",
    ErrorCode.WRONG_PREFIX: "the committed prefix differs; send the tokens again",
    ErrorCode.CONTEXT_FULL: "the tokens do not fit into the model's context",
    ErrorCode.UNSUPPORTED_PARAMETER: "a scheme or sampling parameter is not supported",
    ErrorCode.VOCABULARY_MISMATCH: "the two models do not share a tokenizer",
    ErrorCode.BUSY: "the edge is at its limit; try again later",
    ErrorCode.DRAINING: "the edge is shutting down; reconnect elsewhere",
    ErrorCode.INTERNAL: "the edge failed on its own; the session can be resumed",
}


class TandemError(Exception):
    """Base of every error a user may see: the message says what was wrong and what to do."""


class ProtocolError(TandemError):
    """A rule of the protocol was broken."""

    def __init__(self, code: ErrorCode, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{SENTENCES[code]}{f' ({detail})' if detail else ''}")


class LocalError(ProtocolError):
    """This side asked for something the protocol does not allow; nothing was sent."""


class RemoteError(ProtocolError):
    """The other side sent something the protocol does not allow."""


class RefusedError(ProtocolError):
    """The other side refused what this side sent, with this code."""

    def __init__(self, code: ErrorCode, retry_after_s: float = 0.0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(code, f"retry in {retry_after_s:.1f} s" if retry_after_s else "")


class BundleError(TandemError, ValueError):
    """A bundle folder is incomplete, altered, or of another version."""


class ConfigError(TandemError, ValueError):
    """A setting is unknown or out of range."""
