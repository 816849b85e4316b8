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
    "read_one_core_bytes_per_s": _fact(float, "bytes/s", "memory read in sequence, measured"),
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
    "device_seed": _setting(int, "1", "of the device's own coins; fresh ones if left out"),
    "temperature": _setting(float, "1", "0 is greedy", _not_negative),
    "top_k": _setting(int, "tokens", "0 is off", _not_negative),
    "top_p": _setting(float, "1", "1 is off", _share),
    "min_p": _setting(float, "1", "0 is off", _share),
    "max_tokens": _setting(int, "tokens", "limit of the answer", _positive),
    "llm": _setting(str, "", "the edge's model"),
    "llm_digest": _setting(str, "", "of its checkpoint (`benchmarks.run.models`)"),
    "slm": _setting(str, "", "the device's model"),
    "slm_digest": _setting(str, "", "of the hashes of its bundle's files"),
    "edge_draft": _setting(str, "", "the small model that drafts on the edge"),
    "edge_draft_digest": _setting(str, "", "of its checkpoint"),
    "dtype": _setting(str, "", "numbers of the LLM"),
    "prompt": _setting(str, "", "the prompt, or its name in a prompt set"),
    "link": _setting(str, "", "link profile between the halves; loopback if none"),
    "device_profile": _setting(str, "", "hardware profile of the device"),
    "num_threads": _setting(int, "1", "threads of the drafter", _positive),
    "edge_threads": _setting(int, "1", "of the LLM on a CPU; 0 is one a core", _not_negative),
    "sampling": _setting(str, "", "name of a set of sampling parameters"),
    "num_ids": _setting(int, "1", "size of the vocabulary", _positive),
    "widened": _setting(bool, "", "laws over a vocabulary made from a smaller one by a recipe"),
    "arm": _setting(str, "", "what is compared: a scheme with its gamma, edge, edge-draft, device"),
    "prompt_kind": _setting(str, "", "kind of prompt in the set (`benchmarks.prompts`)"),
    "link_rtt_s": _setting(float, "s", "round trip of the emulated link", _not_negative),
    "link_up_bps": _setting(float, "bit/s", "rate of the emulated link, up", _positive),
    "link_down_bps": _setting(float, "bit/s", "the same, down", _positive),
    "link_realtime": _setting(bool, "", "the emulated link's process has a real-time priority"),
    "slow_start": _setting(bool, "", "connections begin with ten packets a round trip"),
    "sessions": _setting(int, "1", "device sessions at a time, at most", _positive),
    "replicas": _setting(int, "1", "copies of the model that batch side by side", _positive),
    "arrivals_per_s": _setting(float, "1/s", "answers that begin; closed loop if left out"),
    "think_s": _setting(float, "s", "device and link, between a verdict and the next block"),
    "length_ratio": _setting(float, "1", "of length-aware batching; 0 is first come, first served"),
    "context_tokens": _setting(int, "tokens", "of each text before its answer", _positive),
    "limit_s": _setting(float, "s", "on the time per token", _positive),
    "verified_tokens_per_s": _result(float, "tokens/s", "committed, all sessions"),
    "rounds_per_s": _result(float, "1/s", "verdicts, or messages of streams, all sessions"),
    "speedup": _result(float, "1", "rounds per second over those of one session"),
    "batch_jobs_mean": _result(float, "1", "jobs in a batch"),
    "batch_jobs_p90": _result(float, "1", "the same, 90th percentile"),
    "batch_tokens_mean": _result(float, "tokens", "new ones in a batch"),
    "queue_p50_s": _result(float, "s", "a job before its batch, median"),
    "queue_p90_s": _result(float, "s", "the same, 90th percentile"),
    "queue_p99_s": _result(float, "s", "the same, 99th percentile"),
    "verify_p50_s": _result(float, "s", "a batch in the engine, median"),
    "verify_p90_s": _result(float, "s", "the same, 90th percentile"),
    "verify_p99_s": _result(float, "s", "the same, 99th percentile"),
    "round_p50_s": _result(float, "s", "a round as the device sees it, median"),
    "round_p90_s": _result(float, "s", "the same, 90th percentile"),
    "first_token_p50_s": _result(float, "s", "from the beginning of an answer, median"),
    "per_token_p50_s": _result(float, "s", "time per token of an answer, median"),
    "per_token_p90_s": _result(float, "s", "the same, 90th percentile"),
    "engine_s_per_token": _result(float, "s", "engine (GPU) time per committed token"),
    "engine_busy": _result(float, "1", "share of the time with a batch in the engine"),
    "server_cpu_s_per_round": _result(float, "s", "event loop's, without logits to law"),
    "law_cpu_s_per_round": _result(float, "s", "logits to law"),
    "cache_bytes_per_session": _result(float, "bytes", "of blocks held, mean over batches"),
    "rss_bytes": _result(int, "bytes", "of the edge, the most so far"),
    "answers_flipped": _result(int, "1", "replayed answers that rounding turned another way"),
    "answers_refused": _result(int, "1", "answers that found no session or an error"),
    "sessions_held": _result(int, "1", "the most that keep the limit"),
    "gemm_s": _result(float, "s", "the model's matrix products, same shapes, alone"),
    "kv_read_s": _result(float, "s", "reading the keys and values once, alone"),
    "pass_s": _result(float, "s", "one verify pass of the engine"),
    "ratio": _result(float, "1", "of what was measured to its floor"),
    "logit_error": _result(float, "1", "largest, over the logits' standard deviation"),
    "runtime": _setting(str, "", "what runs the SLM, in a bench of several"),
    "runtime_version": _setting(str, "", "versions of its libraries"),
    "weights": _setting(str, "", "how the SLM's matrices are stored"),
    "graph": _setting(str, "", "kind of the SLM's graph"),
    "cache_dtype": _setting(str, "", "numbers of the SLM's cache"),
    "accuracy_level": _setting(int, "1", "of quantised products: 4 rounds activations to int8"),
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
    "connect_s": _result(float, "s", "connection and handshake, before the answer begins"),
    "message_gaps_s": Key(
        "results", float, "s", "between messages that bring text", _not_negative, is_series=True
    ),
    "round_wall_s": _result(float, "s", "from one draft's start to the next one's, mean of rounds"),
    "round_draft_s": _result(float, "s", "of that, device: drafting"),
    "round_encode_s": _result(float, "s", "of that, device: the block to bytes"),
    "round_up_s": _result(float, "s", "of that, from the device's send to the edge's receive"),
    "round_queue_s": _result(float, "s", "of that, edge: before the batch begins"),
    "round_verify_s": _result(float, "s", "of that, edge: the batch; on GPUs logits to law"),
    "round_judge_s": _result(float, "s", "of that, edge: decode, judge, encode; on CPUs logits to law"),
    "round_down_s": _result(float, "s", "of that, from the edge's send to the device's receive"),
    "round_settle_s": _result(float, "s", "of that, device: verdict, replacement, rollback"),
    "round_remainder_s": _result(float, "s", "of that, what no clock covers: an error", _any),
    "judged_at": Key("results", int, "tokens", "drafts judged, by place", _not_negative, True),
    "accepted_at": Key("results", int, "tokens", "of them, accepted", _not_negative, True),
    "wire_bytes_up": _result(int, "bytes", "over the link up, TCP/IP headers included"),
    "wire_bytes_down": _result(int, "bytes", "the same, down"),
    "link_late_s": _result(float, "s", "how late the emulated link delivered, mean: its error"),
    "link_late_share": _result(float, "1", "deliveries that were more than 1 ms late", _share),
    "engine_s": _result(float, "s", "batches of this answer in the engine; on GPUs logits to law"),
    "device_busy_s": _result(float, "s", "CPU time of the device's process, all threads"),
    "energy_kind": _result(str, "", "measured or modelled"),
    "energy_meter": _result(str, "", "which meter, or the profile of a model"),
    "energy_point": _result(str, "", "where on the machine"),
    "gross_j": _result(float, "J", "of the device during the answer, at that point"),
    "net_j": _result(float, "J", "without the power at rest", _any),
    "compute_j": _result(float, "J", "of a model: added by busy cores"),
    "wait_j": _result(float, "J", "of a model: the board at rest, for as long as the answer took"),
    "radio_j": _result(float, "J", "of a model: the link's radio, its tail included"),
    "overlap": _result(float, "1", "mean of 1 − D over the judged positions", _share),
    "tokens_per_round": _result(float, "tokens", "committed tokens per round"),
    "bytes_up_per_token": _result(float, "bytes", "payload up per committed token"),
    "bytes_down_per_token": _result(float, "bytes", "payload down per committed token"),
    "wire_bytes_up_per_token": _result(float, "bytes", "up per committed token, with headers"),
    "wire_bytes_down_per_token": _result(float, "bytes", "down per committed token, with headers"),
    "bytes_up_rejected_p50": _result(float, "bytes", "payload up of rejecting rounds, median"),
    "bytes_up_rejected_p90": _result(float, "bytes", "the same, 90th percentile"),
    "bytes_down_rejected_p50": _result(float, "bytes", "payload down of rejecting rounds, median"),
    "bytes_down_rejected_p90": _result(float, "bytes", "the same, 90th percentile"),
    "wire_bytes_up_rejected_p50": _result(float, "bytes", "with headers up, median"),
    "wire_bytes_up_rejected_p90": _result(float, "bytes", "the same, 90th percentile"),
    "wire_bytes_down_rejected_p50": _result(float, "bytes", "with headers down, median"),
    "wire_bytes_down_rejected_p90": _result(float, "bytes", "the same, 90th percentile"),
    "alpha_expected": _result(float, "1", "mean chance of acceptance given p and q", _share),
    "kept_share": _result(float, "1", "tokens that stand without the edge, of all", _share),
    "law_distance": _result(float, "1", "of the law that is written to p, mean", _share),
    "draft_s": _result(float, "s", "device: laws to the drafts of a block, CPU time, median"),
    "encode_s": _result(float, "s", "device: the block to bytes, CPU time, median"),
    "decode_s": _result(float, "s", "edge: bytes to the block, CPU time, median"),
    "judge_s": _result(float, "s", "edge: judging and the verdict to bytes, CPU time, median"),
    "settle_s": _result(float, "s", "device: verdict and replacement, CPU time, median"),
    "protocol_round_s": _result(float, "s", "encode to settle together, of a round, median"),
    "law_s": _result(float, "s", "logits to law, CPU time, median"),
    "contender": _setting(str, "", "a way to write the row of dssd-packed"),
    "mantissa_bits": _setting(int, "1", "of a grid: log2 of its levels an octave", _not_negative),
    "octaves": _setting(int, "1", "of a grid: how far down it reaches", _positive),
    "rounded_off": _setting(float, "1", "mass of p that dssd-packed may round off", _share),
    "index_bits": _result(int, "1", "bits of a grid's index, sent up with each token"),
    "overlap_lost": _result(float, "1", "acceptance lost by rounding to the grid, mean", _any),
    "rejection_bytes": _result(float, "bytes", "of a rejection without its header, mean"),
    "rows": _result(int, "1", "rows measured"),
    "num_kept": _result(float, "1", "ids of a row that are sent, mean"),
    "contender_bytes": _result(float, "bytes", "of a row as the contender writes it, mean"),
    "row_bytes": _result(float, "bytes", "of all that a rejection of dssd-packed sends, mean"),
    "entropy_bytes": _result(float, "bytes", "what that content holds at least, mean"),
    "overlap_lost_packed": _result(float, "1", "acceptance lost by dssd-packed's rounding", _any),
    "overlap_lost_thinned": _result(float, "1", "the same of dssd-thinned's grid", _any),
    "overlap_lost_log_grid": _result(float, "1", "the same of the packed log grid", _any),
    "row_error_fp16": _result(float, "1", "distance of dssd's law to p, mean", _share),
    "row_error_fp16_max": _result(float, "1", "the same, largest", _share),
    "row_error_fp32": _result(float, "1", "distance of dssd-fp32's law to p, mean", _share),
    "row_error_fp32_max": _result(float, "1", "the same, largest", _share),
    "num_places": _result(int, "tokens", "of text, at each of which p and q were compared"),
    "nats_per_token": _result(float, "1", "−log q of held-out text"),
    "bits_per_byte": _result(float, "1", "the same per byte of the text, to base 2"),
    "overlap_lost_weights": _result(float, "1", "mean of 1 − D lost against fp32", _any),
    "overlap_lost_weights_error": _result(float, "1", "half of its 95 % interval, over windows"),
    "same_choice": _result(float, "1", "places where p and q have the same largest", _share),
    "model_bytes": _result(int, "bytes", "files of graph and weights"),
    "token_s": _result(float, "s", "one run, its logits and their largest; median of a round"),
    "prefill_s": _result(float, "s", "the context in one call"),
    "bare_run_s": _result(float, "s", "the same run again and nothing else, median"),
    "draft_token_s": _result(float, "s", "a drafted token at T = 1, whole vocabulary, median"),
    "outside_share": _result(float, "1", "part of drafting outside onnxruntime, median", _share),
    "cpu_s_per_token": _result(float, "s", "CPU time of all threads per token"),
    "runtime_rss_bytes": _result(int, "bytes", "resident memory of the runtime's process"),
    "runtime_peak_rss_bytes": _result(int, "bytes", "the most it was"),
    "runtime_anonymous_bytes": _result(int, "bytes", "the part of it that no file backs"),
    "start_s": _result(float, "s", "from the start of the process to its first token, median"),
    "read_bytes_per_s": _result(float, "bytes/s", "memory read with the same number of threads"),
    "j_per_token": _result(float, "J", "gross, as the meter sees it"),
    "ttft_s": _result(float, "s", "from the request to the first token"),
    "first_tokens": _result(int, "1", "tokens that came together with the first one"),
    "tpot_s": _result(float, "s", "time per token after those that came with the first one"),
    "wall_s": _result(float, "s", "from the request to the last token"),
})  # fmt: skip
