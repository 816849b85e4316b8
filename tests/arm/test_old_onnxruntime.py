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

from tests.arm.agreement import require_same_tokens
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


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=CHECKOUT, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def test_bundles_give_the_same_greedy_tokens(
    environment: dict[str, str], bundles: Path, here: dict[str, Any]
) -> None:
    there = json.loads(run(environment, "-m", "tests.arm.probe", str(bundles)))
    assert there["onnxruntime"] == JETSON_ONNXRUNTIME
    require_same_tokens(here["drafts"], there["drafts"])


def test_the_devices_own_tests_pass(environment: dict[str, str]) -> None:
    paths = [f"tests/device_runtime/{name}" for name in (*MODEL_TESTS, "test_ort_session.py")]
    last = run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths)
    print(f"\nonnxruntime {JETSON_ONNXRUNTIME}: {last.splitlines()[-1]}")
