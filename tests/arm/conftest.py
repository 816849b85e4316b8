"""Tiny bundles of every kind of weights, made by the exporter, and what this machine gets from them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from export import cli
from tests.arm import probe
from tests.arm.agreement import EXACT, ROUNDED
from tests.tiny_models import save_checkpoint, tiny_model


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one bundle of each kind, all from one checkpoint."""
    root = tmp_path_factory.mktemp("arm")
    checkpoint = save_checkpoint(tiny_model("llama", hidden_size=128), root / "checkpoint")
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    for name, options in {**EXACT, **ROUNDED}.items():
        out = str(root / "bundles" / name)
        words = [str(checkpoint), "--out", out, *options, "--json"]
        assert cli.run(parser.parse_args(words)) == 0
    return root / "bundles"


@pytest.fixture(scope="session")
def here(bundles: Path) -> dict[str, Any]:
    """The probe's report from this machine."""
    return probe.report(bundles)
