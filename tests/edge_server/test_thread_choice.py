"""Threads that do not pay are not taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from edge_server.blocks import ZERO_BLOCK
from edge_server.engine import TorchEngine
from edge_server.local_runner import LocalRunner
from edge_server.thread_choice import fewest_that_pay, use_threads_that_pay
from tests.runners import another


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ({8: 1.0, 4: 2.0}, 8),
        ({8: 1.0, 4: 1.2, 2: 2.4}, 4),
        ({8: 1.0, 4: 1.2, 2: 1.3}, 4),  # against the best one, not the last one
        ({8: 9.0, 4: 3.0, 2: 1.0, 1: 1.9}, 2),
        ({8: 9.0, 4: 3.0, 2: 1.0, 1: 1.2}, 1),
        ({6: 1.0, 3: 1.1, 1: 3.0}, 3),
        ({1: 1.0}, 1),
    ],
)
def test_threads_are_halved_while_that_costs_little(seconds: dict[int, float], wanted: int) -> None:
    assert fewest_that_pay(seconds.__getitem__, max(seconds)) == wanted


class WatchedRunner(LocalRunner):
    """Tells which blocks were wiped."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.wiped: list[tuple[int, ...]] = []
        super().__init__(model)
        self.wiped.clear()

    def wipe(self, blocks: Sequence[int]) -> None:
        self.wiped.append(tuple(blocks))
        super().wipe(blocks)


@pytest.fixture
def kept_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_tiny_model_gets_one_thread_and_its_cache_is_left_empty(
    make_engine: Callable[..., TorchEngine], kept_threads: None
) -> None:
    runner = WatchedRunner(another(make_engine()).model)
    torch.set_num_threads(1)
    use_threads_that_pay(runner)
    assert torch.get_num_threads() == 1
    assert runner.wiped[-1] == (ZERO_BLOCK + 1,)
