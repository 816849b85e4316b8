"""Everything that goes wrong over HTTP becomes one JSON shape, which is OpenAI's.

    {"error": {"message": …, "type": …, "param": …, "code": …}}

Messages say what was wrong with the request. Of the server's own failures clients learn nothing.
"""

from __future__ import annotations

import logging
import math
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from edge_server.admission import RateError
from edge_server.failures import describe
from edge_server.scheduler import BusyError

DRAIN_RETRY_S = 5.0
_CLIENT_GONE = 499
"""nginx's number; nobody reads it."""

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "rate_limit_exceeded",
    503: "overloaded",
}

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float = 0.0,
    ) -> None:
        self.status = status
        self.body = error_body(status, message, param, code)
        self.headers: dict[str, str] = {}
        if retry_after_s:
            # Whole seconds by the standard; OpenAI's client prefers the finer one.
            self.headers["Retry-After"] = str(math.ceil(retry_after_s))
            self.headers["retry-after-ms"] = str(math.ceil(retry_after_s * 1000))
        super().__init__(message)

    def response(self) -> web.Response:
        """What the client gets."""
        return web.json_response(self.body, status=self.status, headers=self.headers)


def error_body(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    """The JSON of an error."""
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    code = code or _CODES.get(status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def from_busy(error: BusyError) -> ApiError:
    """429 where the client is at a limit of its own, 503 where the edge is at one of its."""
    wait_s = max(error.retry_after_s, 0.05)
    if isinstance(error, RateError):
        text = f"you are at a limit of this server ({error.detail}); try again in {wait_s:.1f} s"
        return ApiError(429, text, retry_after_s=wait_s)
    return ApiError(503, "this server is at its limit; try again later", retry_after_s=wait_s)


def draining() -> ApiError:
    """503: the server finishes what it has, and takes nothing new."""
    text = "this server is shutting down; ask another one"
    return ApiError(503, text, code="draining", retry_after_s=DRAIN_RETRY_S)


def from_validation(error: ValidationError) -> ApiError:
    """400 with the first thing that is wrong; what the client wrote is not repeated.

    Where a value may be of several types, all of them complain; the one that it has knows why.
    """
    found = error.errors(include_url=False, include_input=False, include_context=False)
    first = next((each for each in found if not each["type"].endswith("_type")), found[0])
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        # Deeper places are named, too: stream_options.include_usage.
        param = ".".join(map(str, first["loc"]))
        text = f"the parameter {param[:64]} is not supported by this server; leave it out"
        return ApiError(400, text, param=param[:64], code="unsupported_parameter")
    place = ".".join(map(str, first["loc"])) or "body"
    code = "missing_parameter" if first["type"] == "missing" else "invalid_value"
    return ApiError(400, f"{place[:128]}: {first['msg']}", param=param and param[:64], code=code)


@web.middleware
async def json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Give every error the one shape. The outermost middleware."""
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except BusyError as error:
        return from_busy(error).response()
    except web.HTTPException as error:
        if error.status < 400:
            raise
        text = (error.text or error.reason).strip()
        headers = {
            name: error.headers[name]
            for name in ("Allow", "Retry-After", "WWW-Authenticate")
            if name in error.headers
        }
        body = error_body(error.status, text, None, None)
        return web.json_response(body, status=error.status, headers=headers)
    except ConnectionError:
        # Nobody is left to tell; raised, it would be logged as a bug, with a traceback.
        return web.Response(status=_CLIENT_GONE)
    except Exception as error:  # noqa: BLE001 -- a bug must tell the client nothing
        logger.error("request failed: %s", describe(error))  # noqa: TRY400
        body = error_body(500, "internal error", None, "internal_error")
        return web.json_response(body, status=500)
