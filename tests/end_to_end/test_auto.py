"""`tandem run --scheme auto` over real sockets: lossless, explained, and wiser the next time."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from device_runtime import run_cli
from device_runtime.measured_file import load
from device_runtime.scheme_choice import CANDIDATES
from tests.end_to_end.pairs import PROMPTS, Pair, running_edge

LENGTH = 24


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `auto` keeps what it learnt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "tandem"


def files_in(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


async def run(pair: Pair, url: str, *words: object) -> None:
    """`tandem run` on the first prompt, in a thread, because it has a loop of its own."""
    parser = argparse.ArgumentParser()
    run_cli.add_arguments(parser)
    fixed = [PROMPTS[0], "--bundle", pair.bundle, "--edge", url, "--threads", 1]
    args = parser.parse_args([str(w) for w in (*fixed, "--max-tokens", LENGTH, *words)])
    assert await asyncio.to_thread(run_cli.run, args) == 0


async def test_auto_is_lossless_and_reports_its_choice(
    tiny_pair: Pair, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = tiny_pair.device()
    wanted = tiny_pair.greedy_ids(PROMPTS[0], device.encode(PROMPTS[0], None), LENGTH)
    reports = []
    async with running_edge(tiny_pair.llm) as url:
        for temperature in (0, 0, 1):
            await run(tiny_pair, url, "--scheme", "auto", "--json", "--temperature", temperature)
            reports.append(json.loads(capsys.readouterr().out))
    assert reports[0]["token_ids"] == reports[1]["token_ids"] == wanted
    for report in reports:
        auto: dict[str, Any] = report["auto"]
        assert report["lossless"] and report["scheme"] == auto["scheme"]
        figures = auto["expected_s_per_token"]
        assert auto["scheme"] == min(figures, key=figures.get)
        assert set(figures) <= set(CANDIDATES)
    # Greedy laws are accepted alike, so the fewest bytes win; later runs assume less.
    assert reports[0]["scheme"] == "coupled"
    assert len(reports[0]["auto"]["assumed"]) == 4
    assert len(reports[1]["auto"]["assumed"]) < 4
    (path,) = files_in(cache)
    history = load(path)
    assert [m.sampling for m in history] == ["greedy", "greedy", "T=1 k=0 p=1 m=0"]
    for measured, report in zip(history, reports, strict=True):
        assert measured.scheme == report["scheme"]
        assert (measured.accepted, measured.rejected) == (report["accepted"], report["rejected"])
        assert measured.round_s is not None and measured.round_s > 0
    assert PROMPTS[0].split()[0] not in path.read_text() and url not in path.read_text()


async def test_a_seed_makes_auto_take_the_scheme_that_repeats_a_text(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    async with running_edge(tiny_pair.llm) as url:
        for words in (["--scheme", "auto"], ["--scheme", "auto", "--gamma", 2], ["--edge-only"]):
            await run(tiny_pair, url, *words, "--seed", 7, "--temperature", 1, "--json")
            texts.append(json.loads(capsys.readouterr().out))
    assert texts[0]["scheme"] == texts[1]["scheme"] == "coupled"
    assert "seed" in texts[0]["auto"]["why"]
    assert texts[0]["token_ids"] == texts[1]["token_ids"] == texts[2]["token_ids"]
    assert "auto" not in texts[2]


async def test_people_read_the_choice_after_the_text(
    tiny_pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_edge(tiny_pair.llm) as url:
        await run(tiny_pair, url, "--scheme", "auto")
    note = capsys.readouterr().err
    assert note.startswith("auto: dssd-thinned, least expected time per token (ms: dssd-thinned ")
    assert "assumed, not yet measured: uplink rate" in note


async def test_other_schemes_teach_only_where_auto_was_asked_for(
    tiny_pair: Pair, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running_edge(tiny_pair.llm) as url:
        await run(tiny_pair, url, "--json")
        assert not files_in(cache)
        await run(tiny_pair, url, "--scheme", "auto", "--json")
        await run(tiny_pair, url, "--scheme", "greedy-draft", "--json")
        await run(tiny_pair, url, "--scheme", "u-hlm", "--lossy", "--json")
    capsys.readouterr()
    (path,) = files_in(cache)
    assert [m.scheme for m in load(path)] == ["dssd-thinned", "greedy-draft"]
