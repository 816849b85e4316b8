"""Counts from the command line: those given count, those left out stay, none is absurd."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

import pytest

from benchmarks.counts import MAX_COUNT, with_counts
from device_runtime.protocol.errors import ConfigError


@dataclass(frozen=True)
class Some:
    repeats: int = 5
    max_tokens: int = 64
    other: int = 0


def test_what_was_given_counts_and_the_rest_stays() -> None:
    args = Namespace(repeats=None, max_tokens=MAX_COUNT, other=9)
    assert with_counts(Some(), args, "repeats", "max_tokens") == Some(max_tokens=MAX_COUNT)
    args = Namespace(repeats=1, max_tokens=None)
    assert with_counts(Some(), args, "repeats", "max_tokens") == Some(repeats=1)


@pytest.mark.parametrize("value", [-1, 0, MAX_COUNT + 1])
def test_counts_out_of_range_are_refused_by_their_option_s_name(value: int) -> None:
    args = Namespace(max_tokens=value)
    with pytest.raises(ConfigError, match=f"--max-tokens is {value}; it must be 1 or more"):
        with_counts(Some(), args, "max_tokens")
