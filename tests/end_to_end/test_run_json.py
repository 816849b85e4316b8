"""`tandem run --json` against a real edge: its keys are what other programs build on."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.pairs import PROMPTS, Pair, running_edge
from tests.tiny_models import END_ID

ROOT = Path(__file__).parents[2]

PROMISED = {
    "text", "token_ids", "prompt_tokens", "rounds", "drafted", "accepted", "bonus", "rejected",
    "alpha", "bytes_up", "bytes_down", "frames_up", "frames_down", "first_tokens", "ttft_s",
    "tpot_s", "wall_s", "scheme", "gamma", "seed", "finish_reason",
}  # fmt: skip
BESIDE = {"mode", "lossless", "more_requests", "unverified", "unverified_spans"}
OPTIONAL = {"auto", "energy", "error", "logprobs"}
"""Each comes with an option, or with the loss of the edge."""
LENGTH = 20


async def run(pair: Pair, url: str, *words: str) -> dict[str, Any]:
    """What the command prints, as a process of its own."""
    command = [sys.executable, "-m", "device_runtime", "run", PROMPTS[0], "--json"]
    command += ["--bundle", str(pair.bundle), "--edge", url, "--threads", "1"]
    command += ["--logit-bias", f"{END_ID}=-100"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, "--max-tokens", str(LENGTH), *words, cwd=ROOT, stdout=pipe, stderr=pipe
    )
    shown, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")
    values: dict[str, Any] = json.loads(shown)
    return values


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
async def test_one_object_with_the_promised_keys_that_fit_together(
    scheme: str, tiny_pair: Pair
) -> None:
    async with running_edge(tiny_pair.llm) as url:
        got = await run(tiny_pair, url, "--scheme", scheme, "--gamma", "3", "--seed", "9")
    assert got.keys() == PROMISED | BESIDE
    assert (got["scheme"], got["gamma"], got["seed"]) == (scheme, 3, 9)
    assert (got["mode"], got["lossless"], got["finish_reason"]) == ("split", True, "length")
    assert len(got["token_ids"]) == LENGTH and got["text"]
    assert got["prompt_tokens"] == len(tiny_pair.device().encode(PROMPTS[0], None))
    assert got["rounds"] == got["rejected"] + got["bonus"] > 0
    assert got["drafted"] >= got["accepted"] + got["rejected"]
    assert got["alpha"] == got["accepted"] / (got["accepted"] + got["rejected"])
    assert got["accepted"] + got["rejected"] + got["bonus"] == LENGTH
    assert got["frames_up"] == got["frames_down"] == 1 + got["rounds"] + got["more_requests"]
    assert got["bytes_up"] > got["frames_up"] and got["bytes_down"] > got["frames_down"]
    assert 0 < got["ttft_s"] < got["wall_s"] and 0 < got["tpot_s"] < got["wall_s"]
    assert got["unverified"] == 0 and got["unverified_spans"] == []


def test_the_documentation_names_every_key() -> None:
    page = (ROOT / "docs" / "measuring.md").read_text(encoding="utf-8")
    table = page.partition("## One answer")[2].partition("\n## ")[0]
    first_cells = " ".join(re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", first_cells)) == PROMISED | BESIDE | OPTIONAL


async def test_the_edge_alone_writes_without_an_slm(tiny_pair: Pair) -> None:
    async with running_edge(tiny_pair.llm) as url:
        got = await run(tiny_pair, url, "--edge-only", "--seed", "9")
    assert (got["mode"], got["drafted"], len(got["token_ids"])) == ("edge", 0, LENGTH)
