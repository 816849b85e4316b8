"""A model in the engine's own process."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edge_server.attention import forward_pass
from edge_server.batch import Piece, pack
from edge_server.blocks import ZERO_BLOCK
from edge_server.cache import PagedCache
from edge_server.runner import LostRunnerError, logits_dtype


class LocalRunner:
    """A `Runner` of a causal language model of `transformers`."""

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
        with _lost_with(self.device):
            return self._run(pieces)

    def _run(self, pieces: Sequence[Piece]) -> Tensor:
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
        return logits.to(logits_dtype(logits.dtype))

    def check(self) -> None:
        pass  # it lives as long as this process

    def close(self) -> None:
        pass  # the process keeps the memory for its next model


@contextmanager
def _lost_with(device: torch.device) -> Iterator[None]:
    """LostRunnerError where a GPU fails for good: after some errors it answers this process nothing."""
    try:
        yield
    except RuntimeError as error:
        if device.type == "cuda":
            try:
                torch.cuda.synchronize(device)
            except RuntimeError:
                raise LostRunnerError(
                    f"the GPU answers nothing any more after {type(error).__name__}; start the edge "
                    "again, and look into the driver's log (dmesg) if that does not help"
                ) from error
        raise
