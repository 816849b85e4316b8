"""Every key a result may hold, with its unit and its check (see `benchmarks.record`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

Section = Literal["machine", "settings", "results"]
SECTIONS: tuple[Section, ...] = ("machine", "settings", "results")


def _any(_: Any) -> bool:
    return True


def _not_negative(value: Any) -> bool:
    return bool(value >= 0)


def _positive(value: Any) -> bool:
    return bool(value > 0)


def _share(value: Any) -> bool:
    return bool(0 <= value <= 1)


@dataclass(frozen=True, slots=True)
class Key:
    """What one key of a record means."""

    section: Section
    kind: type
    unit: str
    """SI or `tokens`, `bytes`, `1` for plain numbers; empty for names and flags."""
    meaning: str
    check: Callable[[Any], bool] = _any
    is_series: bool = False
    """Several values of the kind, in the order they came."""
    must_agree: bool = False
    """Facts of a machine without which results cannot stand in one file."""


def _fact(kind: type, unit: str, meaning: str, *, must_agree: bool = False) -> Key:
    check = _any if kind in (str, bool) else _not_negative
    return Key("machine", kind, unit, meaning, check, must_agree=must_agree)


def _setting(kind: type, unit: str, meaning: str, check: Callable[[Any], bool] = _any) -> Key:
    return Key("settings", kind, unit, meaning, check)


def _result(kind: type, unit: str, meaning: str, check: Callable[[Any], bool] | None = None) -> Key:
    default = _any if kind in (str, bool) else _not_negative
    return Key("results", kind, unit, meaning, check or default)


REGISTRY: Mapping[str, Key] = MappingProxyType({
    "board": _fact(str, "", "vendor and model of the machine"),
    "cpu_model": _fact(str, "", "kinds of cores, the fastest first", must_agree=True),
    "architecture": _fact(str, "", "of the kernel, as uname -m names it", must_agree=True),
    "num_cpus": _fact(int, "1", "logical processors of the machine", must_agree=True),
    "num_usable_cpus": _fact(int, "1", "of them, those open to this process", must_agree=True),
    "cpu_max_hz": _fact(float, "Hz", "highest clock of the fastest core"),
    "governor": _fact(str, "", "what sets the clocks", must_agree=True),
    "memory_bytes": _fact(int, "bytes", "memory of the machine"),
    "os": _fact(str, "", "name and version of the distribution"),
    "kernel": _fact(str, "", "release of the kernel"),
    "python_version": _fact(str, "", "of the process that measured", must_agree=True),
    "numpy_version": _fact(str, "", "as installed", must_agree=True),
    "onnxruntime_version": _fact(str, "", "as installed", must_agree=True),
    "torch_version": _fact(str, "", "as installed", must_agree=True),
    "transformers_version": _fact(str, "", "as installed", must_agree=True),
    "git_commit": _fact(str, "", "of the checkout", must_agree=True),
    "git_dirty": _fact(bool, "", "tracked files differ from the commit", must_agree=True),
    "load_1min": _fact(float, "1", "mean number of runnable tasks in the minute before"),
    "date": _fact(str, "", "when the facts were collected, UTC, ISO 8601"),
    "mode": _setting(str, "", "split, edge (LLM alone) or device (SLM alone)"),
    "scheme": _setting(str, "", "verification scheme"),
    "lossless": _setting(bool, "", "the text has exactly the LLM's law"),
    "gamma": _setting(int, "tokens", "draft length", _not_negative),
    "seed": _setting(int, "1", "seed of the generation"),
    "temperature": _setting(float, "1", "0 is greedy", _not_negative),
    "top_k": _setting(int, "tokens", "0 is off", _not_negative),
    "top_p": _setting(float, "1", "1 is off", _share),
    "min_p": _setting(float, "1", "0 is off", _share),
    "max_tokens": _setting(int, "tokens", "limit of the answer", _positive),
    "llm": _setting(str, "", "the edge's model"),
    "slm": _setting(str, "", "the device's model"),
    "dtype": _setting(str, "", "numbers of the LLM"),
    "prompt": _setting(str, "", "the prompt, or its name in a prompt set"),
    "link": _setting(str, "", "link profile between the halves; loopback if none"),
    "device_profile": _setting(str, "", "hardware profile of the device"),
    "num_threads": _setting(int, "1", "threads of the drafter", _positive),
    "sampling": _setting(str, "", "name of a set of sampling parameters"),
    "num_ids": _setting(int, "1", "size of the vocabulary", _positive),
    "text": _result(str, "", "the answer"),
    "token_ids": Key("results", int, "", "the answer", _not_negative, is_series=True),
    "finish_reason": _result(str, "", "why the answer ended"),
    "prompt_tokens": _result(int, "tokens", "length of the prompt"),
    "rounds": _result(int, "1", "draft-verify exchanges"),
    "drafted": _result(int, "tokens", "drafted and sent"),
    "accepted": _result(int, "tokens", "drafts that stand"),
    "rejected": _result(int, "tokens", "drafts judged and refused"),
    "bonus": _result(int, "tokens", "drawn by the edge after a block that stands whole"),
    "unverified": _result(int, "tokens", "kept by the device without the edge"),
    "more_requests": _result(int, "1", "times the device asked for more draws"),
    "alpha": _result(float, "1", "accepted / (accepted + rejected)", _share),
    "bytes_up": _result(int, "bytes", "payload of the messages to the edge"),
    "bytes_down": _result(int, "bytes", "payload of the messages to the device"),
    "frames_up": _result(int, "1", "messages to the edge"),
    "frames_down": _result(int, "1", "messages to the device"),
    "overlap": _result(float, "1", "mean of 1 − D over the judged positions", _share),
    "tokens_per_round": _result(float, "tokens", "committed tokens per round"),
    "bytes_up_per_token": _result(float, "bytes", "payload up per committed token"),
    "bytes_down_per_token": _result(float, "bytes", "payload down per committed token"),
    "wire_bytes_per_token": _result(float, "bytes", "both ways per committed token, with headers"),
    "bytes_down_rejected_p50": _result(float, "bytes", "payload down of rejecting rounds, median"),
    "bytes_down_rejected_p90": _result(float, "bytes", "the same, 90th percentile"),
    "device_round_s": _result(float, "s", "encode, decode, settle per round, median"),
    "edge_round_s": _result(float, "s", "decode, judge, encode per round, median"),
    "ttft_s": _result(float, "s", "from the request to the first token"),
    "tpot_s": _result(float, "s", "time per token after the first"),
    "wall_s": _result(float, "s", "from the request to the last token"),
})  # fmt: skip
