"""Runtime settings, and what of a hardware profile reaches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import hw_profiles
from device_runtime.protocol.errors import ConfigError
from device_runtime.settings import RuntimeSettings


@pytest.mark.parametrize("name", hw_profiles.names())
def test_every_profile_gives_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    runtime, settings = hw_profiles.load(name).runtime, RuntimeSettings.for_profile(name)
    assert settings.num_threads == (runtime.num_threads.value if runtime.num_threads else 0)
    assert settings.max_tokens == runtime.num_context_tokens.value
    assert settings.allow_spinning is runtime.allow_spinning.value
    if runtime.memory_arena is not None:
        assert settings.memory_arena is runtime.memory_arena.value
    chunk = runtime.num_prefill_tokens
    assert settings.prefill_chunk == (chunk.value if chunk else RuntimeSettings().prefill_chunk)
    assert settings.providers == runtime.providers.value


def test_profiles_differ_where_boards_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    small = RuntimeSettings.for_profile("raspberry-pi-zero-2w")
    large = RuntimeSettings.for_profile("jetson-agx-orin")
    assert small.max_tokens < large.max_tokens
    assert small.num_threads < large.num_threads
    assert small.prefill_chunk == 16 < large.prefill_chunk == 64
    assert not small.memory_arena
    assert large.memory_arena


def test_no_more_threads_are_taken_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert RuntimeSettings.for_profile("jetson-agx-orin").num_threads == 2


def test_a_profile_of_ones_own_works_and_its_numbers_are_checked(tmp_path: Path) -> None:
    builtin = Path(hw_profiles.__file__).parent / "devices" / "raspberry-pi-5.toml"
    text = builtin.read_text(encoding="utf-8")
    wanted = "num_context_tokens = { value = 2048,"
    assert wanted in text
    own = tmp_path / "mine.toml"
    own.write_text(text.replace(wanted, "num_context_tokens = { value = 512,"), encoding="utf-8")
    assert RuntimeSettings.for_profile(str(own)).max_tokens == 512
    own.write_text(text.replace(wanted, "num_context_tokens = { value = 5,"), encoding="utf-8")
    with pytest.raises(ConfigError):
        RuntimeSettings.for_profile(str(own))


@pytest.mark.parametrize("name", ["raspberry-pi-99", "lte", "nowhere/mine.toml"])
def test_what_is_no_device_profile_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="profile"):
        RuntimeSettings.for_profile(name)
