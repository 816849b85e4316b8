"""The pairs: the one that ships, and one of another architecture whose SLM is the LLM plus noise."""

from __future__ import annotations

import pytest

from tests.end_to_end.pairs import DEMO, Pair, export
from tests.tiny_models import save_checkpoint, tiny_model, with_noise

NOISE = 0.12
"""Gives the tiny pair an alpha between 0.4 and 0.8: acceptance, rejection and bonus all occur."""


@pytest.fixture(scope="session")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    bundle = export(DEMO / "slm", tmp_path_factory.mktemp("demo") / "slm")
    return Pair("demo", DEMO / "llm", bundle)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("tiny")
    llm = tiny_model("gpt2")
    slm = save_checkpoint(with_noise(llm, NOISE), folder / "slm")
    return Pair("gpt2", save_checkpoint(llm, folder / "llm"), export(slm, folder / "bundle"))


@pytest.fixture(params=["demo_pair", "tiny_pair"])
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.getfixturevalue(request.param)
    return found
