"""Scheme, block length and sampling on the command line: shared by the verbs that write."""

from __future__ import annotations

import argparse

from device_runtime.lossy import METHODS, Improbable, Router, Uncertainty, method_named
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import DEFAULT_SCHEME, SEEDED_SCHEME
from device_runtime.scheme_choice import AUTO
from device_runtime.writer import PAD_BYTES, Mode, WriteConfig, random_seed

DEFAULT_GAMMA = 4
MAX_SEED = (1 << 64) - 1


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    _add_verification(parser.add_argument_group("verification"))
    _add_law(parser.add_argument_group("sampling (defaults in brackets)"))


def _add_verification(check: argparse._ArgumentGroup) -> None:
    lossy = ", ".join(name for name, method in METHODS.items() if not method.lossless)
    check.add_argument(
        "--scheme", choices=[AUTO, *sorted(METHODS)], metavar="NAME",
        help=f"{', '.join(sorted(METHODS))}; or {AUTO}: the lossless one with the least expected "
        "time per token on this link, by what earlier answers measured "
        f"(default: {DEFAULT_SCHEME}; with --seed {SEEDED_SCHEME})",
    )  # fmt: skip
    check.add_argument(
        "--gamma", type=int, metavar="N",
        help=f"tokens drafted for a round (default: {DEFAULT_GAMMA})",
    )  # fmt: skip
    check.add_argument(
        "--lossy", action="store_true",
        help=f"allow a scheme whose text is not exactly the LLM's: {lossy}",
    )  # fmt: skip
    check.add_argument(
        "--threshold", type=float, metavar="X",
        help="of a lossy scheme, with its default: the SLM's token stands where under this share of "
        f"its re-samples differ (u-hlm, {Uncertainty().threshold:g}), or its probability is at least "
        f"this (threshold, {Improbable().threshold:g}); the SLM writes where the prompt surprises it "
        f"by at most so many nats a token (router, {Router().threshold:g})",
    )  # fmt: skip
    check.add_argument(
        "--pad", action="store_true",
        help=f"send messages in multiples of {PAD_BYTES} bytes, so that sizes tell less",
    )  # fmt: skip


def _add_law(law: argparse._ArgumentGroup) -> None:
    for name, kind, default, words in (
        ("temperature", float, 0.8, "0 is greedy"),
        ("top-k", int, 0, "0 keeps all"),
        ("top-p", float, 1.0, "1 keeps all"),
        ("min-p", float, 0.0, "0 keeps all"),
        ("repetition-penalty", float, 1.0, "1 is none"),
        ("presence-penalty", float, 0.0, "0 is none"),
        ("frequency-penalty", float, 0.0, "0 is none"),
        ("max-tokens", int, 256, "length of the answer"),
    ):
        law.add_argument(
            f"--{name}", type=kind, default=default, metavar="N" if kind is int else "X",
            help=f"[{default:g}] {words}",
        )  # fmt: skip
    law.add_argument(
        "--logit-bias", action="append", default=[], metavar="ID=BIAS",
        help="added to the logit of a token id; may be given again",
    )  # fmt: skip
    law.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before it")
    law.add_argument("--seed", type=int, metavar="N", help="same seed, same text (coupled)")


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


def _check_scheme(scheme: str, args: argparse.Namespace) -> None:
    """ConfigError where it must not be taken, or an option beside it would do nothing."""
    if args.edge_only and (args.scheme is not None or args.gamma is not None):
        raise ConfigError("--edge-only has no drafts to judge; leave --scheme and --gamma out")
    if scheme == AUTO:
        if args.lossy or args.threshold is not None:
            raise ConfigError(
                f"{AUTO} takes lossless schemes alone; leave --lossy and --threshold out"
            )
        return
    method = method_named(scheme, allow_lossy=args.lossy, threshold=args.threshold)
    if args.lossy and method.lossless:
        raise ConfigError(f"{scheme} is lossless; leave --lossy out, or choose a lossy scheme")


def config_from(args: argparse.Namespace) -> WriteConfig:
    """Check what can be checked before anything is loaded."""
    mode: Mode = "edge" if args.edge_only else "device" if args.device_only else "split"
    if mode != "device" and not args.edge:
        raise ConfigError("no edge is given; pass --edge URL, or --device-only to do without")
    gamma = DEFAULT_GAMMA if args.gamma is None else args.gamma
    for name, value, low, high in (
        ("--gamma", gamma, 0, 64),
        ("--max-tokens", args.max_tokens, 1, 1 << 20),
        ("--seed", args.seed or 0, 0, MAX_SEED),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}")
    scheme = args.scheme or (DEFAULT_SCHEME if args.seed is None else SEEDED_SCHEME)
    _check_scheme(scheme, args)
    return WriteConfig(
        mode=mode,
        scheme=scheme,
        gamma=gamma,
        sampling=sampling_from(args),
        max_tokens=args.max_tokens,
        seed=random_seed() if args.seed is None else args.seed,
        is_seed_given=args.seed is not None,
        stops=tuple(args.stop),
        pad=args.pad,
        lossy=args.lossy,
        threshold=args.threshold,
    )
