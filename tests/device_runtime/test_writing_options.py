"""Options that several verbs share: what their help says."""

from __future__ import annotations

import argparse

import pytest

from device_runtime.lossy import METHODS
from device_runtime.writing_options import add_sampling_arguments


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.lossless])
def test_the_help_tells_every_lossy_schemes_threshold(name: str) -> None:
    parser = argparse.ArgumentParser()
    add_sampling_arguments(parser)
    (option,) = (action for action in parser._actions if action.dest == "threshold")
    default = METHODS[name].policy.threshold  # type: ignore[union-attr]
    assert option.help is not None
    assert f"({name}, {default:g})" in option.help
