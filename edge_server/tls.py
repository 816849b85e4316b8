"""The certificate of an edge, and a newer one in its place while it serves."""

from __future__ import annotations

import ssl

from device_runtime.protocol.errors import ConfigError
from edge_server.config import EdgeConfig


def tls_context(config: EdgeConfig) -> ssl.SSLContext | None:
    """TLS 1.2 or newer with the configured certificate; None without one."""
    if not config.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, config)
    return context


def load_certificate(context: ssl.SSLContext, config: EdgeConfig) -> None:
    """From now on the configured certificate; ConfigError, and nothing has changed.

    A context that is told to load a certificate takes it over before it reads the key: were the key no
    good, new connections would fail. So both are tried in a context of their own first.
    """
    try:
        for one in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
            one.load_cert_chain(config.tls_cert, config.tls_key, password=_no_password)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{config.tls_cert} and {config.tls_key} are no certificate and its key in PEM "
            f"({error.strerror or error}); give --tls-cert and --tls-key files that belong together"
        ) from None


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal, and the server would stand still until then."""
    raise ssl.SSLError("the key is encrypted; give one without a password")
