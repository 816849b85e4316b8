"""From what earlier generations measured to what the next one is expected to cost.

What has been measured with this scheme, link and edge is taken; what has not is derived from
the theory or assumed, and named. Everything is a function of its arguments.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from device_runtime.measured import Handshake, Measured, sampling_label
from device_runtime.protocol.sampling import Sampling
from device_runtime.scheme_choice import (
    CANDIDATES,
    MORE_UP_BYTES,
    Candidate,
    Choice,
    Path,
    choose,
)
from device_runtime.scheme_sizes import accepted_bytes, padded, rejected_bytes, up_bytes

ASSUMED_DRAFT_S = 0.020
ASSUMED_VERIFY_S = 0.030
ASSUMED_OVERLAP = 0.7
"""1 − D, where nothing was judged yet."""
ASSUMED_MORE_SHARE = 0.01
"""What the number of draws is steered to (`turn.DrawCount`)."""
PRIOR_JUDGED = 20
"""Drafts that an assumed acceptance is worth against measured ones."""
MIN_JUDGED = 30
"""Of a scheme whose acceptance no theory gives."""
PRIOR_REJECTED = 100
FASTEST_S_PER_BYTE = 8e-9
"""1 Gbit/s: below this, times say nothing about rates."""
NUM_RECENT = 5
"""Generations whose median stands for times, which change with heat and load."""

ROUNDING_COST = {"dssd-thinned": 0.002, "dssd-packed": 0.004}
"""Acceptance that rounding p to a grid takes from 1 − D (docs/schemes.md)."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known before the generation begins."""

    num_ids: int
    gamma: int
    sampling: Sampling
    pad_to_bytes: int
    handshake: Handshake
    """Of this connection."""


def choose_scheme(history: Sequence[Measured], now: Situation) -> Choice:
    """The scheme for the next generation; history: oldest first."""
    path, assumed = estimate_path(history, now)
    return choose(estimate_candidates(history, now), path, now.gamma, assumed)


def estimate_path(history: Sequence[Measured], now: Situation) -> tuple[Path, tuple[str, ...]]:
    """Rates, round trip and the edge's time; and the names of what was not measured."""
    assumed = []
    # Slow rather than fast until more is known: a wrong guess then costs little.
    handshake_bytes = now.handshake.hello_bytes + now.handshake.welcome_bytes
    slow = now.handshake.seconds / 2 / max(1, handshake_bytes)
    up = _least(m.up_s_per_byte for m in history)
    down = _median(m.down_s_per_byte for m in history)
    if up is None:
        assumed.append("uplink rate (half of the handshake's time for its bytes)")
    up_s = max(FASTEST_S_PER_BYTE, slow if up is None else up)
    if down is None:
        assumed.append("downlink rate (as the uplink's)")
    down_s = up_s if down is None else max(FASTEST_S_PER_BYTE, down)
    verify = _median(
        m.round_s - m.handshake.delay_s(up_s, down_s) - m.up_bytes * up_s - m.down_bytes * down_s
        for m in history
        if m.round_s is not None
    )
    if verify is None:
        assumed.append(f"verify time ({1e3 * ASSUMED_VERIFY_S:.0f} ms)")
    if _median(m.draft_s for m in history) is None:
        assumed.append(f"draft time ({1e3 * ASSUMED_DRAFT_S:.0f} ms a token)")
    verify_s = ASSUMED_VERIFY_S if verify is None else max(0.0, verify)
    path = Path(now.handshake.delay_s(up_s, down_s), verify_s, up_s, down_s)
    return path, tuple(assumed)


def estimate_candidates(history: Sequence[Measured], now: Situation) -> list[Candidate]:
    """Every scheme whose acceptance is known or bounded."""
    alike = [m for m in history if m.sampling == sampling_label(now.sampling)]
    alphas = estimate_alphas(alike, greedy=now.sampling.temperature == 0)
    return [_candidate(name, alphas[name], history, alike, now) for name in alphas]


def _candidate(
    scheme: str,
    alpha: float,
    history: Sequence[Measured],
    alike: Sequence[Measured],
    now: Situation,
) -> Candidate:
    own = [m for m in alike if m.scheme == scheme]
    draft_s = _median(m.draft_s for m in history if m.scheme == scheme)
    if draft_s is None:
        draft_s = _median(m.draft_s for m in history)
    sent = [(m.rejected_bytes, m.rejected) for m in own if m.rejected_bytes is not None]
    num_sent = sum(count for _, count in sent)
    rejection = rejected_bytes(scheme, now.num_ids, now.sampling)
    if num_sent:
        rejection = sum(size * count for size, count in sent) / num_sent
    pad = now.pad_to_bytes
    return Candidate(
        scheme=scheme,
        alpha=alpha,
        draft_s=ASSUMED_DRAFT_S if draft_s is None else draft_s,
        up_bytes=padded(up_bytes(scheme, now.num_ids, now.gamma), pad),
        accepted_bytes=padded(accepted_bytes(now.num_ids), pad),
        rejected_bytes=padded(rejection, pad),
        more_share=_more_share(own) if scheme == "dssd-thinned" else 0.0,
        more_up_bytes=padded(MORE_UP_BYTES, pad),
    )


def _more_share(own: Sequence[Measured]) -> float:
    requests = sum(m.more_requests for m in own) + ASSUMED_MORE_SHARE * PRIOR_REJECTED
    return requests / (sum(m.rejected for m in own) + PRIOR_REJECTED)


def estimate_alphas(alike: Sequence[Measured], *, greedy: bool) -> dict[str, float]:
    """Acceptance of every candidate that can be judged, from generations of like sampling.

    Greedy laws are one-hot: all schemes accept the same drafts. Else one overlap 1 − D decides all:
    schemes that sample reach it but for rounding, `coupled` at least (1 − D)/(1 + D) (arXiv
    2408.07978). What a scheme's own drafts showed outweighs both. p(argmax q) follows from
    nothing: `greedy-draft` stays out until it was measured.
    """
    if greedy:
        accepted, rejected = _judged(alike)
        alpha = _mean(accepted, rejected, ASSUMED_OVERLAP)
        # One-hot laws lie on the grid: rounding costs nothing.
        return dict.fromkeys(CANDIDATES, alpha)
    by_scheme = {name: _judged(m for m in alike if m.scheme == name) for name in CANDIDATES}
    overlap = _overlap(by_scheme)
    alphas = {
        name: _mean(*by_scheme[name], overlap - ROUNDING_COST[name]) for name in ROUNDING_COST
    }
    alphas["coupled"] = _mean(*by_scheme["coupled"], coupled_bound(overlap))
    accepted, rejected = by_scheme["greedy-draft"]
    if accepted + rejected >= MIN_JUDGED:
        alphas["greedy-draft"] = accepted / (accepted + rejected)
    return alphas


def coupled_bound(overlap: float) -> float:
    """(1 − D)/(1 + D)."""
    return overlap / (2 - overlap)


def _overlap(by_scheme: dict[str, tuple[int, int]]) -> float:
    """1 − D: from schemes that reach it, else from `coupled` by its bound, turned round."""
    sampled = [by_scheme[name] for name in ROUNDING_COST]
    accepted, rejected = (sum(side) for side in zip(*sampled, strict=True))
    cost = min(ROUNDING_COST.values())
    if accepted + rejected:
        return min(1.0, _mean(accepted, rejected, ASSUMED_OVERLAP - cost) + cost)
    alpha = _mean(*by_scheme["coupled"], coupled_bound(ASSUMED_OVERLAP))
    return 2 * alpha / (1 + alpha)


def _judged(generations: Iterable[Measured]) -> tuple[int, int]:
    generations = list(generations)
    return sum(m.accepted for m in generations), sum(m.rejected for m in generations)


def _mean(accepted: int, rejected: int, prior: float) -> float:
    """Acceptance, where `prior` counts for PRIOR_JUDGED drafts."""
    return (accepted + prior * PRIOR_JUDGED) / (accepted + rejected + PRIOR_JUDGED)


def _median(values: Iterable[float | None]) -> float | None:
    """Of the most recent ones."""
    known = [value for value in values if value is not None]
    return statistics.median(known[-NUM_RECENT:]) if known else None


def _least(values: Iterable[float | None]) -> float | None:
    """Of the recent ones: each is a bound, and the tightest counts while the link stays."""
    known = [value for value in values if value is not None]
    return min(known[-4 * NUM_RECENT :], default=None)
