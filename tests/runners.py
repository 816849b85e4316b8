"""Further caches for the model that an engine of this process runs."""

from __future__ import annotations

from benchmarks.edge_passes import model_of
from edge_server.engine import TorchEngine
from edge_server.local_runner import LocalRunner


def another(engine: TorchEngine) -> LocalRunner:
    """A runner of the same model with a cache of its own."""
    return LocalRunner(model_of(engine))
