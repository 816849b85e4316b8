"""The papers' analytic models beside live answers: what they predict, and by how much they miss. Pure.

Of every arm the answers over the link with the shortest round trip (the *calibration*) give what its
models and programs cost a round, link taken out; nothing else of the other links is used but tokens
and bytes a round. So a prediction for another link is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.analytic import DssdLink, dsd_uplink_bits, speed_up
from benchmarks.report.cells import Cell

PROB_BITS = 16
"""Of the rows that `dsd` and `dssd` send."""
BITS_PER_BYTE = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """Means of a cell's rounds (of a stream: of its tokens)."""

    tokens: float
    """After the first round, whose tokens cost no time after it."""
    draft_s: float
    """Per drafted token."""
    exchanges: float
    up_bytes: float
    down_bytes: float
    """With headers."""
    alpha: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Time per token of one arm over one link, seconds."""

    cell: Cell
    live_s: float
    predicted_s: float
    """Bytes with headers both ways, round trips, and the calibration's compute."""
    paper_s: float | None
    """By the paper's own equation, for `dsd` and `dssd`; None for the others."""
    is_calibration: bool

    @property
    def error(self) -> float:
        """Of the prediction, relative to the live time."""
        return self.predicted_s / self.live_s - 1


def predict(cells: Sequence[Cell], num_ids: int) -> list[Prediction]:
    """For every arm with a split or an edge; cells are those of one sampling."""
    found = []
    for arm in dict.fromkeys(cell.arm for cell in cells):
        own = [cell for cell in cells if cell.arm == arm and cell.family != "device"]
        own = [cell for cell in own if cell.median("time_per_token_s") is not None]
        if not own:
            continue
        first = min(own, key=lambda cell: (cell.settings["link_rtt_s"], -_down_bps(cell)))
        compute_s = _link_free_s(first)
        found += [_predicted(c, compute_s, num_ids, is_calibration=c is first) for c in own]
    return found


def cost_of(cell: Cell) -> Cost:
    """What a round of the cell took along; of streams, what a token did."""
    answers = list(cell.answers)
    tokens = sum(len(answer["token_ids"]) for answer in answers)
    first_tokens = sum(answer["first_tokens"] for answer in answers)
    rounds = sum(answer["rounds"] for answer in answers)
    exchanges = rounds + sum(answer["more_requests"] for answer in answers)
    drafted = sum(answer["drafted"] for answer in answers)
    judged = sum(answer["accepted"] + answer["rejected"] for answer in answers)
    draft_s = sum(a["rounds"] * a.get("round_draft_s", 0.0) for a in answers)
    steps = rounds or tokens
    return Cost(
        tokens=(tokens - first_tokens) / max(1, steps - len(answers)),
        draft_s=draft_s / drafted if drafted else 0.0,
        exchanges=exchanges / steps,
        up_bytes=sum(a["wire_bytes_up"] for a in answers) / steps if rounds else 0.0,
        down_bytes=sum(a["wire_bytes_down"] for a in answers) / steps,
        alpha=sum(a["accepted"] for a in answers) / judged if judged else 0.0,
    )


def _down_bps(cell: Cell) -> float:
    return float(cell.settings["link_down_bps"])


def _link_s(cell: Cell, cost: Cost) -> float:
    """What the link takes of a round: round trips and bytes; a stream waits for no answer."""
    settings = cell.settings
    bytes_s = BITS_PER_BYTE * (
        cost.up_bytes / settings["link_up_bps"] + cost.down_bytes / settings["link_down_bps"]
    )
    if not cell.is_split:
        return 0.0  # tokens overlap on their way: the slower of edge and link counts, not the sum
    return float(cost.exchanges * settings["link_rtt_s"] + bytes_s)


def _live_s(cell: Cell) -> float:
    found = cell.median("time_per_token_s")
    assert found is not None
    return found


def _link_free_s(cell: Cell) -> float:
    """Of a round, measured, with the link's share taken out."""
    cost = cost_of(cell)
    return _live_s(cell) * cost.tokens - _link_s(cell, cost)


def _predicted(cell: Cell, compute_s: float, num_ids: int, *, is_calibration: bool) -> Prediction:
    cost = cost_of(cell)
    round_s = compute_s + _link_s(cell, cost)
    paper_s = _paper_link_s(cell, cost, num_ids)
    return Prediction(
        cell, _live_s(cell), round_s / cost.tokens,
        None if paper_s is None else (compute_s + paper_s) / cost.tokens, is_calibration,
    )  # fmt: skip


def _paper_link_s(cell: Cell, cost: Cost, num_ids: int) -> float | None:
    """T_comm of DSSD's equations 5 (DSD) and 9 (DSSD), with the alpha and the rates of the cell."""
    settings, gamma = cell.settings, cell.settings.get("gamma")
    if cell.family == "dsd":
        assert gamma is not None
        up_bits = dsd_uplink_bits(num_ids, gamma, PROB_BITS)
        return float(up_bits / settings["link_up_bps"] + settings["link_rtt_s"])
    if cell.family == "dssd":
        assert gamma is not None
        link = DssdLink(num_ids, PROB_BITS, settings["link_down_bps"], settings["link_rtt_s"])
        return link.comm_s(cost.alpha, gamma)
    return None


def paper_speed_up(prediction: Prediction, edge: Prediction) -> float:
    """TK-SLT's S (equation 11 with a cost per round): time per token over that of the LLM alone.

    From the measured alpha, the draft time L and the predicted round; that every place of a block is
    equally likely to be accepted is the paper's assumption.
    """
    cell = prediction.cell
    cost, gamma, token_s = cost_of(cell), cell.settings["gamma"], edge.predicted_s
    draft_ratio = cost.draft_s / token_s
    round_ratio = prediction.predicted_s * cost.tokens / token_s
    return speed_up(cost.alpha, draft_ratio, gamma, round_ratio - gamma * draft_ratio - 1)
