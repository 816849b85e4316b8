"""What runs an engine's passes: a model with the tensors of its cache, and no bookkeeping.

Here is the one that lives in the engine's own process; `edge_server.runner_process` has the other.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from device_runtime.protocol.errors import TandemError
from edge_server.attention import forward_pass
from edge_server.batch import Piece, pack
from edge_server.blocks import BlockStore
from edge_server.cache import ZERO_BLOCK, PagedCache


class LostRunnerError(TandemError):
    """The runner's process is gone: its engine can do no job any more."""


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

    def close(self) -> None:
        """Give up what it holds."""
        ...


class LocalRunner:
    """A causal language model of `transformers`, in this process."""

    def __init__(self, model: PreTrainedModel) -> None:
        """The model must have been loaded with the attention function `attention.NAME`.

        It is run once, on a single token: then the pools exist, and their sizes are known.
        """
        self.model = model
        self._cache = PagedCache(model.config.get_text_config().num_hidden_layers)
        self._selects_rows = "logits_to_keep" in inspect.signature(model.forward).parameters
        block = ZERO_BLOCK + 1
        self.grow(block + 1)
        self.num_logits = self.run([Piece((0,), 0, (block,), 1)]).shape[1]
        """Of a row."""
        self.wipe((block,))

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def block_bytes(self) -> int:
        return self._cache.block_bytes

    @torch.inference_mode()
    def grow(self, capacity: int) -> None:
        self._cache.grow(capacity)

    @torch.inference_mode()
    def wipe(self, blocks: Sequence[int]) -> None:
        self._cache.wipe(blocks)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> Tensor:
        packed = pack(pieces, self.device)
        selection = {"logits_to_keep": packed.wanted} if self._selects_rows else {}
        with forward_pass(packed, self._cache):
            output = self.model(
                input_ids=packed.token_ids,
                position_ids=packed.positions,
                past_key_values=self._cache,
                use_cache=True,
                **selection,
            )
        logits: Tensor = output.logits[0]
        if not self._selects_rows:
            logits = logits[packed.wanted]
        return logits if logits.dtype == torch.float64 else logits.float()

    def close(self) -> None:
        pass  # the process keeps the memory for its next model
