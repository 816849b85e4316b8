"""Context and tokens as configs state them, and what is no such thing."""

from __future__ import annotations

from typing import Any

import pytest

from device_runtime.protocol.checkpoint_facts import (
    context_len,
    end_ids,
    refusing_malformed,
    start_id,
)
from device_runtime.protocol.errors import BundleError, ConfigError


@pytest.mark.parametrize(
    ("stated", "wanted"),
    [(3, (3,)), ([5, 2, 5], (5, 2)), ([-1, 7], (7,)), (None, ()), (-1, ()), ([], ())],
    ids=str,
)
def test_end_tokens_are_the_generation_config_s(stated: Any, wanted: tuple[int, ...]) -> None:
    assert end_ids({"eos_token_id": stated}, {"eos_token_id": 9}) == wanted
    assert end_ids({}, {"eos_token_id": stated}) == wanted


@pytest.mark.parametrize(("stated", "wanted"), [(1, 1), (0, 0), (-1, None), (None, None)])
def test_a_start_token_is_the_generation_config_s(stated: Any, wanted: int | None) -> None:
    assert start_id({"bos_token_id": stated}, {"bos_token_id": 9}) == wanted
    assert start_id({}, {"bos_token_id": stated}) == wanted


def test_the_context_ends_where_longrope_changes_its_factors() -> None:
    longrope = {"rope_type": "longrope", "original_max_position_embeddings": 128}
    assert context_len({}) is None
    assert context_len({"max_position_embeddings": None, "n_positions": 512}) == 512
    assert context_len({"max_position_embeddings": 4096, "rope_scaling": longrope}) == 128


@pytest.mark.parametrize("stated", ["3", 2.5, {}, [[1]]], ids=str)
def test_what_is_no_token_id_is_malformed(stated: Any) -> None:
    words = r"^it is malformed: its files has a value of the wrong kind \(TypeError: .*\); correct"
    with (
        pytest.raises(BundleError, match=words),
        refusing_malformed(BundleError, "it", "its files"),
    ):
        end_ids({"eos_token_id": stated}, {})


def test_what_was_refused_with_a_reason_of_its_own_keeps_it() -> None:
    with (
        pytest.raises(ConfigError, match=r"^no such$"),
        refusing_malformed(BundleError, "it", "its files"),
    ):
        raise ConfigError("no such")
