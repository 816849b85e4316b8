"""Why an edge is not reached, in words that say what to do."""

from __future__ import annotations

import os

import aiohttp

from device_runtime.protocol.errors import ConfigError, TandemError

_NAMES = {62: "DNS", 64: "IP"}
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL, as `verify_code`; and the
kind of name that was looked for."""

_TIMES = (9, 10)
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""


class EdgeLostError(TandemError, ConnectionError):
    """The edge cannot be reached, or no longer answers."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        super().__init__(f"{what}; {hint}" if hint else what)


def unreachable(url: str, error: Exception, *, has_token: bool) -> TandemError:
    """The error for a connection that was not made."""
    match error:
        case aiohttp.WSServerHandshakeError():
            return refused(url, error.status, has_token=has_token)
        case aiohttp.ClientConnectorCertificateError():
            return _bad_certificate(url, error.host, error.certificate_error)
        case aiohttp.ClientSSLError():
            return EdgeLostError(
                f"TLS fails with {url} ({error.os_error})", "if the edge has none, write http://"
            )
        case aiohttp.ServerDisconnectedError():
            return EdgeLostError(
                f"{url} hung up at the first word", "if the edge serves with TLS, write https://"
            )
    # In the system's words, if it has any: aiohttp adds what only its authors understand.
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None) or 0
    words = os.strerror(number) if number > 0 else getattr(cause, "strerror", None)
    return EdgeLostError(
        f"no edge answers at {url} ({words or str(error) or type(error).__name__})",
        "is `tandem edge` running there, and is the port open?",
    )


def _bad_certificate(url: str, host: str, error: Exception) -> TandemError:
    code = getattr(error, "verify_code", 0)
    if code in _NAMES:
        return ConfigError(
            f"the certificate of {url} is for other names; take one of these for --edge, or make a "
            f"certificate with subjectAltName={_NAMES[code]}:{host}"
        )
    if code in _TIMES:
        return ConfigError(
            f"the certificate of {url} has expired or is not valid yet, by the clock of this machine; "
            "set the clock, or give the edge a newer one"
        )
    return ConfigError(
        f"the certificate of {url} is not trusted ({error}); pass that of its authority with "
        "--ca-file"
    )


def refused(url: str, status: int, *, has_token: bool) -> TandemError:
    """The error for an answer of this HTTP status to a request for this URL of an edge."""
    if status in (401, 403):
        if has_token:
            return ConfigError(f"{url} does not accept the bearer token; look into --token-file")
        return ConfigError(f"{url} wants a bearer token; pass it with --token-file FILE")
    if status == 429 or status >= 500:  # the edge's own, or a proxy's whose edge is away
        return EdgeLostError(
            f"{url} is at its limit, shutting down or away (HTTP {status})", "try again later"
        )
    return ConfigError(f"{url} is no Tandem edge: it answered HTTP {status}")
