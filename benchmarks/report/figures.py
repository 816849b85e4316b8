"""What is reported of an arm: each figure is computed from the answers of one repeat.

Ratios are of totals: seconds of all answers over tokens of all answers, so that a short answer does
not weigh as much as a long one. An answer that lacks one of the two is left out of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.report.estimates import ENOUGH_REPEATS, coverage_note
from benchmarks.run.parts import PARTS

Results = Mapping[str, Any]
Quantity = Callable[[Results], float | None]
"""Of one answer; None where it was not measured."""
Formula = Callable[[Sequence[Results]], float | None]
"""Of the answers of a repeat."""

_ENOUGH_GAPS = 300
"""Of which three are longer than the 99th percentile."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of an arm."""

    name: str
    title: str
    unit: str
    """As shown."""
    scale: float
    """From SI to the unit shown."""
    formula: Formula
    in_table: bool = True
    less_is_better: bool = True

    def shown(self, value: float) -> str:
        """Three significant digits, without the unit."""
        return digits(value * self.scale)

    def with_unit(self, value: float) -> str:
        """Three significant digits and the unit."""
        return f"{self.shown(value)} {self.unit}".rstrip()


def digits(value: float) -> str:
    """Three significant digits, thousands set apart, never an exponent."""
    if value == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:,.{min(6, max(0, places))}f}"


def of(name: str) -> Quantity:
    """What the record holds under this key."""

    def value(results: Results) -> float | None:
        found: float | None = results.get(name)
        return found

    return value


def num_tokens(results: Results) -> float | None:
    """Tokens of the answer."""
    return len(results["token_ids"]) if "token_ids" in results else None


def board_j(results: Results) -> float | None:
    """What the device takes without the link's radio."""
    if "compute_j" in results and "wait_j" in results:
        return float(results["compute_j"] + results["wait_j"])
    return of("gross_j")(results)


def device_j(results: Results) -> float | None:
    """Board and radio: no radio is behind an emulated link, so no meter of the board sees it."""
    board = board_j(results)
    return None if board is None else board + results.get("radio_j", 0.0)


def work_j(results: Results) -> float | None:
    """Added by the work: modelled as such, or measured less the power at rest."""
    return of("compute_j" if "compute_j" in results else "net_j")(results)


def rest_j(results: Results) -> float | None:
    """The board at rest for as long as the answer took."""
    board, work = board_j(results), work_j(results)
    return None if board is None or work is None else board - work


def _after_first_s(results: Results) -> float | None:
    if "wall_s" not in results or "ttft_s" not in results:
        return None
    return float(results["wall_s"] - results["ttft_s"])


def _tokens_after_first(results: Results) -> float | None:
    """Without those that came with the first, as a round's do: they cost no time after it."""
    tokens, first = num_tokens(results), results.get("first_tokens")
    return None if tokens is None or first is None else tokens - first


def _judged(results: Results) -> float | None:
    if "accepted" not in results or "rejected" not in results:
        return None
    return float(results["accepted"] + results["rejected"])


def _messages(results: Results) -> float | None:
    if "frames_up" not in results or "frames_down" not in results:
        return None
    return float(results["frames_up"] + results["frames_down"])


def _round_s(part: str) -> Quantity:
    """Seconds of a part in all rounds of an answer: the record holds their mean."""

    def total_s(results: Results) -> float | None:
        mean_s, rounds = results.get(f"round_{part}_s"), results.get("rounds")
        return None if mean_s is None or rounds is None else float(mean_s * rounds)

    return total_s


def ratio(above: Quantity, below: Quantity) -> Formula:
    """Total over total, of the answers that have both."""

    def formula(answers: Sequence[Results]) -> float | None:
        pairs = [(above(answer), below(answer)) for answer in answers]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        total = sum(b for _, b in both)
        return sum(a for a, _ in both) / total if total else None

    return formula


def _gap(share: int, at_least: int = 1) -> Formula:
    """This percentile of the gaps between messages, of all answers together; None for too few gaps."""

    def formula(answers: Sequence[Results]) -> float | None:
        gaps_s = [gap for answer in answers for gap in answer.get("message_gaps_s", ())]
        return float(np.percentile(gaps_s, share)) if len(gaps_s) >= at_least else None

    return formula


def mean(quantity: Quantity) -> Formula:
    """Over the answers that have it."""
    return ratio(quantity, lambda results: None if quantity(results) is None else 1.0)


def _per_token(quantity: Quantity) -> Formula:
    return ratio(quantity, num_tokens)


_FIGURES = (
    Figure("time_per_token_s", "time per token", "ms", 1e3,
           ratio(_after_first_s, _tokens_after_first)),
    Figure("ttft_s", "first token", "ms", 1e3, mean(of("ttft_s"))),
    Figure("message_gap_p50_s", "between messages, p50", "ms", 1e3, _gap(50)),
    Figure("message_gap_p90_s", "between messages, p90", "ms", 1e3, _gap(90)),
    Figure("message_gap_p99_s", "between messages, p99", "ms", 1e3, _gap(99, _ENOUGH_GAPS)),
    Figure("tokens_per_s", "tokens per second", "", 1, ratio(num_tokens, of("wall_s")),
           less_is_better=False),
    Figure("tokens_per_round", "tokens per round", "", 1, ratio(num_tokens, of("rounds")),
           less_is_better=False),
    Figure("alpha", "alpha", "", 1, ratio(of("accepted"), _judged), less_is_better=False),
    Figure("wire_bytes_up_per_token", "up, with headers", "B", 1,
           _per_token(of("wire_bytes_up"))),
    Figure("wire_bytes_down_per_token", "down, with headers", "B", 1,
           _per_token(of("wire_bytes_down"))),
    Figure("bytes_up_per_token", "up, payload", "B", 1, _per_token(of("bytes_up"))),
    Figure("bytes_down_per_token", "down, payload", "B", 1, _per_token(of("bytes_down"))),
    Figure("j_per_token", "device energy per token", "mJ", 1e3, _per_token(device_j)),
    Figure("work_j_per_token", "of it compute", "mJ", 1e3, _per_token(work_j)),
    Figure("rest_j_per_token", "of it waiting", "mJ", 1e3, _per_token(rest_j)),
    Figure("radio_j_per_token", "radio, modelled", "mJ", 1e3, _per_token(of("radio_j"))),
    Figure("engine_s_per_token", "edge engine per token", "ms", 1e3, _per_token(of("engine_s"))),
    Figure("sessions_per_edge", "sessions of one edge", "", 1, ratio(of("wall_s"), of("engine_s")),
           less_is_better=False),
    Figure("device_busy_s_per_token", "device CPU per token", "ms", 1e3,
           _per_token(of("device_busy_s"))),
    Figure("connect_s", "connection", "ms", 1e3, mean(of("connect_s")), in_table=False),
    Figure("messages_per_token", "messages per token", "", 1, _per_token(_messages),
           in_table=False),
    Figure("more_per_round", "requests for more draws per round", "", 1,
           ratio(of("more_requests"), of("rounds")), in_table=False),
    *(Figure(f"round_{part}_s", f"round: {part}", "ms", 1e3,
             ratio(_round_s(part), of("rounds")), in_table=False)
      for part in ("wall", *PARTS)),
)  # fmt: skip
FIGURES: Mapping[str, Figure] = MappingProxyType({figure.name: figure for figure in _FIGURES})
"""By name; those of the tables in the order of their columns."""

NOTES = (
    "Every figure is the median over the repeats; a repeat's is a total over its prompts.",
    coverage_note(),
    f"Arms are told apart from {ENOUGH_REPEATS} repeats on, where their brackets do not meet.",
    "Time per token is that after the first message, over the tokens that came after it.",
    f"Between messages that bring text; p99 from {_ENOUGH_GAPS} gaps a repeat on.",
    "Bytes are per token; with headers: all that crossed the emulated link, those of TCP and IP too.",
    "Device energy is the board's and the radio's. An emulated link has no radio: its is modelled.",
    "Sessions of one edge: answer time over engine time, as if it never paused and batched nothing.",
)
"""What a reader must know of the figures."""
