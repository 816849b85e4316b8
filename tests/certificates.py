"""Certificates as a user would make them."""

from __future__ import annotations

import subprocess
from pathlib import Path


def a_certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """Files of a self-signed certificate and its key."""
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", key, "-out", cert,
        "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run([*command, *(more or ("-nodes",))], check=True, capture_output=True)
    return cert, key
