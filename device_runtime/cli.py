"""`tandem`: one command, many verbs; a verb's module is imported only when it is called.

A verb's module has `add_arguments(parser)` and `run(args) -> int`, which gives the exit code: 0 done,
1 failed (one line on stderr says why), 2 wrong usage, 130 interrupted, 143 and 129 ended by SIGTERM,
SIGHUP, 141 whoever read the output has gone (`| head`): as with SIGPIPE, nothing is said.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import logging
import os
import platform
import select
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from device_runtime.protocol.errors import TandemError
from device_runtime.verbs import VERBS

DISTRIBUTION = "tandem-llm"
CHECKOUT_PACKAGES = ("export", "benchmarks")

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 128 + signal.SIGPIPE

RUN_ANYWHERE = ("doctor", "profiles")
"""Verbs that a 32-bit Python may run: they say what is wrong with it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run `tandem` with these arguments (sys.argv's without); the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows what it can
    try:
        try:
            return _command(list(sys.argv[1:] if argv is None else argv))
        except SystemExit:  # argparse has shown help
            print(end="", flush=True)
            raise
    except (OSError, SystemExit) as error:
        # rich answers a broken pipe with an exit code of its own.
        broken = error.__context__ if isinstance(error, SystemExit) else error
        if isinstance(broken, BrokenPipeError):
            return EXIT_NO_READER
        if isinstance(error, SystemExit):
            raise
        return _failed(error, verbose=False)
    finally:
        _let_go_of_output()


def _let_go_of_output() -> None:
    """Python flushes standard output once more at exit: what it does not take goes nowhere."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command(arguments: list[str]) -> int:
    # No option before the verb takes a value, so the first bare word is the verb.
    bare = (i for i, word in enumerate(arguments) if not word.startswith("-"))
    split = next(bare, len(arguments))
    parser = _top_parser()
    top = parser.parse_args(arguments[:split])
    if split == len(arguments):
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    name = arguments[split]
    if name not in VERBS:
        close = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see tandem --help"
        parser.error(f"there is no verb {name!r}; {hint}")
    if top.until_eof:
        end_with_stdin()
    with _signals_raise():
        return _guarded(name, arguments[split + 1 :], verbose=top.verbose)


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    parser = argparse.ArgumentParser(
        prog="tandem",
        usage="tandem [--help] [--version] [--verbose] VERB ...",
        description="A small model on the device drafts, a large one on the edge verifies.",
        epilog="\n".join(["verbs:", *lines, "", "tandem VERB --help shows a verb's arguments."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, help="print the version and exit")
    # For programs that start a verb: it ends with them, however they end.
    parser.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    _add_verbose(parser)
    return parser


def _add_verbose(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verbose", action="store_true", help="log more; errors with a traceback")


class _ShowVersion(argparse.Action):
    """As argparse's own, but the version is looked up only when asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **kwargs: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=kwargs["help"])

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import importlib.metadata  # half of the start-up time

        try:
            version = importlib.metadata.version(DISTRIBUTION)
        except importlib.metadata.PackageNotFoundError:
            version = "(a checkout that is not installed)"
        print(f"tandem {version}")
        parser.exit()


def end_with_stdin() -> None:
    """From now on SIGTERM comes with the end of standard input: so does the end of a parent show."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end a verb as Ctrl-C does, by an exception: what it started is ended, too.

    A handler that somebody else has set stays, and so does a signal that shall be ignored (nohup).
    """
    ours = []
    if threading.current_thread() is threading.main_thread():
        every = (signal.SIGTERM, signal.SIGHUP)
        ours = [number for number in every if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _raise_exit)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _raise_exit(number: int, _: FrameType | None) -> None:
    # asyncio lets SystemExit through wherever it is raised; of others it loses some.
    raise SystemExit(128 + number)


def _guarded(name: str, arguments: list[str], *, verbose: bool) -> int:
    """Run a verb; what a user can mend becomes one line on stderr, a bug stays a traceback."""
    args = argparse.Namespace(verbose=verbose)
    try:
        if name not in RUN_ANYWHERE:
            _require_64_bit()
        return _run_verb(name, arguments, args)
    except KeyboardInterrupt:
        print(f"\ntandem {name}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (TandemError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader():
            raise
        return _failed(error, verbose=args.verbose)
    except ModuleNotFoundError as error:
        return _failed(_missing_module(name, error), verbose=args.verbose)


def _has_no_reader() -> bool:
    """Whether standard output is a pipe that nobody reads any more; other pipes can break, too."""
    poll = select.poll()
    try:
        poll.register(sys.stdout, 0)
    except (OSError, ValueError):  # somebody has put an object without a descriptor there
        return False
    return bool(poll.poll(0))


def _run_verb(name: str, arguments: list[str], args: argparse.Namespace) -> int:
    module = importlib.import_module(VERBS[name].module)
    example = VERBS[name].example
    parser = argparse.ArgumentParser(
        prog=f"tandem {name}",
        description=_sentence(name),
        epilog=example and f"For example: tandem {name} {example}",
    )
    _add_verbose(parser)
    module.add_arguments(parser)
    parser.parse_args(arguments, namespace=args)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    status: int = module.run(args)
    print(end="", flush=True)  # a full disk is told as any other error is
    return status


def _sentence(name: str) -> str:
    summary = VERBS[name].summary
    return f"{summary[0].upper()}{summary[1:]}."


def _require_64_bit() -> None:
    if sys.maxsize < 2**32:
        raise TandemError(
            f"this Python is a 32-bit one ({platform.machine()}), and onnxruntime and torch exist "
            "only for 64 bits; install a 64-bit system (on a Raspberry Pi 3 or newer: Raspberry "
            "Pi OS 64-bit) and a Python for it"
        )


def _install(extra: str) -> str:
    """The command that installs an extra: of the checkout, where this is one."""
    if (Path(__file__).parents[1] / "pyproject.toml").is_file():
        return f"pip install -e '.[{extra}]' in the checkout"
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def _missing_module(name: str, error: ModuleNotFoundError) -> TandemError:
    """Say what to install so that the verb finds its module."""
    verb = VERBS[name]
    own_package = verb.module.partition(".")[0]
    missing = (error.name or str(error)).partition(".")[0]
    install = _install(verb.extra) if verb.extra else ""
    if missing in CHECKOUT_PACKAGES:
        message = (
            f"`tandem {name}` runs from a checkout of the project, not from the wheel; clone it "
            f"and run: pip install -e '.[{verb.extra}]'"
        )
    elif missing == own_package or not install:
        message = f"this installation lacks {error.name}; reinstall {DISTRIBUTION}"
    else:
        message = f"`tandem {name}` needs the package {missing}; run: {install}"
        if missing == "onnxruntime":
            message += " (on a Jetson: the extra jetson, and NVIDIA's own onnxruntime)"
    refusal = TandemError(message)
    refusal.__cause__ = error
    return refusal


def _failed(error: BaseException, *, verbose: bool) -> int:
    if verbose:
        traceback.print_exception(error, file=sys.stderr)
    print(f"tandem: {str(error) or type(error).__name__}", file=sys.stderr)
    return EXIT_FAILURE
