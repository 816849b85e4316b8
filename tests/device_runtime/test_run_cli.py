"""`tandem run`: options, what is refused and how, and what is said beside the text."""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from device_runtime import run_cli, writer
from device_runtime.edge_errors import EdgeLostError
from device_runtime.link import LinkSettings
from device_runtime.protocol.errors import TandemError
from device_runtime.run_report import auto_note, figures, notes
from device_runtime.scheme_choice import Choice
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import Answer
from device_runtime.writing_options import add_sampling_arguments, config_from, sampling_from
from hw_profiles import load
from tests.tiny_bundle import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tandem run")
    run_cli.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def run(*words: object) -> None:
    assert run_cli.run(parse(*words)) == 0


def refusal(*words: object) -> str:
    with pytest.raises(TandemError) as refused:
        run(*words)
    return str(refused.value)


NOWHERE = ("--edge", "http://127.0.0.1:9")
NOWHERE_TLS = ("--edge", "https://127.0.0.1:9")
"""Nothing listens there."""


def test_the_device_alone_writes_and_says_that_nobody_verified_it(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("hello", "--bundle", bundle, "--device-only", "--seed", 7, "--max-tokens", 5)
    shown, said = capsys.readouterr()
    assert shown.endswith("\n") and len(shown) > 1
    assert said == "unverified: the SLM alone wrote this\n"
    run("hello", "--bundle", bundle, "--device-only", "--seed", 7, "--max-tokens", 5, "--no-stream")
    assert capsys.readouterr().out == shown


def test_who_looks_on_sees_how_fast_it_was(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("hello", "--bundle", bundle, "--device-only", "--seed", 7, "--max-tokens", 5)
    run(*words)
    assert "tokens in" not in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(*words)
    assert re.search(
        r"^5 tokens in \d+\.\d s \(.* a second\)$", capsys.readouterr().err, re.MULTILINE
    )


def test_the_figures_of_a_split_answer_name_its_bytes() -> None:
    values: dict[str, Any] = {
        "token_ids": [1] * 20, "wall_s": 2.0, "alpha": 0.714, "frames_up": 5, "bytes_up": 400,
        "bytes_down": 230,
    }  # fmt: skip
    answer: Any = SimpleNamespace(summary=lambda: values)
    line = "20 tokens in 2.0 s (10.0 a second), alpha 0.71, 20 bytes up and 12 down a token"
    assert figures(answer) == line
    values.update(token_ids=[], wall_s=0.0, alpha=None)
    assert figures(answer) == "0 tokens in 0.0 s"


def test_json_is_one_object_and_nothing_else(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("hello", "--bundle", bundle, "--device-only", "--seed", 7, "--max-tokens", 5, "--json")
    shown, said = capsys.readouterr()
    values: dict[str, Any] = json.loads(shown)
    assert said == ""
    assert values["mode"] == "device" and not values["lossless"]
    assert values["unverified"] == 5 and values["unverified_spans"] == [[0, 5]]
    assert "auto" not in values


@pytest.mark.parametrize("source", ["file", "pipe", "dash"])
def test_the_prompt_may_come_from_elsewhere(
    source: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "prompt.txt"
    file.write_text("the other hand")
    monkeypatch.setattr("sys.stdin", io.StringIO("the other hand"))
    sources: dict[str, list[object]] = {"file": ["--prompt-file", file], "pipe": [], "dash": ["-"]}
    run(*sources[source], "--bundle", bundle, "--device-only", "--max-tokens", 3, "--json")
    from_elsewhere = json.loads(capsys.readouterr().out)["prompt_tokens"]
    run("the other hand", "--bundle", bundle, "--device-only", "--max-tokens", 3, "--json")
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == from_elsewhere


def test_local_writes_even_if_no_edge_was_ever_there(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("hello", "--bundle", bundle, *NOWHERE, "--on-edge-loss", "local", "--max-tokens", 5)
    shown, said = capsys.readouterr()
    assert len(shown) > 1
    assert "no edge answers at http://127.0.0.1:9" in said
    assert "the SLM writes alone" in said and "unverified" in said


@pytest.mark.parametrize("on_loss", ["wait", "fail"])
def test_else_a_missing_edge_is_an_error(on_loss: str, bundle: Path) -> None:
    text = refusal("hello", "--bundle", bundle, *NOWHERE, "--on-edge-loss", on_loss)
    assert "no edge answers" in text and "is `tandem edge` running there" in text


def test_for_the_edge_alone_no_slm_is_loaded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "OnnxDrafter", None)
    assert "no edge answers" in refusal("hello", "--bundle", bundle, *NOWHERE, "--edge-only")


def test_patience_that_is_asked_for_holds_for_the_first_connection_too(bundle: Path) -> None:
    start_s = time.monotonic()
    text = refusal("hello", "--bundle", bundle, *NOWHERE, "--edge-patience", 0.4)
    assert "gave up after 0.4 s (--edge-patience)" in text
    assert time.monotonic() - start_s >= 0.4


@pytest.mark.parametrize("words", [("--json",), ("--no-stream",)])
def test_what_stands_when_the_edge_is_lost_is_shown(
    words: tuple[str, ...],
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def cut_short(answer: Answer, edge: None, *, stream: bool) -> None:
        async for _ in answer.pieces(edge):
            if len(answer.transcript.token_ids) == 3:
                raise EdgeLostError("no edge answers", "gave up after 30 s")

    monkeypatch.setattr(run_cli, "show", cut_short)
    with pytest.raises(EdgeLostError, match="gave up after 30 s"):
        run("hello", "--bundle", bundle, "--device-only", "--seed", 7, *words)
    shown = capsys.readouterr().out
    if words == ("--no-stream",):
        assert len(shown.strip()) > 1
        return
    values = json.loads(shown)
    assert len(values["token_ids"]) == 3 and values["finish_reason"] is None
    assert values["error"] == "no edge answers; gave up after 30 s"


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ([], "no edge is given; pass --edge URL, or --device-only"),
        (["--edge", "ftp://x"], "no edge URL; expected http"),
        ([*NOWHERE, "--threads", -1], "--threads is -1"),
        ([*NOWHERE, "--profile", "raspberry-pi-9"], "no device profile.*did you mean"),
        ([*NOWHERE, "--profile", "lte"], "no device profile"),
        ([*NOWHERE, "--gamma", 65], "--gamma is 65"),
        ([*NOWHERE, "--max-tokens", 0], "--max-tokens is 0"),
        ([*NOWHERE, "--seed", -1], "--seed is -1"),
        ([*NOWHERE, "--temperature", "nan"], "temperature is nan"),
        ([*NOWHERE, "--logit-bias", "5"], "not of the form ID=BIAS"),
        ([*NOWHERE, "--logit-bias", "5=1", "--logit-bias", "5=2"], "the id 5 twice; give it one"),
        ([*NOWHERE, "--scheme", "u-hlm"], "pass --lossy"),
        ([*NOWHERE, "--scheme", "auto", "--lossy"], "auto takes lossless schemes alone"),
        ([*NOWHERE, "--scheme", "auto", "--threshold", 1], "leave --lossy and --threshold out"),
        ([*NOWHERE, "--token-file", "/none"], "--token-file /none cannot be read: No such file"),
        ([*NOWHERE_TLS, "--ca-file", "/none"], "--ca-file /none gives no certificates"),
        ([*NOWHERE_TLS, "--ca-file", __file__], "gives no certificates"),
        ([*NOWHERE, "--ca-file", __file__], "--ca-file is for TLS.*write https://"),
        ([*NOWHERE, "--edge-only", "--scheme", "dsd"], "--edge-only has no drafts to judge"),
        ([*NOWHERE, "--edge-only", "--gamma", 4], "--edge-only has no drafts to judge"),
        ([*NOWHERE, "--lossy"], "dssd-thinned is lossless; leave --lossy out"),
        ([*NOWHERE, "--prompt-file", "/none"], "choose one"),
        ([*NOWHERE, "--logprobs"], "without --json"),
        ([*NOWHERE, "--logprobs", "--json", "--edge-only"], "streams without any; --gamma 0"),
        (["--logprobs", "--json", "--device-only"], "--device-only asks none"),
        (
            [*NOWHERE, "--logprobs", "--json", "--scheme", "router", "--lossy"],
            "router lets one model write without any",
        ),
        ([*NOWHERE, "--edge-patience", -3], "--edge-patience is -3"),
        ([*NOWHERE, "--edge-patience", "nan"], "--edge-patience is nan"),
        ([*NOWHERE, "--on-edge-loss", "fail", "--edge-patience", 3], "fail waits for nothing"),
        ([*NOWHERE, "--on-edge-loss", "local", "--edge-patience", 0], "would never reach an edge"),
        ([*NOWHERE, "--on-edge-loss", "local", "--edge-only"], "take wait or fail"),
        (["--device-only", "--on-edge-loss", "local"], "take wait or fail"),
        (["--device-only", *NOWHERE], "asks no edge, and --edge is for one; leave one out"),
        (["--device-only", "--token-file", "/none"], "and --token-file is for one"),
        (["--device-only", "--ca-file", "/none"], "and --ca-file is for one"),
        (["--device-only", "--edge-patience", 0], "and --edge-patience is for one"),
        (
            [*NOWHERE, "--on-edge-loss", "local", "--scheme", "u-hlm", "--lossy"],
            "with a lossless scheme",
        ),
    ],
)
def test_a_wrong_option_is_named_before_the_model_is_loaded(
    words: list[object], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cli, "Device", None)
    assert re.search(pattern, refusal("hello", "--bundle", "unused", *words))


@pytest.mark.parametrize(
    ("content", "found"),
    [("first-token\nsecond-token\n", "2 lines"), ("\n", "0 lines"), ("a\0b", "control characters")],
)
def test_a_file_that_is_not_one_token_is_refused(content: str, found: str, tmp_path: Path) -> None:
    file = tmp_path / "token.txt"
    file.write_text(content)
    said = refusal("hello", "--bundle", "unused", *NOWHERE, "--token-file", file)
    assert said.endswith(f"holds {found}; write into it one line, this device's own bearer token")


def test_a_closed_standard_input_is_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in refusal("--bundle", "unused", "--device-only")


def test_bytes_that_are_no_text_are_no_prompt(tmp_path: Path) -> None:
    file = tmp_path / "prompt.bin"
    file.write_bytes(b"\xff\xfe\x00")
    words = ("--bundle", "unused", "--device-only", "--prompt-file", file)
    assert "no UTF-8 text" in refusal(*words)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["\udcff"], "the prompt"),
        (["hello", "--stop", "\udcff"], "--stop"),
        (["hello", "--system", "\udcff"], "--system"),
        (["-"], "the prompt on standard input"),
    ],
)
def test_arguments_that_are_no_text_are_refused(
    words: list[str], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_cli, "Device", None)
    monkeypatch.setattr("sys.stdin", io.StringIO("\udcff"))
    said = refusal(*words, "--bundle", "unused", "--device-only")
    assert said.startswith(f"{what} is no UTF-8 text")


def test_json_is_whole_on_any_standard_output(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("hello", "--bundle", bundle, "--device-only", "--seed", 7, "--max-tokens", 9, "--json")
    run(*words)
    text = json.loads(capsys.readouterr().out)["text"]
    assert not text.isascii()
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr("sys.stdout", latin)
    run(*words)
    latin.seek(0)
    assert json.loads(latin.read())["text"] == text


@pytest.mark.parametrize("words", [["--scheme", "best"], ["--on-edge-loss", "panic"], ["--bundle"]])
def test_a_misspelt_word_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("hello", "--bundle", "unused", *words)
    assert stopped.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_help_names_every_scheme_and_all_ways_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    words = set(re.split(r"[\s,;:{}]+", capsys.readouterr().out.replace("-\n", "-")))
    assert {"auto", "coupled", "dssd-packed", "wait", "local", "fail", "--profile"} <= words


def settings_of(monkeypatch: pytest.MonkeyPatch, *words: object) -> RuntimeSettings:
    """What the device would be opened with."""
    seen = []

    def device(_: Path, settings: RuntimeSettings, **__: bool) -> None:
        seen.append(settings)
        raise TandemError("enough")

    monkeypatch.setattr(run_cli, "Device", device)
    refusal("hello", "--bundle", "unused", "--device-only", *words)
    (settings,) = seen
    return settings


def test_a_profile_sets_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = load("raspberry-pi-5").runtime
    assert runtime.num_threads is not None
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    settings = settings_of(monkeypatch, "--profile", "raspberry-pi-5")
    assert settings.num_threads == runtime.num_threads.value == 4
    assert settings.max_tokens == runtime.num_context_tokens.value
    assert settings.allow_spinning is runtime.allow_spinning.value


def test_threads_given_go_before_the_profiles_and_no_more_run_than_there_are_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    by_profile = settings_of(monkeypatch, "--profile", "raspberry-pi-5")
    assert by_profile.num_threads == 2
    given = settings_of(monkeypatch, "--profile", "raspberry-pi-5", "--threads", 3)
    assert given == replace(by_profile, num_threads=3)
    assert settings_of(monkeypatch) == RuntimeSettings()


@pytest.mark.parametrize(
    ("words", "scheme", "is_seed_given"),
    [
        ([], "dssd-thinned", False),
        (["--seed", "0"], "coupled", True),
        (["--scheme", "auto"], "auto", False),
        (["--scheme", "auto", "--seed", "5"], "auto", True),
        (["--scheme", "dsd", "--seed", "5"], "dsd", True),
    ],
)
def test_the_scheme_follows_the_seed_unless_one_is_named(
    words: list[str], scheme: str, is_seed_given: bool
) -> None:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    args = parser.parse_args(words)
    args.edge, args.edge_only, args.device_only = "http://edge", False, False
    config = config_from(args)
    assert (config.scheme, config.is_seed_given) == (scheme, is_seed_given)
    assert config.sampling == sampling_from(args)


@pytest.mark.parametrize(("local_after_s", "num_notes"), [(0.0, 1), (10.0, 1), (None, 0)])
def test_tokens_that_no_edge_verified_are_told_of(
    local_after_s: float | None, num_notes: int
) -> None:
    config = SimpleNamespace(mode="split", local_after_s=local_after_s, is_seed_given=False)
    transcript = SimpleNamespace(unverified_spans=[[1, 3]], token_ids=[5, 6, 7])
    answer: Any = SimpleNamespace(choice=None, config=config, transcript=transcript, lossless=True)
    assert len(notes(answer)) == num_notes


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        (["--seed", 7, "--scheme", "dssd"], True),
        (["--seed", 7, "--scheme", "dssd", "--temperature", 0], False),
        (["--seed", 7], False),
        (["--scheme", "dssd"], False),
    ],
)
def test_a_seed_that_repeats_no_text_is_told_of(words: list[object], is_told: bool) -> None:
    config = config_from(parse("hello", "--bundle", "unused", *NOWHERE, *words))
    answer: Any = SimpleNamespace(choice=None, config=config, scheme=config.scheme, lossless=True)
    assert (
        notes(answer) == ["seed: dssd does not promise the same text again; coupled does"] * is_told
    )


def test_the_note_on_auto_gives_every_figure() -> None:
    choice = Choice("coupled", "it is quick", {"coupled": 0.0123, "dssd-packed": 0.5}, ("a rate",))
    assert auto_note(choice) == (
        "auto: coupled, it is quick (ms: coupled 12.3, dssd-packed 500.0); "
        "assumed, not yet measured: a rate"
    )
    assert auto_note(Choice("coupled", "a seed")) == "auto: coupled, a seed"


@pytest.mark.parametrize("scheme", ["coupled", "auto"])
@pytest.mark.parametrize("error", [PermissionError(13, "closed"), RuntimeError("no home")])
def test_a_home_that_cannot_be_entered_holds_no_measurements(
    scheme: str, error: Exception, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: object, **__: object) -> bool:
        raise error

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "exists" if isinstance(error, OSError) else "home", closed)
    monkeypatch.setattr(Path, "open", closed)
    device: Any = SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(files={})))
    link = LinkSettings("http://127.0.0.1:9")
    config = config_from(parse("hello", "--bundle", bundle, *NOWHERE, "--scheme", scheme))
    assert run_cli._memory(config, link, device).history == []
