"""Bundles on the onnxruntime of JetPack 6, on this machine: an older version beside the installed one.

pip unpacks the old version into a folder, which the other process finds first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.arm import probe
from tests.arm.agreement import INT8_CACHE, WINDOW, require_same_tokens
from tests.arm.board import CHECKOUT, FOLDER, JETSON_ONNXRUNTIME
from tests.arm.test_boards import MODEL_TESTS

pytestmark = pytest.mark.old_onnxruntime


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Variables under which the same Python imports the old version."""
    folder = FOLDER / f"host-onnxruntime-{JETSON_ONNXRUNTIME}"
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:"]
        command += ["--target", str(folder), f"onnxruntime=={JETSON_ONNXRUNTIME}"]
        subprocess.run(command, check=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=CHECKOUT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done


def test_bundles_give_the_same_greedy_tokens(
    environment: dict[str, str], wide_caches: Path, here: dict[str, Any]
) -> None:
    done = run(environment, "-m", "tests.arm.probe", str(wide_caches))
    there = json.loads(done.stdout)
    assert there["onnxruntime"] == JETSON_ONNXRUNTIME
    require_same_tokens(here["drafts"], there["drafts"], unread=INT8_CACHE)
    (half,) = done.stderr.splitlines()
    assert half.startswith("A bundle of float16 runs on the CPU")


def test_other_families_give_the_same_greedy_tokens_but_for_windows(
    environment: dict[str, str], families: Path
) -> None:
    """A window sees one position more here, is said to, and nothing else is wrong with it."""
    done = run(environment, "-m", "tests.arm.probe", str(families), "--drafts")
    there, here = json.loads(done.stdout), probe.drafts(families)
    for name in ("qwen3", "phi3"):
        assert there[name]["tokens"] == here[name]["tokens"], name
        assert there[name]["choices"] == here[name]["choices"], name
    old, new, wider = (
        there["gemma3_text"], here["gemma3_text"], here["gemma3_text, one wider"],
    )  # fmt: skip
    assert new["choices"] != wider["choices"]  # the texts do tell one position
    assert old["choices"] == wider["choices"]
    assert old["tokens"] == wider["tokens"]
    for window in (WINDOW, WINDOW + 1):
        assert f"lets this model's window of {window} positions see one more" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_devices_own_tests_pass(environment: dict[str, str]) -> None:
    paths = [f"tests/device_runtime/{name}" for name in (*MODEL_TESTS, "test_ort_session.py")]
    done = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths)
    print(f"\nonnxruntime {JETSON_ONNXRUNTIME}: {done.stdout.splitlines()[-1]}")
