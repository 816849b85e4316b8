"""Counts that benches take from the command line: how often, how long, how many."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from device_runtime.protocol.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    P = TypeVar("P", bound=DataclassInstance)

MAX_COUNT = 100_000


def check_count(option: str, value: int) -> None:
    """ConfigError unless it lies between 1 and MAX_COUNT."""
    if not 1 <= value <= MAX_COUNT:
        raise ConfigError(f"{option} is {value}; it must be 1 or more, and at most {MAX_COUNT}")


def with_counts(plan: P, args: argparse.Namespace, *names: str) -> P:
    """The plan with those of its fields that were given as options of the same names, checked."""
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    for name, value in given.items():
        check_count(f"--{name.replace('_', '-')}", value)
    return replace(plan, **given)
