"""Tiny bundles of every kind of weights, made by the exporter, and what this machine gets from them."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import pytest

from export import cli
from tests.arm import probe
from tests.arm.agreement import EXACT, INT8_CACHE, ROUNDED, WINDOW
from tests.tiny_models import save_checkpoint, tiny_model

FAMILIES: dict[str, tuple[str, dict[str, int]]] = {
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {}),
    "gemma3_text": ("gemma3_text", {"sliding_window": WINDOW}),
    "gemma3_text, one wider": ("gemma3_text", {"sliding_window": WINDOW + 1}),
}
"""Fused graphs that differ from a Llama's: normed heads, one matrix for all three, windows."""


def export(checkpoint: Path, out: Path, *options: str) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    words = [str(checkpoint), "--out", str(out), *options, "--json"]
    assert cli.run(parser.parse_args(words)) == 0


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one bundle of each kind, all from one checkpoint."""
    root = tmp_path_factory.mktemp("arm")
    checkpoint = save_checkpoint(tiny_model("llama", hidden_size=128), root / "checkpoint")
    for name, options in {**EXACT, **ROUNDED}.items():
        export(checkpoint, root / "bundles" / name, *options)
    return root / "bundles"


@pytest.fixture(scope="session")
def wide_caches(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with those of the bundles that JetPack's onnxruntime reads, too."""
    folder = tmp_path_factory.mktemp("wide-caches")
    for bundle in bundles.iterdir():
        if bundle.name not in INT8_CACHE:
            shutil.copytree(bundle, folder / bundle.name)
    return folder


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one bundle of each of FAMILIES, float32."""
    root = tmp_path_factory.mktemp("families")
    for name, (model_type, config) in FAMILIES.items():
        checkpoint = save_checkpoint(tiny_model(model_type, **config), root / "checkpoints" / name)
        export(checkpoint, root / "bundles" / name, "--graph", "fused", "--weights", "fp32")
    return root / "bundles"


@pytest.fixture(scope="session")
def here(bundles: Path) -> dict[str, Any]:
    """The probe's report from this machine."""
    return probe.report(bundles)
