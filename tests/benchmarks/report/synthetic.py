"""Records as `tandem bench run` might write them: a small model of device, link and edge, seeded.

No figure here was measured. The model is only good enough that pictures look like real ones.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.record import Record

MACHINE = {
    "board": "Raspberry Pi 5 Model B Rev 1.0", "cpu_model": "Cortex-A76", "architecture": "aarch64",
    "num_cpus": 4, "num_usable_cpus": 4, "cpu_max_hz": 2.4e9, "governor": "performance",
    "memory_bytes": 8 << 30, "os": "Debian GNU/Linux 12 (bookworm)", "kernel": "6.12.25+rpt-rpi-2712",
    "python_version": "3.11.2", "numpy_version": "2.3.1", "onnxruntime_version": "1.23.2",
    "torch_version": "2.8.0", "transformers_version": "4.57.6", "git_commit": "0f" * 20,
    "git_dirty": False, "load_1min": 0.4, "date": "2026-02-01T10:00:00+00:00",
}  # fmt: skip


@dataclass(frozen=True)
class Link:
    name: str
    rtt_s: float
    up_bps: float
    down_bps: float
    radio_j_per_token: float = 0.004


LINKS = (
    Link("wifi5-home", 0.004, 250e6, 250e6),
    Link("lte", 0.0645, 31e6, 117e6, 0.045),
    Link("lte-slow", 0.0645, 6e6, 13e6, 0.06),
    Link("nb-iot", 0.837, 62e3, 26e3, 0.4),
)
GRID = tuple(
    Link(f"{rtt_s * 1e3:g}ms-{down:g}M", rtt_s, down * 1e6 / 3, down * 1e6)
    for rtt_s in (0.0, 0.02, 0.05)
    for down in (10, 50, 100)
)


@dataclass(frozen=True)
class Arm:
    """What a scheme sends, and how well it is accepted."""

    up_bytes_per_draft: float
    down_bytes_on_rejection: float
    alpha_lost: float = 0.0
    lossless: bool = True


SCHEMES = {
    "dssd-thinned": Arm(4, 90), "dssd-packed": Arm(4, 2900), "dssd": Arm(4, 16384),
    "coupled": Arm(2, 3, 0.05), "greedy-draft": Arm(2, 3, 0.4), "sqs": Arm(60, 3, 0.01),
    "tk-slt": Arm(210, 3, 0.02), "dsd": Arm(16384, 3), "u-hlm": Arm(4, 3, -0.1, lossless=False),
}  # fmt: skip
ARMS = (
    "edge", "edge-draft", "device", "dsd/4", "tk-slt/4", "sqs/4", "dssd/4", "dssd-packed/4",
    "dssd-thinned/2", "dssd-thinned/4", "dssd-thinned/8", "coupled/4", "greedy-draft/4", "u-hlm/4",
)  # fmt: skip
SAMPLINGS = {"T=1": (1.0, 1.0, 0.815), "T=0.7 p=0.9": (0.7, 0.9, 0.785)}
PROMPTS = ("tale", "recipe", "letter", "list")
DRAFT_S, VERIFY_S, ENGINE_S = 0.0042, 0.021, 0.019
ANSWER = 192


def records(
    links: tuple[Link, ...] = LINKS, arms: tuple[str, ...] = ARMS, repeats: int = 5
) -> list[Record]:
    """Every arm over every link, interleaved, a warm-up first."""
    return [
        _record(link, sampling, arm, prompt, repeat)
        for link in links
        for sampling in SAMPLINGS
        for repeat in range(-1, repeats)
        for prompt in PROMPTS
        for arm in arms
    ]


def _record(link: Link, sampling: str, arm: str, prompt: str, repeat: int) -> Record:
    noise = np.random.default_rng(
        zlib.crc32(f"{link.name} {sampling} {arm} {prompt} {repeat}".encode())
    )
    rng = np.random.default_rng(zlib.crc32(f"{sampling} {arm} {prompt}".encode()))
    temperature, top_p, alpha = SAMPLINGS[sampling]
    family, _, gamma = arm.partition("/")
    values: dict[str, Any] = {
        "arm": arm, "mode": "split" if gamma else family, "sampling": sampling,
        "temperature": temperature, "top_p": top_p, "link": link.name, "link_rtt_s": link.rtt_s,
        "link_up_bps": link.up_bps, "link_down_bps": link.down_bps, "slow_start": False,
        "prompt": prompt, "prompt_kind": "prose", "seed": 7, "max_tokens": ANSWER, "llm": "demo-llm",
        "slm": "demo-slm", "dtype": "float32", "device_profile": "raspberry-pi-5", "weights": "int4",
        "lossless": family != "device", "prompt_tokens": 12, "connect_s": 0.01 + 2 * link.rtt_s,
        "token_ids": tuple(range(ANSWER)), "energy_kind": "modelled",
        "energy_meter": "raspberry-pi-5", "energy_point": "board, without radio",
    }  # fmt: skip
    alpha += float(rng.normal(0, 0.005)) + (0.06 if prompt == "list" else 0.0)
    if gamma:
        scheme = SCHEMES[family]
        values |= {"scheme": family, "gamma": int(gamma), "lossless": scheme.lossless}
        values |= _split(scheme, int(gamma), alpha - scheme.alpha_lost, link, rng)
    else:
        values |= _alone(family, alpha, link)
    busy = values["device_busy_s"]
    slowness = float(noise.lognormal(0, 0.025)) * (1.02 if repeat <= 0 else 1)
    for name in [name for name in values if name.endswith("wall_s") or name == "ttft_s"]:
        values[name] *= slowness
    values |= {
        "message_gaps_s": [values["tpot_s"] * scale for scale in (0.5, 1.0, 1.5)],
        "compute_j": 3.2 * busy,
        "wait_j": 2.7 * values["wall_s"], "gross_j": 3.2 * busy + 2.7 * values["wall_s"],
        "radio_j": 0.0 if family == "device" else link.radio_j_per_token * ANSWER,
    }  # fmt: skip
    return Record.of("run", MACHINE, values, repeat=max(repeat, 0), is_warmup=repeat < 0)


def _alone(family: str, alpha: float, link: Link) -> dict[str, Any]:
    """The LLM alone or speculating on the edge, streamed; or the SLM alone."""
    if family == "device":
        token_s = DRAFT_S
        return {"first_tokens": 1, "ttft_s": 0.05, "tpot_s": token_s,
                "wall_s": 0.05 + token_s * (ANSWER - 1),
                "device_busy_s": ANSWER * DRAFT_S * 3.5}  # fmt: skip
    round_tokens = (1 - alpha**5) / (1 - alpha)
    token_s = ENGINE_S if family == "edge" else (VERIFY_S + 4 * 0.002) / round_tokens
    ttft_s = link.rtt_s + 0.045
    frames = ANSWER if family == "edge" else round(ANSWER / round_tokens)
    return {
        "first_tokens": 1, "ttft_s": ttft_s, "tpot_s": token_s,
        "wall_s": ttft_s + token_s * (ANSWER - 1),
        "device_busy_s": 0.03, "engine_s": ENGINE_S * frames + 0.03, "bytes_up": 90,
        "bytes_down": frames * 14, "wire_bytes_up": 90 + 52, "frames_up": 1, "frames_down": frames,
        "wire_bytes_down": frames * (14 + 58),
    }  # fmt: skip


def _split(
    scheme: Arm, gamma: int, alpha: float, link: Link, rng: np.random.Generator
) -> dict[str, Any]:
    """Rounds until the answer is long enough."""
    judged, accepted, tokens, rejected, rounds = [0] * gamma, [0] * gamma, 0, 0, 0
    while tokens < ANSWER:
        passed = rng.random(gamma) < np.clip(alpha - 0.01 * np.arange(gamma), 0, 1)
        stands = gamma if passed.all() else int(passed.argmin())
        for place in range(min(stands + 1, gamma)):
            judged[place] += 1
            accepted[place] += int(place < stands)
        rejected += int(stands < gamma)
        tokens, rounds = tokens + stands + 1, rounds + 1
    up = round(rounds * (14 + gamma * scheme.up_bytes_per_draft))
    down = round(rounds * 10 + rejected * scheme.down_bytes_on_rejection)
    wire_up, wire_down = (n + 58 * (rounds + n // 1448) for n in (up, down))
    parts = _parts(gamma, rounds, 8 * wire_up / link.up_bps, 8 * wire_down / link.down_bps, link)
    round_s, ttft_s = sum(parts.values()), 0.06 + link.rtt_s
    wall_s = ttft_s + round_s * rounds
    return {
        **{f"round_{name}_s": value for name, value in parts.items()}, "round_wall_s": round_s,
        "rounds": rounds, "drafted": rounds * gamma, "accepted": sum(accepted), "rejected": rejected,
        "bonus": rounds - rejected, "more_requests": rounds // 50, "bytes_up": up, "bytes_down": down,
        "wire_bytes_up": wire_up, "wire_bytes_down": wire_down, "frames_up": rounds,
        "frames_down": rounds, "judged_at": tuple(judged), "accepted_at": tuple(accepted),
        "alpha": sum(accepted) / (sum(accepted) + rejected), "ttft_s": ttft_s,
        "wall_s": wall_s, "first_tokens": 1,
        "tpot_s": (wall_s - ttft_s) / (ANSWER - 1), "engine_s": VERIFY_S * rounds + 0.02,
        "device_busy_s": rounds * gamma * DRAFT_S * 3.5,
    }  # fmt: skip


def _parts(
    gamma: int, rounds: int, sending_s: float, receiving_s: float, link: Link
) -> dict[str, float]:
    return {
        "draft": gamma * DRAFT_S, "encode": 0.0003, "up": link.rtt_s / 2 + sending_s / rounds,
        "queue": 0.0011, "verify": VERIFY_S, "judge": 0.0009, "settle": 0.0007, "remainder": 0.0004,
        "down": link.rtt_s / 2 + receiving_s / rounds,
    }  # fmt: skip
