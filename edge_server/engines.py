"""The engines that a server runs.

On a GPU one, with its model in the server's process. On CPUs one for each replica, with models in
processes of their own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.vocabulary import Entry
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.edge_draft import DraftingEngine, num_shared_ids
from edge_server.engine import TorchEngine
from edge_server.loading import free_bytes, load_runner, num_blocks_in
from edge_server.runner import LocalRunner, Runner
from edge_server.runner_process import RunnerProcess

ServingEngine: TypeAlias = "TorchEngine | DraftingEngine"


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, and how many ids its logits are read for."""

    checkpoint: Checkpoint
    num_ids: int

    def load(self, device: torch.device, dtype: torch.dtype) -> LocalRunner:
        """Into this process."""
        return load_runner(self.checkpoint, num_ids=self.num_ids, device=device, dtype=dtype)

    def start(self, dtype: torch.dtype, num_threads: int) -> RunnerProcess:
        """In a process of its own."""
        return RunnerProcess(
            self.checkpoint, num_ids=self.num_ids, dtype=dtype, num_threads=num_threads
        )


def find_models(checkpoint: Checkpoint, tokens: Sequence[Entry], edge_draft: str) -> list[Model]:
    """The target, and the draft model whose folder is named; ConfigError if it is no relative."""
    models = [Model(checkpoint, len(tokens))]
    if edge_draft:
        draft = Checkpoint.open(Path(edge_draft))
        models.append(Model(draft, num_shared_ids(draft, tokens)))
    return models


def load_engines(
    config: EdgeConfig, models: Sequence[Model], device: torch.device, dtype: torch.dtype
) -> list[ServingEngine]:
    """One for each replica, all alike. CheckpointError or ConfigError where something does not fit."""
    replicas: Sequence[Sequence[Runner]]
    if device.type == "cpu":
        replicas = _processes(config, models, dtype)
    elif config.replicas == 1:
        replicas = [[model.load(device, dtype) for model in models]]
    else:
        raise ConfigError(
            f"replicas is {config.replicas}; on a GPU it must be 1: start an edge for each GPU "
            "(CUDA_VISIBLE_DEVICES)"
        )
    cache_bytes = int(config.cache_gib * 2**30) or free_bytes(device)
    return [make_engine(models, runners, cache_bytes // len(replicas)) for runners in replicas]


def _processes(
    config: EdgeConfig, models: Sequence[Model], dtype: torch.dtype
) -> list[list[RunnerProcess]]:
    """The runners of each replica; all of them load side by side."""
    num_cores = len(os.sched_getaffinity(0))
    num_threads = config.num_threads or max(1, num_cores // config.replicas)
    replicas = [
        [model.start(dtype, num_threads) for model in models] for _ in range(config.replicas)
    ]
    for runner in itertools.chain(*replicas):
        runner.wait_until_ready()
    return replicas


def make_engine(
    models: Sequence[Model], runners: Sequence[Runner], cache_bytes: int
) -> ServingEngine:
    """Of a target's runner, or of a target's and a draft model's, whose caches hold the same texts.

    ConfigError if the cache would hold next to nothing.
    """
    max_blocks = num_blocks_in(cache_bytes, runners)
    engines = [
        TorchEngine(
            runner,
            num_ids=model.num_ids,
            context_len=model.checkpoint.context_len,
            max_blocks=max_blocks,
        )
        for model, runner in zip(models, runners, strict=True)
    ]
    return DraftingEngine(*engines) if len(engines) == 2 else engines[0]
