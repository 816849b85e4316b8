"""URLs of edges as people type them, and files that name tokens and certificates."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_runtime.edge_options import bearer_token, edge_url, session_url, trusted
from device_runtime.protocol.errors import ConfigError


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://edge:8600", "ws://edge:8600/v1/session"),
        ("https://edge/", "wss://edge/v1/session"),
        ("edge:8600", "ws://edge:8600/v1/session"),
        ("wss://edge/tandem", "wss://edge/tandem/v1/session"),
        ("http://[::1]:8600", "ws://[::1]:8600/v1/session"),
    ],
)
def test_an_edge_url_may_be_typed_in_many_ways(typed: str, url: str) -> None:
    assert session_url(typed) == url


@pytest.mark.parametrize(
    "typed",
    ["ftp://edge", "http://", "", "http://[::1", "http://edge:86000", "edge:port", "edge:0"],
)
def test_a_bad_edge_url_is_named(typed: str) -> None:
    with pytest.raises(ConfigError, match="no edge URL"):
        session_url(typed)


@pytest.mark.parametrize(
    "typed", ["https://edge/tandem", "https://edge/tandem/v1/session", "wss://edge/tandem/"]
)
def test_other_routes_are_found_from_the_same_urls(typed: str) -> None:
    assert edge_url(typed, "/v1/status") == "https://edge/tandem/v1/status"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 lines"),
        (b"a\nb\n", "2 lines"),
        (b"a\x01b", "control characters"),
        (b"\xff", "no UTF-8"),
    ],
)
def test_a_token_file_holds_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"the-token\n")
    assert bearer_token(path) == "the-token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        bearer_token(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        bearer_token(tmp_path)


def test_certificates_are_for_tls_and_must_be_some(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="has none; write https"):
        trusted(str(tmp_path / "none.pem"), "http://edge")
    with pytest.raises(ConfigError, match="gives no certificates"):
        trusted(str(tmp_path / "none.pem"), "https://edge")
