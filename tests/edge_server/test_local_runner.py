"""A model in the engine's own process: what becomes of it when a GPU breaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from edge_server.batch import Piece
from edge_server.engine import TorchEngine
from edge_server.local_runner import LocalRunner
from edge_server.runner import LostRunnerError
from tests.runners import another

MakeEngine = Callable[..., TorchEngine]


class FailingRunner(LocalRunner):
    """Says that it is on a GPU, where every pass fails."""

    fails = False

    @property
    def device(self) -> torch.device:
        return torch.device("cuda") if self.fails else super().device

    def _run(self, pieces: Sequence[Piece]) -> Tensor:
        if self.fails:
            raise torch.OutOfMemoryError("of a pass")
        return super()._run(pieces)


@pytest.fixture
def runner(make_engine: MakeEngine) -> FailingRunner:
    failing = FailingRunner(another(make_engine()).model)
    failing.fails = True
    return failing


def test_a_pass_that_fails_is_the_job_s_where_the_gpu_still_works(
    runner: FailingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    with pytest.raises(torch.OutOfMemoryError, match="of a pass"):
        runner.run([])


def test_a_gpu_that_answers_nothing_any_more_is_lost(
    runner: FailingRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with pytest.raises(LostRunnerError, match="start the edge again"):
        runner.run([])
