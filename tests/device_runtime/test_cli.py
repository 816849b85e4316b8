"""The `tandem` command: finding a verb's module, and what a user sees when something is wrong."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from device_runtime import cli
from device_runtime.protocol.errors import ConfigError
from device_runtime.verbs import VERBS, Verb

InstallVerb = Callable[[Callable[[argparse.Namespace], int]], None]


@pytest.fixture
def install_verb(monkeypatch: pytest.MonkeyPatch) -> InstallVerb:
    """Put a function behind the verb `try`, which takes one optional --count."""

    def install(run: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("device_runtime.made_up_verb")
        vars(module)["add_arguments"] = lambda parser: parser.add_argument("--count", type=int)
        vars(module)["run"] = run
        monkeypatch.setitem(sys.modules, module.__name__, module)
        verb = Verb(module.__name__, "device", "try things out")
        monkeypatch.setitem(VERBS, "try", verb)

    return install


@pytest.fixture(autouse=True)
def _keep_the_root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


def test_a_verb_gets_its_arguments_and_its_exit_code_comes_back(install_verb: InstallVerb) -> None:
    seen = []

    def run(args: argparse.Namespace) -> int:
        seen.append(args)
        return 7

    install_verb(run)
    assert cli.main(["try", "--count", "3"]) == 7
    assert seen == [argparse.Namespace(count=3, verbose=False)]


@pytest.mark.parametrize("words", [["--verbose", "try"], ["try", "--verbose"]])
def test_verbose_may_stand_before_or_after_the_verb(
    words: list[str], install_verb: InstallVerb
) -> None:
    install_verb(lambda args: int(args.verbose))
    assert cli.main(words) == 1


def test_help_has_one_line_for_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{verb.summary}$", shown, re.MULTILINE)


def test_a_verb_shows_its_own_help(
    install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    install_verb(lambda _: 0)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["try", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "Try things out." in shown
    assert "--count" in shown


def test_no_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == cli.EXIT_USAGE
    assert "verbs:" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "hint"), [("rnu", "did you mean 'run'?"), ("zzz", "--help")])
def test_an_unknown_verb_is_wrong_usage(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([word])
    assert stopped.value.code == cli.EXIT_USAGE
    assert hint in capsys.readouterr().err


def test_an_unknown_argument_of_a_verb_is_wrong_usage(install_verb: InstallVerb) -> None:
    install_verb(lambda _: 0)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["try", "--colour"])
    assert stopped.value.code == cli.EXIT_USAGE


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert re.fullmatch(r"tandem \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("gamma is 0, expected 1 or more"), "gamma is 0, expected 1 or more"),
        (
            FileNotFoundError(2, "No such file", "prompt.txt"),
            "[Errno 2] No such file: 'prompt.txt'",
        ),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_the_user_can_mend_is_one_line(
    error: Exception, line: str, install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    install_verb(raising(error))
    assert cli.main(["try"]) == cli.EXIT_FAILURE
    captured = capsys.readouterr()
    assert captured.err == f"tandem: {line}\n"
    assert captured.out == ""


def test_verbose_adds_the_traceback(
    install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    install_verb(raising(ConfigError("gamma is 0")))
    assert cli.main(["try", "--verbose"]) == cli.EXIT_FAILURE
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("tandem: gamma is 0\n")


def test_a_bug_is_not_hidden(install_verb: InstallVerb) -> None:
    install_verb(raising(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_ctrl_c_gives_130(install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]) -> None:
    install_verb(raising(KeyboardInterrupt()))
    assert cli.main(["try"]) == cli.EXIT_INTERRUPTED
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["tokenizers", "tokenizers.models"])
def test_a_missing_package_names_the_extra(
    missing: str, install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    install_verb(raising(ModuleNotFoundError(f"No module named {missing!r}", name=missing)))
    assert cli.main(["try"]) == cli.EXIT_FAILURE
    expected = "needs the package tokenizers; run: pip install -e '.[device]' in the checkout\n"
    assert capsys.readouterr().err.endswith(expected)


def test_a_missing_onnxruntime_mentions_the_jetson(
    install_verb: InstallVerb, capsys: pytest.CaptureFixture[str]
) -> None:
    install_verb(raising(ModuleNotFoundError("", name="onnxruntime")))
    assert cli.main(["try"]) == cli.EXIT_FAILURE
    assert "NVIDIA's own onnxruntime" in capsys.readouterr().err


def test_a_verb_left_out_of_the_wheel_says_that_it_needs_a_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "export", None)
    monkeypatch.delitem(sys.modules, "export.cli", raising=False)
    assert cli.main(["export"]) == cli.EXIT_FAILURE
    shown = capsys.readouterr().err
    assert "runs from a checkout" in shown
    assert "pip install -e '.[export,device]'" in shown


def test_a_damaged_installation_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(VERBS, "try", Verb("device_runtime.lost", "device", "try"))
    assert cli.main(["try"]) == cli.EXIT_FAILURE
    assert "lacks device_runtime.lost; reinstall tandem-llm" in capsys.readouterr().err


def test_a_32_bit_python_is_refused(
    install_verb: InstallVerb,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_verb(lambda _: 0)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "maxsize", 2**31 - 1)
        status = cli.main(["try"])
    assert status == cli.EXIT_FAILURE
    assert "64-bit" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from device_runtime.cli import main
try:
    main(["--help"])
except SystemExit:
    heavy = {"numpy", "onnxruntime", "torch", "aiohttp", "asyncio", "rich", "importlib.metadata"}
    sys.exit(", ".join(heavy & sys.modules.keys()) or 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def without_reader(*command: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose standard output nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *command],
        stdout=writing, stderr=subprocess.PIPE, text=True, env=env, check=False, timeout=60,
    )  # fmt: skip
    os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", ["profiles list", "profiles --help", "--help", "--version"])
def test_without_a_reader_a_verb_ends_as_by_sigpipe_and_says_nothing(words: str) -> None:
    assert without_reader("-m", "device_runtime", *words.split()) == (141, "")


VERB_OF = """
import sys, types
module = types.ModuleType("hw_profiles.cli")
module.add_arguments = lambda parser: None
module.run = lambda args: {}
sys.modules["hw_profiles.cli"] = module
from device_runtime.cli import main
sys.exit(main(["profiles"]))
"""


@pytest.mark.parametrize(
    "printing",
    ["print(flush=True)", "__import__('rich.console').console.Console().print(1)"],
    ids=["flushed", "by rich"],
)
def test_it_does_not_matter_how_a_verb_prints(printing: str) -> None:
    assert without_reader("-c", VERB_OF.format(printing)) == (141, "")


def onto_a_full_disk(*command: str) -> tuple[int, str]:
    """Exit code and stderr of a command whose standard output is a file that takes no more."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *command],
            stdout=full, stderr=subprocess.PIPE, text=True, env=env, check=False, timeout=60,
        )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "command",
    [
        *(["-m", "device_runtime", *words.split()]
          for words in ("profiles list", "profiles --help", "--help", "--version")),
        *(["-c", VERB_OF.format(verb)] for verb in ("print(1) or 1", "print(1, flush=True)")),
    ],
)  # fmt: skip
def test_on_a_full_disk_a_verb_fails_with_one_line(command: list[str]) -> None:
    assert onto_a_full_disk(*command) == (1, "tandem: [Errno 28] No space left on device\n")


def test_a_broken_pipe_that_is_not_the_output_is_an_error() -> None:
    breaking = "(_ for _ in ()).throw(BrokenPipeError(32, 'Broken pipe'))"
    command = [sys.executable, "-c", VERB_OF.format(breaking)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "tandem: [Errno 32] Broken pipe\n")


def test_what_a_terminal_cannot_show_is_no_error() -> None:
    script = VERB_OF.format(r"print('na\xefve \U0001f9da') or 0")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=False, timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "naïve ?\n".encode("latin-1"))


def test_a_verb_may_run_without_a_standard_output() -> None:
    command = f"exec {sys.executable} -m device_runtime profiles list >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "device_runtime", "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("usage: tandem ")


WAITING_VERB = """
import asyncio, signal, sys, time, types
signal.signal(signal.SIGHUP, signal.HANGUP)  # whatever the tests run under
async def wait():  # "ready" when the loop runs: a signal while it is made leaves half of one
    print("ready", flush=True)
    await asyncio.sleep(60)
def wait_without_a_loop():
    print("ready", flush=True)
    time.sleep(60)
def run(args):
    try:
        asyncio.run(wait()) if args.count else wait_without_a_loop()
    finally:
        print("cleaned up", flush=True)
module = types.ModuleType("hw_profiles.cli")
module.add_arguments = lambda parser: parser.add_argument("--count", type=int)
module.run = run
sys.modules["hw_profiles.cli"] = module
from device_runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


@contextmanager
def waiting(*arguments: str, hangup: str = "SIG_DFL") -> Iterator[subprocess.Popen[str]]:
    """A process whose verb has begun and waits for a minute, and then tidies up."""
    command = [sys.executable, "-c", WAITING_VERB.replace("HANGUP", hangup), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("words", [["profiles"], ["profiles", "--count", "1"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_lets_the_verb_tidy_up(number: signal.Signals, words: list[str]) -> None:
    with waiting(*words) as process:
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("cleaned up\n", "")
        assert process.returncode == 128 + number


def test_a_process_that_shall_survive_its_terminal_does() -> None:
    with waiting("profiles", hangup="SIG_IGN") as process:  # as nohup does
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)


@pytest.mark.parametrize("words", [["profiles"], ["profiles", "--count", "1"]])
def test_a_verb_may_end_with_the_process_that_holds_its_stdin(words: list[str]) -> None:
    with waiting("--until-eof", *words) as process:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.communicate(timeout=20) == ("cleaned up\n", "")
        assert process.returncode == 128 + signal.SIGTERM


def test_the_signals_of_a_program_that_calls_main_are_its_own_again(
    install_verb: InstallVerb,
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    install_verb(lambda _: 0)
    assert cli.main(["try"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_thread_may_call_main(install_verb: InstallVerb) -> None:
    """Python lets only the main thread handle signals."""
    install_verb(lambda _: 5)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(cli.main, ["try"]).result(20) == 5


def test_outside_a_checkout_the_wheel_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        cli, "__file__", str(tmp_path / "site-packages" / "device_runtime" / "cli.py")
    )
    assert cli._install("device") == "pip install 'tandem-llm[device]'"


@pytest.mark.parametrize("name", [name for name, verb in VERBS.items() if verb.example])
def test_examples_are_ones_that_the_verb_understands(name: str) -> None:
    verb = VERBS[name]
    if name in ("export", "bench"):
        pytest.importorskip("torch", reason="the verb's own module needs it")
    parser = argparse.ArgumentParser()
    importlib.import_module(verb.module).add_arguments(parser)
    parser.parse_args(shlex.split(verb.example))


def test_the_examples_of_both_ends_fit_each_other() -> None:
    """Who copies both gets through: an edge with tokens asks for one, and crosses no network bare."""
    edge, run = VERBS["edge"].example, VERBS["run"].example
    assert {"--tokens-file", "--tls-cert"} <= set(shlex.split(edge))
    assert {"--token-file", "--ca-file"} <= set(shlex.split(run))
    assert "--edge https://" in run
