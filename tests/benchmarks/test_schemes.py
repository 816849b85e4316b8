"""`tandem bench schemes` on tables instead of models: rounds, wide vocabularies, table, picture."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from benchmarks.record import Record
from benchmarks.scheme_lossy import answer_kind, kept_chances, law_distance
from benchmarks.scheme_rounds import LocalPair
from benchmarks.scheme_table import COLUMNS, Cell, brief, markdown, values_of
from benchmarks.scheme_watch import Measured
from benchmarks.schemes import DOCS, MARK, SAMPLINGS, VOCABULARIES
from benchmarks.schemes_picture import draw
from device_runtime.lossy import (
    METHODS,
    Improbable,
    LossyTurn,
    Policy,
    Route,
    Router,
    Uncertainty,
)
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.edge_states import Job
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.grid import Grid
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling, to_law
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Place
from device_runtime.turn import Counts
from tests.exact_law import EnumeratedCoins, EnumeratedStreams, enumerate_law
from tests.table_model import Table, TableDrafter, TableEdge, open_session, random_table

NUM_OWN, GAMMA, TOKENS_EACH = 24, 3, 30
LOSSY = [name for name, method in METHODS.items() if not method.lossless]
PROMPTS = ([1, 2, 3], [4, 5])


class Engine:
    """As much of an engine as the rounds use."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.num_passes = 0

    def open(self) -> object:
        return object()

    def drop(self, slot: object) -> None:
        """There is nothing to give back."""

    def logits(self, batch: Sequence[tuple[object, Job]]) -> list[torch.Tensor]:
        self.num_passes += 1
        lasts = [job.tokens[len(job.tokens) - job.num_rows :] for _, job in batch]
        return [torch.from_numpy(self._table[list(last)]) for last in lasts]


def measured(scheme: str, num_ids: int = NUM_OWN, sampling: str = "T=1") -> tuple[Measured, Engine]:
    table = random_table(NUM_OWN, 1)
    engine: Any = Engine(table)
    drafters = [TableDrafter(table + random_table(NUM_OWN, 2, 0.7)) for _ in PROMPTS]
    pair = LocalPair(engine, drafters, NUM_OWN, num_ids)
    method = METHODS[scheme]
    found = pair.measure(
        method, SAMPLINGS[sampling], GAMMA, PROMPTS, TOKENS_EACH, answer_kind(method)
    )
    return found, engine


@pytest.mark.parametrize("num_ids", [NUM_OWN, 200])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_round_is_measured(scheme: str, num_ids: int) -> None:
    found, engine = measured(scheme, num_ids)
    counts = found.counts
    rounds = counts.rounds
    assert found.num_tokens >= TOKENS_EACH * len(PROMPTS)
    assert counts.bonus + counts.rejected == rounds == len(found.rejecting)
    assert sum(found.rejecting) == counts.rejected
    assert len(found.overlaps) == counts.accepted + counts.rejected
    for per_round in (found.bytes_up, found.bytes_down, found.encode_s, found.settle_s):
        assert len(per_round) == rounds
    assert engine.num_passes < rounds + counts.more_requests  # answers are judged together
    assert all(0 <= chance <= 1 + 1e-9 for chance in found.expected + found.overlaps)


def test_a_vocabulary_smaller_than_the_pair_s_is_refused() -> None:
    engine: Any = Engine(random_table(NUM_OWN, 0))
    assert LocalPair(engine, [], NUM_OWN, NUM_OWN).wide is None
    with pytest.raises(ConfigError, match=r"a vocabulary of 23 ids .*; give 24 or more"):
        LocalPair(engine, [], NUM_OWN, NUM_OWN - 1)


SLOW = "import time\ndef cell(*_): time.sleep(60)\n"
INTERRUPTED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under
import slow
from benchmarks import schemes
from device_runtime.cli import main
wait = schemes.as_completed
def started(futures):
    print("started", flush=True)
    return wait(futures)
schemes.as_completed, schemes.exported_slm, schemes._cell = started, lambda _: None, slow.cell
main(["bench", "schemes", "--quick", "--jobs", "2"])
"""


def test_an_interrupt_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as bench:  # fmt: skip
        try:
            assert bench.stdout is not None and bench.stdout.readline() == "started\n"
            time.sleep(1)  # the workers import what they need
            os.killpg(bench.pid, signal.SIGINT)  # as a terminal does
            said = bench.communicate(timeout=50)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(bench.pid, signal.SIGKILL)
    assert said.splitlines()[-1] == "tandem bench: interrupted" and "Traceback" not in said


def test_a_request_for_more_belongs_to_its_round() -> None:
    found, _ = measured("dssd-thinned")
    exchanges = sum(len(sizes) for sizes in found.bytes_down)
    assert exchanges == found.counts.rounds + found.counts.more_requests


def test_exact_schemes_reach_their_bound() -> None:
    for scheme, slack in (("dssd", 1e-9), ("dssd-thinned", 0.01), ("dssd-packed", 0.006)):
        found, _ = measured(scheme)
        lost = np.array(found.overlaps) - np.array(found.expected)
        assert (lost >= -1e-12).all()
        assert lost.mean() < slack


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return [
        values_of(
            Cell(num_ids, sampling, scheme, measured(scheme, num_ids, sampling)[0], NUM_OWN), GAMMA
        )
        for num_ids in (NUM_OWN, 200)
        for sampling in ("T=1", "greedy")
        for scheme in ("dssd-thinned", "dssd", "coupled", *LOSSY)
    ]


def test_values_are_in_the_registry_and_in_the_table(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        Record.of("schemes", {}, line)
    shown = [line for line in markdown(lines) if line.startswith("|")]
    assert len(shown) == 2 * 2 + len(lines)
    assert {line.count("|") for line in shown} == {len(COLUMNS) + 1}


# Lossy methods


@pytest.mark.parametrize("scheme", LOSSY)
def test_every_token_of_a_lossy_text_is_counted_and_some_are_measured(scheme: str) -> None:
    found, _ = measured(scheme)
    counts = found.counts
    assert TOKENS_EACH * len(PROMPTS) <= found.num_tokens < (TOKENS_EACH + 2) * len(PROMPTS)
    assert len(found.distances) == pytest.approx(found.num_tokens / 3, abs=2)
    assert 0 < counts.unverified < found.num_tokens or scheme == "router"
    assert 0.001 < np.mean(found.distances) < 1
    assert len(found.rejecting) == len(found.bytes_up) == len(found.bytes_down)
    if scheme != "router":
        assert counts.rounds == len(found.bytes_up) == len(found.settle_s)


def test_the_router_streams_or_stays_silent() -> None:
    found, _ = measured("router")
    up = [sizes for sizes in found.bytes_up if sizes]
    assert len(up) == sum(route is Route.EDGE for route in routes())
    assert found.counts.unverified == TOKENS_EACH * sum(r is Route.DEVICE for r in routes())
    assert sum(1 for sizes in found.bytes_down if sizes) == found.counts.bonus


def routes() -> list[Route]:
    router = METHODS["router"].policy
    assert isinstance(router, Router)
    slm = random_table(NUM_OWN, 1) + random_table(NUM_OWN, 2, 0.7)
    return [router.route(TableDrafter(slm), prompt, NUM_OWN) for prompt in PROMPTS]


P_ROW, Q_ROW = np.array([0.2, 1.0, -0.5], np.float32), np.array([1.1, 0.3, -1.0], np.float32)


def enumerated_distance(policy: Policy) -> float:
    """By all ways the coins of one token can fall, between two sessions."""
    generation = Generation(SCHEMES["dsd"], Sampling(), 7, ())

    def run(coins: EnumeratedCoins, streams: EnumeratedStreams) -> int:
        edge = TableEdge(np.tile(P_ROW, (3, 1)))
        edge.session._streams_at = streams.at
        session = open_session(edge)
        session.append([0])
        session.receive_begun(edge.answer(session.begin(generation)))
        drafter = TableDrafter(np.tile(Q_ROW, (3, 1)))
        turn = LossyTurn(session, drafter, generation, coins, Counts(), policy)
        step = turn.next()
        while step.send is not None:
            step = turn.receive(edge.answer(step.send))
        return step.committed[0].token_id

    law = enumerate_law(run)
    p = to_law(P_ROW, Sampling(), ())
    return sum(abs(law.get(i, 0.0) - float(p.probs[i])) for i in range(3)) / 2


@pytest.mark.parametrize(
    ("policy", "tolerance"),
    [
        (Improbable(0.3), 1e-12),
        (Improbable(0.6), 1e-12),
        (Improbable(2.0), 1e-12),
        # Temperatures come from a grid there, and from twenty places here.
        (Uncertainty(num_samples=1), 0.01),
    ],
)
def test_the_distance_of_a_lossy_law_is_the_enumerated_one(
    policy: Policy, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("device_runtime.lossy.GRID", Grid(5, 6))
    p, q = (to_law(row, Sampling(), ()) for row in (P_ROW, Q_ROW))
    drafted = SCHEMES["dsd"].draft(q, Place(0, 0), device_coins(0))
    distance = law_distance(policy, Q_ROW, q, drafted.evidence.law(), p)
    wanted = enumerated_distance(policy)
    assert distance == pytest.approx(wanted, abs=tolerance)
    assert wanted > 0.05 or policy == Improbable(2.0)


def test_few_of_many_re_samples_disagree_as_counted() -> None:
    """The binomial formula, against u-hlm's own coins."""
    policy = Uncertainty()
    q = to_law(3 * Q_ROW, Sampling(), ())
    chances = kept_chances(policy, 3 * Q_ROW, q.probs, q.ids)
    kept = np.mean([policy.keeps(3 * Q_ROW, q, 0, device_coins(seed)) for seed in range(1500)])
    assert chances[0] == pytest.approx(kept, abs=0.05)  # four standard errors
    assert chances[0] > 0.1 > chances[2]


# The table and the picture


def test_headers_come_on_top(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        for way in ("up", "down"):
            payload = line[f"bytes_{way}_per_token"]
            assert line[f"wire_bytes_{way}_per_token"] > payload or payload == 0


def test_every_line_says_if_it_is_lossy_or_widened(lines: list[dict[str, Any]]) -> None:
    table = list(markdown(lines))
    for name in LOSSY:
        marked = [line for line in table if f"`{name}`" in line]
        assert len(marked) == 4 and all("**lossy**" in line for line in marked)
    assert sum("**lossy**" in line for line in table) == 4 * len(LOSSY)
    summaries = [line for line in table if "<summary>" in line]
    assert summaries == [
        "<details><summary>24 ids, the demo pair's own</summary>",
        "<details><summary>200 ids, widened by a recipe from the demo pair's laws of 24</summary>",
    ]


def test_a_terminal_sees_a_short_table_without_the_page_s_marks(
    lines: list[dict[str, Any]],
) -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(*brief(lines))
    text = console.export_text()
    assert "24 ids, the demo pair's own" in text and "200 ids, widened" in text
    assert not set("|`*<") & set(text)
    assert {line["scheme"] for line in lines} <= set(text.split())
    assert max(map(len, text.splitlines())) <= 120


def test_the_picture_is_drawn_light_and_dark(
    lines: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []
    legend, ticks = Figure.legend, Axes.set_yticks

    def noted(self: Figure, handles: Any, labels: list[str], **how: Any) -> Any:
        words.extend(labels)
        return legend(self, handles, labels, **how)

    def noted_ticks(self: Axes, places: Any, labels: list[str]) -> Any:
        words.extend(labels)
        return ticks(self, places, labels)

    monkeypatch.setattr(Figure, "legend", noted)
    monkeypatch.setattr(Axes, "set_yticks", noted_ticks)
    draw(lines, tmp_path)
    assert {"down, 24 ids", "down, 200 ids (widened)", "u-hlm (lossy)"} <= set(words)
    assert not any("router" in word for word in words)  # it never rejects
    for name in ("schemes.png", "schemes-dark.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_where_nothing_was_rejected(
    lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    draw([line for line in lines if line["scheme"] == "router"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_any_number_of_vocabularies_is_drawn(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    own = [line for line in lines if line["scheme"] == "dssd" and line["num_ids"] == NUM_OWN]
    draw([{**line, "num_ids": NUM_OWN + more} for line in own for more in range(6)], tmp_path)
    assert (tmp_path / "schemes.png").is_file()


def test_the_page_has_the_place_for_the_table() -> None:
    """And once it is filled, every scheme and way of sampling over every vocabulary."""
    page = DOCS.read_text(encoding="utf-8")
    table = page.split(f"<!-- {MARK} -->")[1].split(f"<!-- end of {MARK} -->")[0].strip()
    if not table:
        pytest.skip("not filled yet: tandem bench schemes --docs")
    parts = table.split("<details>")[1:]
    assert len(parts) == len(VOCABULARIES)
    for num_ids, part in zip(VOCABULARIES, parts, strict=True):
        assert part.startswith(f"<summary>{num_ids:,} ids, ")
        assert ("widened" in part.split("</summary>")[0]) == (num_ids != VOCABULARIES[0])
        lines = [line for line in part.splitlines() if line.startswith("|")][2:]
        assert len(lines) == len(SAMPLINGS) * len(METHODS)
        for line in lines:
            assert line.count("|") == len(COLUMNS) + 1
        for name, method in METHODS.items():
            own = [line for line in lines if f"`{name}`" in line]
            assert [line.split(" | ")[0].removeprefix("| ") for line in own] == [*SAMPLINGS]
            assert all(("**lossy**" in line) != method.lossless for line in own)
