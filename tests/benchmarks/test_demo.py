"""`tandem demo`: what it shows, what it leaves behind, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import demo
from benchmarks.record import read
from device_runtime.transcript import Piece
from device_runtime.turn import Origin
from tests.ports import is_open
from tests.tiny_models import END_ID, save_checkpoint, tiny_model, with_noise

ROOT = Path(__file__).parents[2]

# marks and colours


def a_console(**settings: Any) -> Console:
    return Console(file=StringIO(), **{"color_system": "truecolor", "_environ": {}, **settings})


@pytest.mark.parametrize(
    ("console", "marked"),
    [
        (a_console(force_terminal=True), False),
        (a_console(force_terminal=True, no_color=True), True),
        (a_console(force_terminal=True, _environ={"NO_COLOR": "1"}), True),
        (a_console(color_system="auto", force_terminal=True, _environ={"TERM": "dumb"}), True),
        (a_console(color_system="auto"), True),
    ],
    ids=["colour", "no_color", "NO_COLOR=1", "TERM=dumb", "a file"],
)
def test_where_there_is_no_colour_there_are_marks(console: Console, marked: bool) -> None:
    demo.show_legend(console)
    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert ("[corrected]" in shown, "(bonus)" in shown) == (marked, marked)
    colours = set(re.findall(r"\x1b\[[\d;]*3\dm", shown))
    assert len(colours) == (0 if marked else 3)


@pytest.mark.parametrize(
    ("text", "marked"), [(" king", " [king]"), ("\n", "\n"), (" a a ", " [a a] "), ("", "")]
)
def test_marks_keep_the_space_around_a_piece(text: str, marked: str) -> None:
    piece = Piece(text, Origin.CORRECTED)
    assert demo.styled(piece, "split", marks=True).plain == marked
    assert demo.styled(piece, "split", marks=False).plain == text
    assert demo.styled(piece, "edge", marks=True).plain == text


# the table


def a_summary(**more: Any) -> dict[str, Any]:
    return {
        "mode": "split", "scheme": "dssd", "token_ids": [1] * 10, "rounds": 4, "alpha": 0.625,
        "bytes_up": 200, "bytes_down": 100, "frames_up": 5, "frames_down": 5,
        "ttft_s": 0.0125, "tpot_s": 0.002, **more,
    }  # fmt: skip


def cells(*summaries: dict[str, Any]) -> dict[str, list[str]]:
    table = demo.comparison(list(summaries))
    names, *columns = ([str(cell) for cell in column.cells] for column in table.columns)
    return {name: list(row) for name, *row in zip(names, *columns, strict=True)}


def test_the_table_divides_by_tokens_and_counts_headers() -> None:
    row = {name: values[0] for name, values in cells(a_summary()).items()}
    assert row["tokens per round"] == "2.50" and row["alpha"] == "0.62"
    assert row["time to first token, ms"] == "12.5" and row["time per token, ms"] == "2.0"
    payload, on_wire = (float(part) for part in row["bytes up per token"].split(" / "))
    assert payload == 20.0
    # Five frames: TCP and IP take 40 to 60 bytes a packet each way, acknowledgements included.
    assert 20 + 5 * 40 / 10 <= on_wire <= 20 + 5 * 120 / 10


def test_what_does_not_apply_is_a_dash() -> None:
    nothing = {"rounds": 0, "alpha": None, "frames_up": 0, "frames_down": 0, "scheme": None}
    table = cells(a_summary(mode="device", ttft_s=None, tpot_s=None, **nothing))
    assert table.pop("tokens") == ["10"]
    assert {value for row in table.values() for value in row} == {"–"}


# the command, with a tiny pair in the place of the one that ships

COMMAND = """
import pathlib, signal, sys
from benchmarks import demo
from device_runtime.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under
signal.signal(signal.SIGHUP, signal.SIG_DFL)
demo.ROOT = pathlib.Path(sys.argv[1])
demo.PAIR, demo.CACHE = demo.ROOT / "pair", demo.ROOT / ".demo"
ready = demo.EdgeProcess.ready
def told(edge):
    url = ready(edge)
    print("edge at", url, file=sys.stderr, flush=True)
    return url
demo.EdgeProcess.ready = told
sys.exit(main(["demo", *sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    llm = tiny_model()
    save_checkpoint(llm, folder / "pair" / "llm")
    save_checkpoint(with_noise(llm, 0.12), folder / "pair" / "slm")
    return folder


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "120", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(folder), *words],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        yield process
        process.kill()


def port_in(line: str) -> int:
    return int(line.rpartition(":")[2])


def test_the_demo_shows_three_texts_and_a_table_and_cleans_up(folder: Path) -> None:
    words = ("--max-tokens", "24", "--gamma", "3", "--logit-bias", f"{END_ID}=-100")
    with running(folder, "once upon a time", *words) as process:
        shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    titles = [shown.index(title) for title in demo.TITLES.values()]
    assert titles == sorted(titles)
    split = shown[titles[0] : titles[1]]
    assert "once upon a time" in split and "[" in split
    assert "[corrected]" in shown and "(bonus)" in shown
    for name in cells(a_summary()):
        assert name in shown
    assert "alpha: accepted per judged draft" in shown
    (line,) = (line for line in said.splitlines() if line.startswith("edge at"))
    assert not is_open(port_in(line))
    records = read(folder / ".demo" / "results.jsonl")
    assert [record.settings["mode"] for record in records] == ["split", "edge", "device"]
    assert all(len(record.results["token_ids"]) == 24 for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_edge_outlives_the_demo(number: signal.Signals, folder: Path) -> None:
    with running(folder, "once", "--max-tokens", "200", "--gamma", "1") as process:
        assert process.stdout is not None and process.stderr is not None
        port = next(port_in(line) for line in process.stderr if line.startswith("edge at"))
        assert any(demo.TITLES["split"] in line for line in process.stdout)
        assert is_open(port)
        process.send_signal(number)
        process.communicate(timeout=30)
        ended = {signal.SIGINT: 130, signal.SIGKILL: -signal.SIGKILL}
        assert process.returncode == ended.get(number, 128 + number)
    deadline_s = time.monotonic() + 30
    while is_open(port):
        assert time.monotonic() < deadline_s, "the edge is still there"
        time.sleep(0.05)


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(folder: Path) -> None:
    with running(folder, "once", "--max-tokens", "8", "--json") as process:
        shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert [answer["mode"] for answer in json.loads(shown)] == ["split", "edge", "device"]
