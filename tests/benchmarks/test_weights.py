"""`tandem bench weights` on a tiny pair: exports, measures, and tells what each kind costs."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from benchmarks import weights_cli
from benchmarks.record import read
from benchmarks.weights_cli import Text
from device_runtime import cli
from device_runtime.protocol.errors import ConfigError
from export.choose import WEIGHTS
from tests.tiny_models import TEXT, save_checkpoint, tiny_model, with_noise

TOKENS = 90


def arguments(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    weights_cli.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An LLM, an SLM that is the LLM with some noise, and a text."""
    root = tmp_path_factory.mktemp("weights")
    llm = tiny_model("llama")
    save_checkpoint(llm, root / "llm")
    save_checkpoint(with_noise(llm, 0.05), root / "slm")
    (root / "text.txt").write_text("\n".join(TEXT))
    return root


def pair(root: Path) -> list[str | Path]:
    """The options that name what is measured."""
    slm, llm = root / "slm", root / "llm"
    return ["--text", root / "text.txt", "--checkpoint", slm, "--against", llm]


def here(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
    """`tandem export` as the bench starts it, without the seconds that a process takes for torch."""
    assert command[:3] == [sys.executable, "-m", "device_runtime"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = cli.main(command[3:])
    return subprocess.CompletedProcess(command, status, out.getvalue(), "")


@pytest.fixture(scope="module", autouse=True)
def _no_processes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights_cli, "subprocess", SimpleNamespace(run=here))
        yield


@pytest.fixture(scope="module")
def values(root: Path) -> list[dict[str, Any]]:
    """The results of a run."""
    words = pair(root)
    words += ["--weights", "int4", "--weights", "int4-nearest", "--tokens", str(TOKENS)]
    words += ["--out", root / "out", "--json"]
    assert weights_cli.run(arguments(*words)) == 0
    return [{**r.settings, **r.results} for r in read(root / "out" / "results.jsonl")]


def test_each_kind_is_measured_at_every_place_beside_float32(values: list[dict[str, Any]]) -> None:
    assert [line["weights"] for line in values] == ["fp32", "int4", "int4-nearest"]
    for line in values:
        assert (line["slm"], line["llm"], line["graph"]) == ("slm", "llm", "fused")
        assert line["num_places"] == TOKENS
        assert line["token_s"] > 0
        assert 0 < line["nats_per_token"] < 4 * math.log(384)


def test_the_figures_are_those_of_the_pair(values: list[dict[str, Any]]) -> None:
    """With noise of 0.05 alpha is about .80 at temperature 1 and .55 for greedy text (tiny_models)."""
    plain, int4, nearest = values
    assert plain["overlap_lost_weights"] == 0
    assert 0.7 < plain["overlap"] < 0.9
    assert 0.4 < plain["same_choice"] < 0.8
    lost = plain["overlap"] - int4["overlap"]
    assert int4["overlap_lost_weights"] == pytest.approx(lost)
    assert 0.02 < lost < 0.4  # random matrices feel 4 bits more than trained ones
    assert int4.get("overlap_lost_weights_error") is None  # one window has no error to tell
    assert int4["model_bytes"] == nearest["model_bytes"] < plain["model_bytes"] / 4
    assert int4["overlap"] != nearest["overlap"]


def test_the_table_has_a_line_for_each_kind(root: Path, values: list[dict[str, Any]]) -> None:
    lines = (root / "out" / "table.md").read_text().splitlines()
    assert lines == list(weights_cli.markdown(values))
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows] == ["fp32", "int4", "int4-nearest"]
    assert all(len(row) == len(head) for row in rows)
    perplexity = float(rows[0][head.index("perplexity")])
    assert perplexity == pytest.approx(math.exp(values[0]["nats_per_token"]), abs=0.01)


def test_half_precision_is_measured_only_when_asked_for() -> None:
    """Its home is a GPU; here it would only be slow."""
    others = {"int4-nearest", "int4-fp32-cache"}
    assert set(weights_cli.KINDS) == set(WEIGHTS) - {"auto"} | others
    assert "fp16" not in weights_cli.DEFAULT_KINDS
    asked = arguments("--text", "x", "--weights", "fp16", "--weights", "int8")
    assert asked.weights == ["fp16", "int8"]


def test_windows_end_with_the_shorter_of_the_two_contexts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window beyond the SLM's positions would be drafted from its tail, and measured as if whole."""
    sizes: list[int] = []
    original = weights_cli._read

    def watched(*rest: Any) -> Any:
        found = original(*rest)
        sizes.extend(len(window) - 1 for window in found.windows)
        return found

    monkeypatch.setattr(weights_cli, "_read", watched)
    save_checkpoint(tiny_model("llama", max_position_embeddings=32), tmp_path / "slm")
    words: list[str | Path] = ["--text", root / "text.txt", "--checkpoint", tmp_path / "slm"]
    words += ["--against", root / "llm", "--weights", "int8", "--tokens", "70"]
    assert weights_cli.run(arguments(*words, "--out", tmp_path / "out", "--json")) == 0
    assert sizes == [32, 32, 6]
    results = [r.results for r in read(tmp_path / "out" / "results.jsonl")]
    assert [found["num_places"] for found in results] == [70, 70]
    assert 0 < results[1]["overlap_lost_weights_error"] < 0.3


def test_the_error_is_that_of_windows_and_not_of_places() -> None:
    """Places of a window that all lose alike tell as much as one of them."""
    text = Text([[0] * 65] * 8, 4.0)
    means = np.random.default_rng(0).normal(0.01, 0.002, 8)
    error = text.error(np.repeat(means, 64))
    assert error == pytest.approx(2.365 * means.std(ddof=1) / 8**0.5, rel=0.001)
    uneven = Text([[0] * 65, [0] * 65, [0] * 2], 4.0)
    alone = np.array([0.01] * 64 + [0.03] * 64 + [9.0])
    beside = np.array([64, 64, 1]) * (np.array([0.01, 0.03, 9.0]) - alone.mean())
    expected = 4.303 * math.sqrt(3 / 2 * float(beside @ beside)) / 129
    assert uneven.error(alone) == pytest.approx(expected, rel=0.04)
    assert Text([[0] * 65], 4.0).error(np.ones(64)) is None


def test_bytes_are_those_of_the_tokens_that_are_scored(root: Path, tmp_path: Path) -> None:
    """A text that goes on in another way must not change what its beginning costs a byte."""
    text = tmp_path / "text.txt"
    rates = []
    for rest in ("", "é" * 500):
        text.write_text("".join(TEXT) + rest, encoding="utf-8")
        rates.append(weights_cli._read(text, root / "slm", 20, 16).bytes_per_token)
    assert rates[0] == rates[1]
    tokenizer = Tokenizer.from_file(str(root / "slm" / "tokenizer.json"))
    ids = tokenizer.encode("".join(TEXT), add_special_tokens=False).ids[1:21]
    assert rates[0] == len(tokenizer.decode(ids).encode()) / 20


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "--text: .*No such file"), ("", "too short"), ("a", "too short")],
)
def test_a_text_that_measures_nothing_is_refused(
    content: str | None, expected: str, root: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    if content is not None:
        text.write_text(content)
    with pytest.raises(ConfigError, match=expected):
        weights_cli._read(text, root / "slm", 10, 16)


@pytest.mark.slow
def test_exports_are_processes_of_their_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the drafter's memory and threads are not those of torch."""
    monkeypatch.setattr(weights_cli, "subprocess", subprocess)
    words = pair(root)
    words += ["--weights", "int8-dynamic", "--tokens", "20", "--out", tmp_path, "--json"]
    assert weights_cli.run(arguments(*words)) == 0
    assert [r.settings["weights"] for r in read(tmp_path / "results.jsonl")] == [
        "fp32", "int8-dynamic",
    ]  # fmt: skip
