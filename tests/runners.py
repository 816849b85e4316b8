"""The model that an engine of this process runs, and further caches for it."""

from __future__ import annotations

from transformers import PreTrainedModel

from edge_server.engine import TorchEngine
from edge_server.local_runner import LocalRunner


def model_of(engine: TorchEngine) -> PreTrainedModel:
    assert isinstance(engine.runner, LocalRunner)
    return engine.runner.model


def another(engine: TorchEngine) -> LocalRunner:
    """A runner of the same model with a cache of its own."""
    return LocalRunner(model_of(engine))
