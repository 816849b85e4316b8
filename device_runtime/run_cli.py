"""`tandem run`: write text on this device, checked by an edge."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.lossy import METHODS, method_named
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import DEFAULT_SCHEME, SEEDED_SCHEME
from device_runtime.settings import RuntimeSettings
from device_runtime.writer import PAD_BYTES, Answer, Device, Mode, WriteConfig, link_to, random_seed

MAX_SEED = (1 << 64) - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem run`."""
    parser.add_argument("prompt", nargs="?", help="text to continue; - or nothing reads stdin")
    parser.add_argument("--prompt-file", type=Path, help="read the prompt from this file")
    parser.add_argument("--bundle", type=Path, required=True, help="folder made by tandem export")
    parser.add_argument("--edge", metavar="URL", help="the edge, such as http://edge.local:8600")
    parser.add_argument("--token-file", type=Path, help="file with the edge's bearer token")
    parser.add_argument("--ca-file", help="certificates to trust, for an edge with its own TLS")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--edge-only", action="store_true", help="let the LLM alone write")
    who.add_argument("--device-only", action="store_true", help="let the SLM alone write")
    add_sampling_arguments(parser)
    parser.add_argument("--system", help="system message; the bundle needs a chat template")
    parser.add_argument("--chat", action="store_true", help="render the prompt as a chat message")
    parser.add_argument("--threads", type=int, default=0, help="threads of the SLM; 0: all cores")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.add_argument(
        "--logprobs", action="store_true",
        help="with --json: ln of the LLM's probability of each token at temperature 1, or null "
        "for a last token that the device drew",
    )  # fmt: skip
    parser.add_argument("--no-stream", action="store_true", help="print the text when it is whole")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Scheme, block length, sampling parameters: shared by the verbs that write."""
    parser.add_argument(
        "--scheme", choices=sorted(METHODS),
        help=f"verification scheme (default: {DEFAULT_SCHEME}; with --seed {SEEDED_SCHEME})",
    )  # fmt: skip
    parser.add_argument(
        "--lossy", action="store_true",
        help="allow a scheme whose text is not exactly the LLM's: "
        + ", ".join(name for name, method in METHODS.items() if not method.lossless),
    )  # fmt: skip
    parser.add_argument("--threshold", type=float, help="of a lossy scheme (default: its own)")
    parser.add_argument("--gamma", type=int, default=4, help="tokens drafted a round (default: 4)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default: 0.8)")
    parser.add_argument("--top-k", type=int, default=0, help="0 keeps all (default)")
    parser.add_argument("--top-p", type=float, default=1.0, help="default: 1, keeps all")
    parser.add_argument("--min-p", type=float, default=0.0, help="default: 0, keeps all")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="default: 1, none")
    parser.add_argument("--presence-penalty", type=float, default=0.0, help="default: 0, none")
    parser.add_argument("--frequency-penalty", type=float, default=0.0, help="default: 0, none")
    parser.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=BIAS",
        help="added to the logit of a token id; may be given again",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="same seed, same text (scheme coupled)")
    parser.add_argument("--max-tokens", type=int, default=256, help="default: 256")
    parser.add_argument("--stop", action="append", default=[], help="end before this string; again")
    parser.add_argument(
        "--pad", action="store_true",
        help=f"send messages in multiples of {PAD_BYTES} bytes, so that sizes tell less",
    )  # fmt: skip


def sampling_from(args: argparse.Namespace) -> Sampling:
    """The sampling parameters of the command line; ConfigError names a bad one."""
    biases = []
    for item in args.logit_bias:
        token_id, _, bias = item.partition("=")
        try:
            biases.append((int(token_id), float(bias)))
        except ValueError:
            raise ConfigError(f"--logit-bias {item!r} is not of the form ID=BIAS") from None
    return Sampling(
        args.temperature, args.top_k, args.top_p, args.min_p, args.repetition_penalty,
        args.presence_penalty, args.frequency_penalty, tuple(sorted(biases)),
    )  # fmt: skip


def config_from(args: argparse.Namespace) -> WriteConfig:
    """Check what can be checked before anything is loaded."""
    mode: Mode = "edge" if args.edge_only else "device" if args.device_only else "split"
    if mode != "device" and not args.edge:
        raise ConfigError("no edge is given; pass --edge URL, or --device-only to do without")
    for name, value, low, high in (
        ("--gamma", args.gamma, 0, 64),
        ("--max-tokens", args.max_tokens, 1, 1 << 20),
        ("--seed", args.seed or 0, 0, MAX_SEED),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}")
    scheme = args.scheme or (DEFAULT_SCHEME if args.seed is None else SEEDED_SCHEME)
    method_named(scheme, allow_lossy=args.lossy, threshold=args.threshold)
    return WriteConfig(
        mode=mode,
        scheme=scheme,
        gamma=args.gamma,
        sampling=sampling_from(args),
        max_tokens=args.max_tokens,
        seed=random_seed() if args.seed is None else args.seed,
        stops=tuple(args.stop),
        pad=args.pad,
        logprobs=getattr(args, "logprobs", False),
        lossy=args.lossy,
        threshold=args.threshold,
    )


def _read_prompt(args: argparse.Namespace) -> str:
    if args.prompt_file:
        if args.prompt is not None:
            raise ConfigError("a prompt and --prompt-file are given; choose one")
        return str(args.prompt_file.read_text(encoding="utf-8"))
    if args.prompt in (None, "-"):
        if sys.stdin.isatty():
            print("reading the prompt from the terminal; end with Ctrl-D", file=sys.stderr)
        return sys.stdin.read()
    return str(args.prompt)


def run(args: argparse.Namespace) -> int:
    """Write the answer; exit code 0."""
    config = config_from(args)
    prompt = _read_prompt(args)
    token = args.token_file.read_text().strip() if args.token_file else None
    link = LinkSettings(args.edge, token, args.ca_file) if args.edge else None
    device = Device(args.bundle, RuntimeSettings(num_threads=args.threads))
    system = args.system if args.system is not None or not args.chat else ""
    answer = Answer(device, config, device.encode(prompt, system))
    asyncio.run(_write(device, answer, link, stream=not (args.json or args.no_stream)))
    if args.json:
        print(json.dumps(answer.summary(), ensure_ascii=False))
    elif args.no_stream:
        print(answer.transcript.text)
    return 0


async def _write(device: Device, answer: Answer, link: LinkSettings | None, stream: bool) -> None:
    async def show(edge: EdgeLink | None) -> None:
        async for piece in answer.pieces(edge):
            if stream:
                print(piece.text, end="", flush=True)
        if stream:
            print()
        if answer.config.mode == "device":
            print("unverified: the SLM alone wrote this", file=sys.stderr)
        elif not answer.lossless:
            print("lossy: this text does not follow the LLM's law", file=sys.stderr)

    if link is None or answer.config.mode == "device":
        await show(None)
    else:
        async with link_to(link, device) as edge:
            await show(edge)
