"""`tandem bench edge --map`: context length × limit on the time per token → the cheapest arm.

For every context and number of sessions batches of the engine are timed, with laws, judging and
draws (`benchmarks.edge_replay`); what a committed token costs follows from the acceptance, which both
drafting arms share. Each arm may take the number of sessions that suits it best, as long as its time
per token keeps the limit. What devices and links take is a parameter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from benchmarks.analytic import tokens_per_round
from benchmarks.demo import PAIR
from benchmarks.edge_replay import drafting_s, stream_s, verify_s
from benchmarks.machine import collect
from benchmarks.record import Record
from edge_server.blocks import BLOCK_LEN, num_blocks_for
from edge_server.config import EdgeConfig
from edge_server.edge_draft import DraftingEngine
from edge_server.engines import start

ARMS = ("edge", "edge+draft", "split")
NONE = "none keeps it"


@dataclass(frozen=True)
class Setting:
    """What is not measured here."""

    alpha: float = 0.8
    """Measured on the demo pair at temperature 0.8: `tandem bench schemes`."""
    gamma: int = 4
    think_s: float = 0.14
    """Device and link of a round: four drafts of 30 ms and a round trip of 20 ms."""

    @property
    def tokens_per_round(self) -> float:
        """Committed on average: (1 − α^(γ+1)) / (1 − α) (Leviathan et al. 2023, eq. 1)."""
        return tokens_per_round(self.alpha, self.gamma)


@dataclass(frozen=True)
class Cost:
    """Of one arm at one context with so many sessions in a batch."""

    arm: str
    context: int
    sessions: int
    per_token_s: float
    engine_s_per_token: float


def costs(
    engine: DraftingEngine, contexts: Sequence[int], sessions: Sequence[int], setting: Setting,
    advance: Callable[[], None] = lambda: None, repeats: int = 5,
) -> list[Cost]:  # fmt: skip
    """Measured, for all that fits into the cache."""
    found = []
    for context in contexts:
        for count in sessions:
            advance()
            room = num_blocks_for(context + 2 * setting.gamma + 1) * BLOCK_LEN
            if count * room > engine.max_cached:
                continue
            found += _arms(engine, context, count, setting, repeats)
    return found


def _arms(
    engine: DraftingEngine, context: int, count: int, setting: Setting, repeats: int
) -> list[Cost]:
    tokens, gamma = setting.tokens_per_round, setting.gamma
    alone_s = stream_s(engine.target, count, context, repeats)
    judged_s = verify_s(engine.target, count, context, gamma, setting.alpha, repeats).seconds
    both_s = drafting_s(engine, count, context, gamma, repeats)
    waited_s = setting.think_s + judged_s
    return [
        Cost("edge", context, count, alone_s, alone_s / count),
        Cost("edge+draft", context, count, both_s / tokens, both_s / (count * tokens)),
        Cost("split", context, count, waited_s / tokens, judged_s / (count * tokens)),
    ]


def best(found: Sequence[Cost], arm: str, context: int, limit_s: float) -> Cost | None:
    """The cheapest way of an arm that keeps the limit."""
    kept = [
        cost
        for cost in found
        if (cost.arm, cost.context) == (arm, context) and cost.per_token_s <= limit_s
    ]
    return min(kept, key=lambda cost: cost.engine_s_per_token, default=None)


def winners(
    found: Sequence[Cost], contexts: Sequence[int], limits_s: Sequence[float]
) -> list[list[str]]:
    """The cheapest arm, one row a limit, one column a context."""

    def winner(context: int, limit_s: float) -> str:
        each = [cost for arm in ARMS if (cost := best(found, arm, context, limit_s))]
        return min(each, key=lambda cost: cost.engine_s_per_token).arm if each else NONE

    return [[winner(context, limit_s) for context in contexts] for limit_s in limits_s]


def markdown(
    found: Sequence[Cost], contexts: Sequence[int], limits_s: Sequence[float], setting: Setting
) -> str:
    """The map with the engine's ms per token of every arm: edge / edge+draft / split."""
    lines = [
        (
            f"alpha {setting.alpha:g}, gamma {setting.gamma}, device and link "
            f"{setting.think_s * 1e3:g} ms a round. Cells: cheapest arm, and engine ms per "
            f"committed token of {' / '.join(ARMS)}."
        ),
        "",
        "| limit, ms | " + " | ".join(f"{context:,} tokens" for context in contexts) + " |",
        "|" + "---|" * (len(contexts) + 1),
    ]
    for limit_s, row in zip(limits_s, winners(found, contexts, limits_s), strict=True):
        cells = [
            f"**{name}** {' / '.join(_shown(best(found, arm, context, limit_s)) for arm in ARMS)}"
            for name, context in zip(row, contexts, strict=True)
        ]
        lines.append(f"| {limit_s * 1e3:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(cost: Cost | None) -> str:
    return "–" if cost is None else f"{cost.engine_s_per_token * 1e3:.3g}"


def records(found: Sequence[Cost], setting: Setting, facts: dict[str, Any]) -> list[Record]:
    """One per cost."""
    return [
        Record.of(
            "edge-map", facts,
            {
                "arm": cost.arm, "context_tokens": cost.context, "sessions": cost.sessions,
                "gamma": setting.gamma, "think_s": setting.think_s, "alpha": setting.alpha,
                "per_token_p50_s": cost.per_token_s,
                "engine_s_per_token": cost.engine_s_per_token,
            },
        )
        for cost in found
    ]  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> tuple[list[Record], str]:
    """The map of the demo pair on this machine; args: those of `tandem bench edge`, checked."""
    from benchmarks.edge_picture import draw_map

    pair = EdgeConfig(
        model=str(PAIR / "llm"), edge_draft=str(PAIR / "slm"), device=args.device,
        dtype=args.dtype, cache_gib=2.0,
    )  # fmt: skip
    (engine,) = start(pair, in_processes=False).engines()  # whose passes alone are timed
    assert isinstance(engine, DraftingEngine)
    args.out.mkdir(parents=True, exist_ok=True)
    contexts = (64, 512) if args.quick else (32, 128, 256, 512, 768, 960)
    sessions = args.sessions or ((1, 8, 32) if args.quick else (1, 2, 4, 8, 16, 32, 64))
    limits_s = (0.01, 0.02, 0.05, 0.1, 0.2)
    setting = Setting(gamma=args.gamma)
    if args.think_ms is not None:
        setting = replace(setting, think_s=args.think_ms / 1e3)
    with console.status("timing batches …"):
        found = costs(engine, contexts, sessions, setting)
    draw_map(winners(found, contexts, limits_s), contexts, limits_s, args.out / "map.png")
    return records(found, setting, collect()), markdown(found, contexts, limits_s, setting)
