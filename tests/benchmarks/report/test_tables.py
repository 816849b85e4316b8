"""Tables as Markdown and CSV."""

from __future__ import annotations

import csv
import io

from benchmarks.report.markdown import to_markdown
from benchmarks.report.report import build
from benchmarks.report.tables import Entry, Section, Table, csv_text, figure_table
from tests.benchmarks.report.hand_made import DEVICE, EDGE, LOSSY, answer, at, group


def test_columns_are_padded_and_bars_do_not_break_them() -> None:
    table = Table(("a|b"[:1], "n"), ((Entry("x|y"), Entry("1", "[0–2]", is_best=True)),))
    assert table.markdown().splitlines() == [
        "| a    |           n |",
        "| ---- | ----------: |",
        "| x\\|y | **1** [0–2] |",
    ]


def test_the_figures_of_every_arm() -> None:
    table = figure_table(group(at(20, 1.0), at(55, **EDGE), at(10, 1.0, **LOSSY), at(3, **DEVICE)))
    rows = {row[0].text: [entry.markdown for entry in row] for row in table.rows}
    column = table.heads.index("time per token, ms")
    assert {name: row[column] for name, row in rows.items()} == {
        "device (lossy)": "3.00 [3.00–3.00]",
        "edge": "55.0 [55.0–55.0]",
        "dssd-thinned/4": "**20.0** [19.0–21.0]",
        "u-hlm/4 (lossy)": "10.0 [9.00–11.0]",
    }
    assert rows["edge"][table.heads.index("tokens per round")] == "–"
    assert "device energy per token, mJ" not in table.heads


def test_the_radio_s_joules_are_called_modelled_where_they_stand_alone() -> None:
    table = figure_table(group(at(20, radio_j=0.011)))
    assert table.rows[0][table.heads.index("radio, modelled, mJ")].text == "1.00"


def test_the_csv_holds_si_units_and_intervals() -> None:
    cells = group(at(20, 1.0, energy_kind="modelled", gross_j=1.1), at(55, **EDGE)).cells
    edge, ours = csv.DictReader(io.StringIO(csv_text(cells)))
    assert (ours["arm"], ours["gamma"], ours["repeats"], ours["answers"]) == (
        "dssd-thinned/4",
        "4",
        "5",
        "5",
    )
    names = ("time_per_token_s", "time_per_token_s_low", "time_per_token_s_high")
    assert [round(float(ours[name]), 9) for name in names] == [0.02, 0.019, 0.021]
    assert float(ours["j_per_token"]) == 0.1 and ours["energy_kind"] == "modelled"
    assert edge["arm"] == "edge" and edge["j_per_token"] == edge["energy_kind"] == ""


def test_markdown_begins_with_findings_and_machine_and_ends_with_what_others_add() -> None:
    projected = Table(("arm", "ms, projected"), ((Entry("edge"), Entry("40")),))
    records = [*at(20, repeats=3), *at(55, repeats=3, **EDGE)]
    text = to_markdown(build(records, [Section("On a board", projected, "By a formula.")]))
    parts = (
        "# Split decoding, measured: L and S", "- **Undecided whether faster** – ",
        "- machine: Raspberry Pi 5",
        "- processor: 4 × Cortex-A76", "- measured: 6 answers: 1 link, 2 arms, 1 prompt, 3 repeats",
        "**Doubts", "- Every cell has 3 repeats", "## Who wins where", "### T=1", "## lte, T=1",
        "- Fastest: dssd-thinned/4", "| arm ", "## On a board", "projected |", "By a formula.",
        "## How to read the figures",
    )  # fmt: skip
    places = [text.find(part) for part in parts]
    assert -1 not in places and places == sorted(places)


def test_facts_that_are_not_known_are_left_out() -> None:
    report = build([answer(llm=None, slm=None)])
    assert report.title == "Split decoding, measured"
    assert report.facts["energy"] == "no meter" and "governor" not in report.facts
    assert report.machine == "Raspberry Pi 5, 4 × Cortex-A76"
