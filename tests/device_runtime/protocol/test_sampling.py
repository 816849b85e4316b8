from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.law import Floats
from device_runtime.protocol.messages import fields
from device_runtime.protocol.sampling import MAX_BIASES, MAX_TOKEN_ID, LogitsError, Sampling, to_law
from device_runtime.protocol.wire import Reader, Writer
from tests.law_fixture import (
    INF,
    MUTANTS,
    Case,
    Laws,
    NumpyLaws,
    Reference,
    agrees,
    every_kind,
    every_sampling,
    rows_to_try,
)  # fmt: skip

ROWS = rows_to_try()
GENERATED = (1, 3, 3, 3, 0, 77)


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_every_combination_of_parameters_gives_the_reference_law(number: int) -> None:
    # The torch laws are compared with these, in one batch, in tests/edge_server/test_law.py.
    row = list(ROWS.values())[number]
    for sampling in every_sampling()[number % 3 :: 3]:
        case = Case(row, sampling, GENERATED)
        assert agrees(NumpyLaws().to_law(case), Reference().probs(case)), sampling


logit_values = st.one_of(
    st.integers(-4, 4).map(float),
    st.integers(-30_000, 30_000).map(lambda n: n / 1024),
    st.just(-INF),
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from((0.0, 0.2, 0.8, 1.0, 1.7)),
    top_k=st.sampled_from((0, 1, 3, 40)),
    top_p=st.sampled_from((1.0, 0.95, 0.9, 0.5, 1e-6)) | st.floats(0.01, 1.0),
    min_p=st.sampled_from((0.0, 0.05, 0.5, 1.0)) | st.floats(0.0, 1.0),
    repetition_penalty=st.sampled_from((1.0, 1.3, 0.7)),
    presence_penalty=st.sampled_from((0.0, 0.5, -0.4)),
    frequency_penalty=st.sampled_from((0.0, 0.3, -0.2)),
    logit_bias=st.dictionaries(st.integers(0, 120), st.floats(-9, 9), max_size=4).map(
        lambda biases: tuple(sorted(biases.items()))
    ),
)


@every_kind
@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(logit_values, min_size=1, max_size=100),
    sampling=samplings,
    generated=st.lists(st.integers(0, 120), max_size=12).map(tuple),
    num_ids=st.none() | st.integers(1, 120),
)
def test_random_laws_are_the_reference_law(
    laws: Laws,
    logits: list[float],
    sampling: Sampling,
    generated: tuple[int, ...],
    num_ids: int | None,
) -> None:
    assume(max(logits[:num_ids]) > -INF)
    case = Case(np.array(logits, np.float32), sampling, generated, num_ids)
    reference = Reference()
    probs = reference.probs(case)
    assume(reference.margin > 1e-12)
    assert agrees(laws.to_law(case), probs)


LARGE_SAMPLINGS = (
    Sampling(top_p=0.9),
    Sampling(temperature=0.7, top_p=0.95),
    Sampling(top_k=40),
    Sampling(top_k=700, top_p=0.8, min_p=0.01),
    Sampling(min_p=0.1),
)


@cache
def large_questions(vocab_size: int, shape: str) -> list[tuple[Case, Floats]]:
    """Cases and the reference's probabilities."""
    rng = np.random.default_rng(vocab_size)
    row = {
        "peaked": -1.3 * np.log1p(rng.permutation(vocab_size)) + rng.normal(0, 1, vocab_size),
        "flat": rng.normal(0, 0.01, vocab_size),
        "ties": rng.integers(-12, 3, vocab_size).astype(float),
        "masked": np.where(rng.random(vocab_size) < 0.999, -INF, rng.normal(0, 1, vocab_size)),
    }[shape]
    cases = [Case(row.astype(np.float32), sampling) for sampling in LARGE_SAMPLINGS]
    return [(case, Reference().probs(case)) for case in cases]


@every_kind
@pytest.mark.parametrize("vocab_size", [1_000, 5_003, 20_011])
@pytest.mark.parametrize("shape", ["peaked", "flat", "ties", "masked"])
def test_large_vocabularies_give_the_reference_law(laws: Laws, vocab_size: int, shape: str) -> None:
    for case, probs in large_questions(vocab_size, shape):
        assert agrees(laws.to_law(case), probs), case.sampling


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_of_the_reference_is_noticed(mutant: type[Reference]) -> None:
    def noticed(case: Case) -> bool:
        return not agrees(NumpyLaws().to_law(case), mutant().probs(case))

    assert any(
        noticed(Case(row, sampling, GENERATED))
        for row in (ROWS["random"], ROWS["ties"])
        for sampling in every_sampling()[::7]
    )


@every_kind
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), [4 / 10, 3 / 10, 2 / 10, 1 / 10]),
        (Sampling(top_p=0.399), [1.0, 0.0, 0.0, 0.0]),
        (Sampling(top_p=0.41), [4 / 7, 3 / 7, 0.0, 0.0]),
        (Sampling(top_k=3, top_p=0.7), [4 / 7, 3 / 7, 0.0, 0.0]),
        (Sampling(min_p=0.5), [4 / 9, 3 / 9, 2 / 9, 0.0]),
        (Sampling(min_p=0.51), [4 / 7, 3 / 7, 0.0, 0.0]),
        (Sampling(temperature=0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Sampling(logit_bias=((3, math.log(4.0)),)), [4 / 13, 3 / 13, 2 / 13, 4 / 13]),
    ],
)
def test_the_laws_of_four_ids_are_as_worked_out_by_hand(
    laws: Laws, sampling: Sampling, expected: list[float]
) -> None:
    # min-p 0.5 is exact here: ln 4 − ln 2 = ln 2 up to rounding, which 1e-9 steps over.
    logits = np.log([4.0, 3.0, 2.0 + 1e-9, 1.0])
    law = laws.to_law(Case(logits, sampling))
    np.testing.assert_allclose(law.prob(np.arange(4)), expected, atol=1e-8)


@every_kind
def test_penalties_count_generated_tokens_and_change_signs_as_transformers_does(
    laws: Laws,
) -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0])
    sampling = Sampling(repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5)
    law = laws.to_law(Case(logits, sampling, generated=(0, 1, 1, 9)))
    expected = np.exp([2.0 / 2 - 0.25 - 0.5, -2.0 * 2 - 0.25 - 2 * 0.5, 1.0, 0.0])
    np.testing.assert_allclose(law.prob(np.arange(4)), expected / expected.sum(), rtol=1e-12)


@every_kind
def test_greedy_takes_the_lowest_id_among_equals(laws: Laws) -> None:
    logits = np.array([0.0, 3.0, -INF, 3.0, 3.0], np.float32)
    law = laws.to_law(Case(logits, Sampling(temperature=0.0, top_k=2, top_p=0.1)))
    assert law.support().tolist() == [1]
    assert law.prob(np.arange(5)).tolist() == [0, 1, 0, 0, 0]


@every_kind
@pytest.mark.parametrize("sampling", [Sampling(top_k=1), Sampling(top_p=0.01), Sampling(min_p=1.0)])
def test_logits_that_differ_but_weigh_the_same_count_as_equal(
    laws: Laws, sampling: Sampling
) -> None:
    logits = np.zeros(300)
    logits[200] = 1e-300
    law = laws.to_law(Case(logits, sampling))
    assert law.support()[0] == 0


@every_kind
def test_a_tiny_temperature_is_greedy_but_for_ties(laws: Laws) -> None:
    logits = np.array([1.0, 2.0, 2.0, -INF, 0.0], np.float32)
    law = laws.to_law(Case(logits, Sampling(temperature=1e-310)))
    assert law.prob(np.arange(5)).tolist() == [0, 0.5, 0.5, 0, 0]


@every_kind
def test_padding_columns_are_cut_even_if_they_are_not_numbers(laws: Laws) -> None:
    logits = np.array([0.0, 1.0, 9.0, np.nan], np.float32)
    law = laws.to_law(Case(logits, Sampling(logit_bias=((3, 5.0),)), generated=(3,), num_ids=2))
    assert law.support().tolist() == [0, 1]


@every_kind
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("row", [[0.0, np.nan], [np.nan, INF], [-INF, -INF], [0.0, INF]])
def test_logits_without_a_law_are_refused(laws: Laws, row: list[float], temperature: float) -> None:
    case = Case(np.array(row, np.float32), Sampling(temperature=temperature))
    with pytest.raises(LogitsError, match="NaN"):
        laws.to_law(case)


@every_kind
def test_logits_are_not_written_to(laws: Laws) -> None:
    logits = np.array([0.0, 1.0, 2.0])
    laws.to_law(Case(logits, Sampling(temperature=0.5, presence_penalty=1.0), generated=(1,)))
    assert logits.tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": INF},
        {"top_k": -1},
        {"top_k": MAX_TOKEN_ID + 1},
        {"logit_bias": ((MAX_TOKEN_ID + 1, 0.0),)},
        {"logit_bias": tuple((id_, 0.0) for id_ in range(MAX_BIASES + 1))},
        {"repetition_penalty": 0.0},
        {"logit_bias": ((3, 1.0), (2, 1.0))},
        {"logit_bias": ((3, 1.0), (3, 1.0))},
        {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, math.nan),)},
        {"logit_bias": ((1, -INF),)},
    ],
)
def test_parameters_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Sampling(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ((3, 3), "the id 3 twice; give it one bias"),
        ((-1, 3), "the id -1; it must lie between 0 and"),
        ((3, 2), "must be ascending"),
    ],
)
def test_a_bad_id_of_a_bias_is_named(ids: tuple[int, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Sampling(logit_bias=tuple((token_id, 1.0) for token_id in ids))


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_a_law_in_given_room_has_the_same_bits(number: int) -> None:
    row = list(ROWS.values())[number]
    room = np.full(len(row), np.nan)
    for sampling in every_sampling():
        wanted = to_law(row, sampling, GENERATED)
        law = to_law(row, sampling, GENERATED, room=room)
        np.testing.assert_array_equal(law.ids, wanted.ids)
        np.testing.assert_array_equal(law.probs, wanted.probs)


def test_room_is_used_for_laws_over_all_ids_and_no_other() -> None:
    row, room = np.linspace(-2, 2, 500).astype(np.float32), np.full(500, np.nan)
    assert np.shares_memory(to_law(row, Sampling(), (), room=room)._weights, room)
    kept = room.copy()
    to_law(row, Sampling(temperature=0.0), (), room=room)
    to_law(row, Sampling(top_k=10), (), room=room)
    to_law(row, Sampling(), (), num_ids=400, room=room)
    np.testing.assert_array_equal(room, kept)


def test_what_is_allowed_can_be_sent() -> None:
    """Else an edge would refuse it with a word about the message, not about the parameter."""
    biases = tuple((MAX_TOKEN_ID - i, 0.0) for i in reversed(range(MAX_BIASES)))
    largest = Sampling(top_k=MAX_TOKEN_ID, logit_bias=biases)
    out = Writer()
    fields.write_sampling(out, largest)
    assert fields.read_sampling(Reader(out.getvalue())) == largest


@pytest.mark.parametrize("top_k", [-1, 99_999_999])
def test_a_top_k_out_of_range_is_named(top_k: int) -> None:
    with pytest.raises(ConfigError, match=rf"top_k is {top_k}; it must lie between 0 \(keep all\)"):
        Sampling(top_k=top_k)
