"""The section that says what a board would do that is not at hand."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.projection import CAVEAT, FORMULA, Board, Work, check, project, work_of
from benchmarks.report.cells import EDGE_DRAFT, Group
from benchmarks.report.tables import Entry, Section, Table
from device_runtime.protocol.errors import ConfigError
from hw_profiles import load

BANDWIDTH = "read_one_core_bytes_per_s"
NAMES = ("arm", "link", "sampling")
NUMBERS = ("ms a token", "mJ a token", "compute", "waiting", "radio")


def projected_section(groups: Sequence[Group], profile_name: str) -> Section:
    """Every arm that keeps the device busy, on this board; ConfigError where a number is missing."""
    profile = load(profile_name)
    board = Board.of(profile)
    rows = []
    for group in groups:
        for cell in group.cells:
            if cell.family == EDGE_DRAFT:
                continue  # to the board it is another stream, as `edge` is
            answers = [record for repeat in cell.repeats for record in repeat]
            bandwidth = answers[0].machine.get(BANDWIDTH)
            if bandwidth is None:
                raise ConfigError(
                    "the results do not say how fast this machine reads memory, so nothing can be "
                    "projected from them: measure again, or report with --project none"
                )
            names = map(Entry, (cell.label, cell.link, cell.sampling))
            rows.append((*names, *_numbers(work_of(answers), board, bandwidth)))
    note = (
        f"{FORMULA}. {CAVEAT}. A dash: no answer has clocked rounds (lossy arms, one or two rounds). "
        f"Powers of {board.title}: {board.idle_w:g} W idle, {board.active_w:g} W busy."
    )
    for found_check in check(profile):
        per_token = found_check.j_per_token
        joules_text = f" and {per_token:.2f} J a token" if per_token is not None else ""
        note += (
            f" Published for it: {found_check.published.model} at "
            f"{found_check.published.speed_tokens_per_s.value:g} tokens/s, which is "
            f"{found_check.bandwidth_share:.0%} of one core's read bandwidth{joules_text}."
        )
    return Section(f"Projected to {board.title}", Table((*NAMES, *NUMBERS), tuple(rows)), note)


def _numbers(work: Work | None, board: Board, bandwidth_here: float) -> tuple[Entry, ...]:
    """For the columns NUMBERS."""
    if work is None:
        return (Entry("–"),) * len(NUMBERS)
    found = project(work, board, bandwidth_here)
    numbers = (found.seconds, found.joules, found.compute_j, found.wait_j, found.radio_j)
    return tuple(Entry(f"{1e3 * number:.1f}") for number in numbers)
