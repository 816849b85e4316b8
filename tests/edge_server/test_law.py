from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from device_runtime.protocol.law import ArrayLaw, Law
from device_runtime.protocol.sampling import LogitsError, Sampling, to_law
from device_runtime.protocol.schemes.known_draft import residual
from edge_server.law import LawBatch
from edge_server.sampling import to_laws
from edge_server.truncation import largest
from tests.law_fixture import INF, every_sampling, rows_to_try

GENERATED = ((), (1, 3, 3), (0, 70), (2, 2, 2, 4))
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def batch_of_everything() -> tuple[torch.Tensor, list[Sampling], list[tuple[int, ...]]]:
    """Every row with every combination of parameters: logits (rows, 90), padded with -inf."""
    rows = list(rows_to_try().values())
    logits, samplings = [], []
    generated: list[tuple[int, ...]] = []
    for i, sampling in enumerate(every_sampling()):
        row = np.full(90, -INF, np.float32)
        chosen = rows[i % len(rows)]
        row[: len(chosen)] = chosen
        logits.append(row)
        samplings.append(sampling)
        generated.append(GENERATED[i % len(GENERATED)])
    return torch.tensor(np.array(logits)), samplings, generated


@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_of_all_parameters_equals_numpy_row_by_row(device: str) -> None:
    logits, samplings, generated = batch_of_everything()
    batch = to_laws(logits.to(device), samplings, generated)
    assert len(batch) == len(logits)
    for i, row in enumerate(logits.numpy()):
        expected = to_law(row, samplings[i], generated[i])
        np.testing.assert_array_equal(batch[i].support(), expected.ids, str(samplings[i]))
        np.testing.assert_allclose(batch[i].prob(expected.ids), expected.probs, rtol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("vocab_size", [8_192, 20_011])
def test_large_mixed_batches_equal_numpy(device: str, vocab_size: int) -> None:
    rng = np.random.default_rng(1)
    steep = rng.uniform(0, 2, 8)[:, None]
    logits = rng.normal(0, 1, (8, vocab_size)) - steep * np.log1p(rng.permutation(vocab_size))
    logits = np.round(logits * 64) / 64  # many ties
    samplings = [
        Sampling(top_p=0.9),
        Sampling(temperature=0.7, top_p=0.95),
        Sampling(top_k=40),
        Sampling(),
        Sampling(temperature=0.0),
        Sampling(top_k=500, top_p=0.9, min_p=0.02),
        Sampling(temperature=1.7, top_p=0.99),
        Sampling(min_p=0.1),
    ]
    batch = to_laws(torch.tensor(logits, device=device), samplings, [()] * 8, vocab_size - 5)
    for i, row in enumerate(logits):
        expected = to_law(row, samplings[i], (), vocab_size - 5)
        np.testing.assert_array_equal(batch[i].support(), expected.ids)
        np.testing.assert_allclose(batch[i].prob(expected.ids), expected.probs, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_any_float_type_are_taken_as_they_are(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 500, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = logits.clone()
    sampling = Sampling(temperature=0.8, top_p=0.9, presence_penalty=0.5)
    batch = to_laws(logits, [sampling] * 3, [(1, 2)] * 3)
    assert torch.equal(logits, before)
    for i in range(3):
        expected = to_law(logits[i].double().numpy(), sampling, (1, 2))
        np.testing.assert_array_equal(batch[i].support(), expected.ids)
        np.testing.assert_allclose(batch[i].prob(expected.ids), expected.probs, rtol=1e-12)


def test_a_batch_answers_for_many_rows_as_each_law_does() -> None:
    rng = np.random.default_rng(2)
    weights = np.exp(rng.normal(0, 2, (5, 300)))
    weights[rng.random((5, 300)) < 0.5] = 0.0
    batch = LawBatch(torch.tensor(weights))
    rows = [3, 0, 3]
    ids, uniforms = rng.integers(-5, 310, (3, 7)), rng.random((3, 7))
    probs, (drawn, theirs) = batch.prob(rows, ids), batch.draw(rows, uniforms)
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(probs[i], batch[row].prob(ids[i]))
        np.testing.assert_array_equal(drawn[i], batch[row].draw(uniforms[i]))
        np.testing.assert_array_equal(theirs[i], batch[row].prob(drawn[i]))


@pytest.mark.parametrize("device", DEVICES)
def test_draws_above_another_law_are_those_of_the_residual(device: str) -> None:
    """q beside p on the device, from the network as arrays, with fewer ids, and equal to p."""
    rng = np.random.default_rng(3)
    weights = np.exp(rng.normal(0, 2, (6, 300)))
    weights[rng.random((6, 300)) < 0.4] = 0.0
    batch = LawBatch(torch.tensor(weights, device=device))
    drafts = LawBatch(torch.tensor(np.exp(rng.normal(0, 2, (2, 280))), device=device))
    ids = np.sort(rng.choice(300, 20, replace=False))
    others: list[Law] = [
        drafts[1], ArrayLaw(ids, rng.random(20) + 0.1), batch[2], drafts[0], ArrayLaw.one_hot(5),
        ArrayLaw.dense(weights[5].copy()),
    ]  # fmt: skip
    uniforms = rng.random((6, 40))
    drawn = batch.draw_above(range(6), others, uniforms)
    for i, (other, own) in enumerate(zip(others, uniforms, strict=True)):
        left = residual(ArrayLaw.dense(weights[i].copy()), other)
        if i == 5:  # equal up to rounding: whatever is left of it is a law on p's ids
            assert set(drawn[i]) <= set(np.flatnonzero(weights[i]))
            continue
        np.testing.assert_array_equal(drawn[i], left.draw(own))
        np.testing.assert_array_equal(batch[i].draw_above(other, own), drawn[i])


@pytest.mark.parametrize("device", DEVICES)
def test_supports_and_the_most_probable_ids_come_for_many_rows_at_once(device: str) -> None:
    rng = np.random.default_rng(4)
    weights = np.exp(rng.normal(0, 2, (5, 300)))
    weights[rng.random((5, 300)) < 0.9] = 0.0
    weights[:, 7] = 1.0
    batch, rows = LawBatch(torch.tensor(weights, device=device)), [4, 0, 4]
    for row, (ids, probs) in zip(rows, batch.rows_on_host(rows), strict=True):
        np.testing.assert_array_equal(ids, np.flatnonzero(weights[row]))
        np.testing.assert_allclose(probs, weights[row][ids] / weights[row].sum())
    for row, ids, probs in zip(rows, *batch.most_probable(rows, 5), strict=True):
        np.testing.assert_array_equal(ids, np.argsort(-weights[row])[:5])
        np.testing.assert_allclose(probs, weights[row][ids] / weights[row].sum())


def test_rows_without_a_law_are_named() -> None:
    logits = torch.zeros(4, 3)
    logits[1] = -INF
    logits[3, 2] = torch.nan
    with pytest.raises(LogitsError) as caught:
        to_laws(logits, [Sampling(), Sampling(), Sampling(temperature=0), Sampling()], [()] * 4)
    assert caught.value.rows == (1, 3)


def test_a_row_that_is_not_there_is_an_index_error() -> None:
    batch = LawBatch(torch.ones(2, 3, dtype=torch.float64))
    assert batch[-1].support().tolist() == [0, 1, 2]
    with pytest.raises(IndexError):
        batch[2]


def test_a_draw_stays_inside_even_if_a_parallel_sum_rounds_up_where_nothing_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So a scan on a GPU may look: the sum grows by a rounding error at ids 1 and 4.
    sums = torch.tensor([[0.5, 0.5 + 1e-16, 0.5 + 1e-16, 1.0, 1.0 + 3e-16]], dtype=torch.float64)
    sums[0, 1:3] = np.nextafter(0.5, 1.0)
    batch = LawBatch(torch.tensor([[0.5, 0.0, 0.0, 0.5, 0.0]], dtype=torch.float64))

    def rounded(*_: Any) -> torch.Tensor:
        return sums

    monkeypatch.setattr(torch.Tensor, "cumsum", rounded)
    uniforms = np.array([[0.5 / sums[0, -1].item(), np.nextafter(1.0, 0.0), 0.2]])
    drawn, probs = batch.draw([0], uniforms)
    assert set(drawn[0].tolist()) <= {0, 3}
    assert drawn[0, 2] == 0
    assert probs.tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize("vocab_size", [64, 1_000, 20_011])
@pytest.mark.parametrize("count", [1, 3, 64])
def test_the_largest_values_are_those_of_a_sort(vocab_size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    values = torch.randint(-900, 900, (3, vocab_size), generator=generator).double()
    expected = values.sort(1, descending=True).values[:, :count]
    assert torch.equal(largest(values, count), expected)
