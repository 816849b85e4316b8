"""Settings: a file, flags over it, and what is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from device_runtime.protocol.errors import ConfigError
from edge_server.auth import read_tokens_file
from edge_server.cli import _FLAGS
from edge_server.config import EdgeConfig, is_loopback, load_config

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, 'port = 9000\nmax_sessions = 5\nheartbeat_s = 3\nmodel = "a"')
    config = load_config(path, {"port": 9001, "model": None, "host": "::1"})
    assert config == EdgeConfig(model="a", host="::1", port=9001, max_sessions=5, heartbeat_s=3)
    assert load_config(None, {}) == EdgeConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_session = 3", "did you mean max_sessions"),
        ("zzz = 3", "known are model"),
        ('port = "80"', "expected int"),
        ("port = true", "expected int"),
        ("port = 1.5", "expected int"),
        ("insecure = 1", "expected bool"),
        ("port = ", "not valid TOML"),
        ("port = 70000", "between 0 and 65535"),
        ("port = -1", "between 0 and 65535"),
        ("max_sessions = 0", "max_sessions is 0"),
        ("heartbeat_s = inf", "heartbeat_s is inf"),
        ("heartbeat_s = nan", "heartbeat_s is nan"),
        ("idle_timeout_s = -5", "idle_timeout_s is -5"),
        ("cache_gib = -1", "cache_gib"),
        ("prefill_tokens = 1000", "prefill_tokens"),
        ("tokens_per_minute = -1", "tokens_per_minute"),
        ("requests_per_minute = nan", "requests_per_minute"),
        ("max_completions = 0", "max_completions is 0"),
        ('log_format = "xml"', "choose text or json"),
        ('tls_cert = "x"', "both a certificate and its key"),
        ('host = "0.0.0.0"', "--tokens-file"),
    ],
)
def test_a_bad_setting_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text), {})


def test_a_missing_settings_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml", {})


def test_every_setting_can_stand_in_the_file(tmp_path: Path) -> None:
    lines = []
    for field in fields(EdgeConfig):
        value = field.default
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
        lines.append(f"{field.name} = {text}")
    assert load_config(write(tmp_path, "\n".join(lines)), {}) == EdgeConfig()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "edge.local", ""])
def test_other_machines_need_tokens_or_a_word(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match="--insecure"):
        EdgeConfig(host=host)
    assert EdgeConfig(host=host, insecure=True).host == host
    assert EdgeConfig(host=host, tokens_file="tokens").host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert is_loopback(host)
    assert EdgeConfig(host=host).host == host


def test_files_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--model"):
        EdgeConfig().check_paths()
    with pytest.raises(ConfigError, match="tokens_file is"):
        EdgeConfig(model="m", tokens_file=str(tmp_path / "none")).check_paths()
    with pytest.raises(ConfigError, match=r"trace_file is .*no such folder"):
        EdgeConfig(model="m", trace_file=str(tmp_path / "none" / "trace")).check_paths()
    with pytest.raises(ConfigError, match=r"trace_file is .*cannot be written"):
        EdgeConfig(model="m", trace_file=str(tmp_path)).check_paths()
    EdgeConfig(model="m", trace_file="trace").check_paths()


def test_a_tokens_file_has_one_token_a_line_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# ours\n\n  first-token-of-ours # alice\nsecond-token-of-ours\n")
    assert read_tokens_file(path) == ("first-token-of-ours", "second-token-of-ours")


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "short\n", "long-enough-token-1\nshort", "ü" * 20]
)
def test_no_token_or_one_that_can_be_guessed_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="token_urlsafe") as error:
        read_tokens_file(path)
    assert "long-enough" not in str(error.value)


def test_the_documentation_names_every_key_that_is_no_option_with_its_default() -> None:
    limits = PAGE.read_text(encoding="utf-8").partition("\n## Limits\n")[2].partition("\n## ")[0]
    documented: dict[str, float] = {}
    for names, defaults in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", limits, re.MULTILINE):
        values = [value.partition(":")[0].replace(",", "") for value in defaults.split(", ")]
        documented |= zip(re.findall(r"`(\w+)`", names), map(float, values), strict=True)
    config = EdgeConfig()
    names = {field.name for field in fields(config)} - {*_FLAGS} | {"max_sessions"}
    assert documented == {name: getattr(config, name) for name in names}


def test_the_file_that_the_documentation_shows_is_taken(tmp_path: Path) -> None:
    limits = PAGE.read_text(encoding="utf-8").partition("\n## Limits\n")[2]
    shown = "\n".join(re.findall(r"^ {4}(.*)$", limits.partition("| setting |")[0], re.MULTILINE))
    assert load_config(write(tmp_path, shown), {}).num_threads == 4
