"""What runs an engine's passes: a model with the tensors of its cache, and no bookkeeping.

`edge_server.local_runner` has one for the engine's own process, `edge_server.runner_process` one for
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from device_runtime.protocol.errors import ConfigError
from edge_server.batch import Piece
from edge_server.blocks import BlockStore
from edge_server.failures import DescribedError


class LostRunnerError(DescribedError):
    """The runner's process is gone, or its GPU broken: its engine can do no job any more."""


class Runner(BlockStore, Protocol):
    """A model and the keys and values of its sessions. Calls do not overlap."""

    @property
    def device(self) -> torch.device:
        """Where the model is, and where logits come out."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        ...

    @property
    def block_bytes(self) -> int:
        """Of one cache block, over all layers."""
        ...

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        """One forward pass: the pieces' wanted logits (rows, vocab), one piece behind the other.

        float32, or float64 if the model is. LostRunnerError if no pass will ever run again; after
        any other error the next one may.
        """
        ...

    def check(self) -> None:
        """LostRunnerError if it can be told without a pass that none will ever run again."""
        ...

    def close(self) -> None:
        """Give up what it holds."""
        ...


def logits_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of a model with weights of that type: float32, or float64 if the model is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def num_blocks_in(cache_bytes: int, runners: Sequence[Runner]) -> int:
    """Blocks that all of these can hold, ZERO_BLOCK included: a bound, which nobody allocates yet.

    ConfigError where that is not even two for sessions.
    """
    block_bytes = sum(runner.block_bytes for runner in runners)
    num_blocks = cache_bytes // block_bytes
    if num_blocks < 3:
        raise ConfigError(
            f"{cache_bytes / 2**30:.3f} GiB for the cache hold not even two blocks of "
            f"{block_bytes} bytes; give it more memory (--cache-gib)"
        )
    return num_blocks
