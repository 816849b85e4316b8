"""`tandem run`: write text on this device, checked by an edge."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from device_runtime.edge_errors import EdgeLostError
from device_runtime.edge_options import bearer_token, session_url, text_file, trusted
from device_runtime.energy.answer import REST_S, metered
from device_runtime.energy.find import KINDS
from device_runtime.link import LinkSettings
from device_runtime.lossy import METHODS, Router
from device_runtime.measured_file import Memory, cache_folder, measured_path
from device_runtime.protocol.errors import ConfigError
from device_runtime.run_report import extra_values, figures, notes
from device_runtime.scheme_choice import AUTO
from device_runtime.settings import RuntimeSettings
from device_runtime.shown import show
from device_runtime.writer import Answer, Device, WriteConfig, link_to
from device_runtime.writing_options import add_sampling_arguments, config_from

PATIENCE_S = {"wait": 30.0, "local": 10.0}
"""Default of --edge-patience."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem run`."""
    parser.add_argument("prompt", nargs="?", help="text to continue; - or nothing reads stdin")
    parser.add_argument("--prompt-file", type=Path, metavar="FILE", help="read the prompt from it")
    parser.add_argument("--system", metavar="TEXT", help="system message; implies --chat")
    parser.add_argument("--chat", action="store_true", help="render the prompt as a chat message")
    _add_machine_arguments(parser)
    add_sampling_arguments(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    output.add_argument(
        "--logprobs", action="store_true",
        help="with --json: ln of the LLM's probability of each token at temperature 1; null where "
        "no round carried it, as for a last token that the device drew",
    )  # fmt: skip
    output.add_argument("--no-stream", action="store_true", help="print the text when it is whole")
    output.add_argument(
        "--energy", choices=KINDS, metavar="METER",
        help="joules of the answer, by this meter of `tandem energy` or auto; watches the machine "
        f"at rest for {REST_S:g} s before and after",
    )  # fmt: skip


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    """Both ends: who writes, where the edge is, how this device runs its model."""
    device = parser.add_argument_group("this device")
    device.add_argument(
        "--bundle", type=Path, required=True, metavar="DIR", help="folder made by tandem export"
    )
    device.add_argument(
        "--profile", metavar="NAME",
        help="threads, context and memory settings of a hardware profile (`tandem doctor` names "
        "yours, `tandem profiles list` all); default: one thread per core",
    )  # fmt: skip
    device.add_argument(
        "--threads", type=int, metavar="N",
        help="threads of the SLM, 0 for one per core; default: the profile's",
    )  # fmt: skip
    edge = parser.add_argument_group("edge")
    edge.add_argument("--edge", metavar="URL", help="such as http://edge.local:8600")
    edge.add_argument("--token-file", type=Path, metavar="FILE", help="holds the bearer token")
    edge.add_argument(
        "--ca-file", metavar="FILE", help="certificates to trust, for an edge with its own TLS"
    )
    who = edge.add_mutually_exclusive_group()
    who.add_argument("--edge-only", action="store_true", help="let the LLM alone write")
    who.add_argument("--device-only", action="store_true", help="let the SLM alone write")
    edge.add_argument(
        "--on-edge-loss", choices=("wait", "local", "fail"), default="wait",
        help="when the edge is gone: wait for it (default), go on with the SLM's own tokens, marked "
        "as unverified, until it is back, or fail at once",
    )  # fmt: skip
    edge.add_argument(
        "--edge-patience", type=float, metavar="S",
        help="seconds to wait for a lost or busy edge before giving up (wait, default: "
        f"{PATIENCE_S['wait']:g}) or going on alone (local, default: {PATIENCE_S['local']:g}); given, "
        "an edge that is not there yet is waited for, too",
    )  # fmt: skip


def _patience_s(args: argparse.Namespace, config: WriteConfig) -> float:
    """How long a lost edge is waited for."""
    on_loss, patience_s = args.on_edge_loss, args.edge_patience
    if patience_s is not None and not 0 <= patience_s <= 86_400:
        raise ConfigError(f"--edge-patience is {patience_s}; it must be 0 to 86400 seconds")
    if on_loss == "fail":
        if patience_s is not None:
            raise ConfigError("--on-edge-loss fail waits for nothing; leave --edge-patience out")
        return 0.0
    if on_loss == "local" and patience_s == 0:
        raise ConfigError(
            "--edge-patience 0 with --on-edge-loss local would never reach an edge; give it some "
            "seconds, or take --device-only"
        )
    lossless = config.scheme == AUTO or METHODS[config.scheme].lossless
    if on_loss == "local" and not (config.mode == "split" and lossless):
        raise ConfigError(
            "--on-edge-loss local is for device and edge together with a lossless scheme; "
            "take wait or fail"
        )
    return PATIENCE_S[on_loss] if patience_s is None else float(patience_s)


def _check_logprobs(config: WriteConfig, *, as_json: bool) -> None:
    """They come with the verdicts of rounds: refused where none are judged, or nothing shows them."""
    if not as_json:
        raise ConfigError("--logprobs shows nothing without --json; add it")
    if config.mode == "device":
        raise ConfigError("--logprobs are the LLM's, and --device-only asks none; leave one out")
    if config.mode == "edge":
        raise ConfigError(
            "--logprobs come with verdicts, and --edge-only streams without any; --gamma 0 in its "
            "place has the LLM alone write, a token a round"
        )
    if config.scheme != AUTO and isinstance(METHODS[config.scheme].policy, Router):
        raise ConfigError(
            f"--logprobs come with verdicts, and {config.scheme} lets one model write without any; "
            "leave --logprobs out, or take another scheme"
        )


def _settings_from(args: argparse.Namespace) -> RuntimeSettings:
    """The profile's settings; --threads goes before them."""
    threads = args.threads
    if threads is not None and not 0 <= threads <= 1024:
        raise ConfigError(f"--threads is {threads}; it must lie between 0 (all cores) and 1024")
    settings = RuntimeSettings.for_profile(args.profile) if args.profile else RuntimeSettings()
    return settings if threads is None else replace(settings, num_threads=threads)


def _link_from(args: argparse.Namespace, patience_s: float) -> LinkSettings | None:
    if args.device_only:
        _refuse_edge_options(args)
        return None
    session_url(args.edge)  # a typing error shows before the model is loaded
    token = bearer_token(args.token_file) if args.token_file else None
    tls = trusted(args.ca_file, args.edge)
    waits = args.edge_patience is not None
    return LinkSettings(args.edge, token, tls, patience_s, waits_at_first=waits)


def _refuse_edge_options(args: argparse.Namespace) -> None:
    """Those that only an edge gives a sense to; what tells how to draw holds for the SLM, too."""
    for option in ("--edge", "--token-file", "--ca-file", "--edge-patience"):
        if getattr(args, option[2:].replace("-", "_")) not in (None, ""):
            raise ConfigError(f"--device-only asks no edge, and {option} is for one; leave one out")


def _read_prompt(args: argparse.Namespace) -> str:
    if args.prompt_file:
        if args.prompt is not None:
            raise ConfigError("a prompt and --prompt-file are given; choose one")
        return text_file(args.prompt_file, "--prompt-file")
    if args.prompt in (None, "-"):
        if sys.stdin is None:
            raise ConfigError(
                "no prompt is given and standard input is closed; write the prompt as an argument, "
                "or name its file with --prompt-file"
            )
        if sys.stdin.isatty():
            print("reading the prompt from the terminal; end with Ctrl-D", file=sys.stderr)
        try:
            return _text(sys.stdin.read(), "the prompt on standard input")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the prompt on standard input is no UTF-8 text ({error})") from None
    return _text(args.prompt, "the prompt")


def _text(given: str, what: str) -> str:
    """An argument; ConfigError where its bytes were no UTF-8: Python makes surrogates of them."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is no UTF-8 text ({error})") from None
    return given


def run(args: argparse.Namespace) -> int:
    """Write the answer; exit code 0. What stands of one that an edge's loss cut short is shown, too."""
    for option, text in [
        ("--system", args.system or ""),
        *(("--stop", text) for text in args.stop),
    ]:
        _text(text, option)
    is_chat = args.chat or args.system is not None
    config = replace(config_from(args), logprobs=args.logprobs, is_chat=is_chat)
    if args.logprobs:
        _check_logprobs(config, as_json=args.json)
    patience_s = _patience_s(args, config)
    if args.on_edge_loss == "local":
        config = replace(config, local_after_s=patience_s)
    link, settings = _link_from(args, patience_s), _settings_from(args)
    prompt = _read_prompt(args)
    device = Device(args.bundle, settings, drafts=config.mode != "edge")
    system = args.system if args.system is not None or not args.chat else ""
    prompt_ids = device.encode(prompt, system)
    answer = Answer(device, config, prompt_ids, _memory(config, link, device))
    stream = not (args.json or args.no_stream)
    with metered(args.energy, args.profile) as after:
        answer, loss = asyncio.run(_write(device, answer, link, stream=stream))
        energy = after(answer.transcript)
    if args.json:
        values = {**answer.summary(), **extra_values(answer)}
        values |= {"energy": energy.to_dict()} if energy else {}
        values |= {"error": str(loss)} if loss else {}
        shows_all = getattr(sys.stdout, "encoding", "utf-8").lower() == "utf-8"
        print(json.dumps(values, ensure_ascii=not shows_all))
    else:
        if args.no_stream:
            print(answer.transcript.text)
        seen = [figures(answer)] if sys.stderr.isatty() else []  # by somebody, not by a script
        for note in notes(answer) + seen + (energy.notes() if energy else []):
            print(note, file=sys.stderr)
    if loss is not None:
        raise loss
    return 0


def _memory(config: WriteConfig, link: LinkSettings | None, device: Device) -> Memory:
    """What earlier runs measured; kept from the first `--scheme auto` with this edge on."""
    if link is None or config.mode != "split":
        return Memory()
    try:
        path = measured_path(cache_folder(), link.url, device.bundle.manifest.files)
        return Memory.open(path) if config.scheme == AUTO or path.exists() else Memory()
    except (OSError, RuntimeError):  # no home folder, or one that a service must not enter
        return Memory()


async def _write(
    device: Device, answer: Answer, link: LinkSettings | None, *, stream: bool
) -> tuple[Answer, EdgeLostError | None]:
    """Write and show; the answer that was written, and why it ends too early, if it does.

    It is another answer where no edge was there to begin with.
    """
    async with AsyncExitStack() as stack:
        edge = None
        if link is not None:
            try:
                edge = await stack.enter_async_context(link_to(link, device))
            except EdgeLostError as loss:
                if answer.config.local_after_s is None:
                    raise
                print(f"tandem run: {loss}", file=sys.stderr)
                print("tandem run: going on without it; the SLM writes alone", file=sys.stderr)
                answer = Answer(device, replace(answer.config, mode="device"), answer.prompt_ids)
        try:
            await show(answer, edge, stream=stream)
        except EdgeLostError as loss:
            return answer, loss
    return answer, None
