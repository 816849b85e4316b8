"""What a device says of a certificate that it does not take."""

from __future__ import annotations

import ssl
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from device_runtime.edge_errors import unreachable
from device_runtime.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("verify_code", "said"),
    [
        (62, "is for other names; .* with subjectAltName=DNS:edge.local$"),
        (64, "is for other names; .* with subjectAltName=IP:edge.local$"),
        (9, "not valid yet, by the clock of this machine; set the clock"),
        (10, "has expired or .*; set the clock, or give the edge a newer one$"),
        (18, "is not trusted .*; pass that of its authority with --ca-file$"),
    ],
)
def test_each_fault_of_a_certificate_has_its_own_remedy(verify_code: int, said: str) -> None:
    fault = ssl.SSLCertVerificationError()
    fault.verify_code = verify_code
    key: Any = SimpleNamespace(host="edge.local", port=8600, is_ssl=True, ssl=True)
    error = aiohttp.ClientConnectorCertificateError(key, fault)
    with pytest.raises(ConfigError, match=said):
        raise unreachable("https://edge.local:8600", error, has_token=False)
