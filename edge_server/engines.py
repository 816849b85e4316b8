"""The engines that a server runs.

On a GPU one, with its model in the server's process. On CPUs one for each replica, with models in
processes of their own; on other systems than Linux as on a GPU.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.vocabulary import Entry
from edge_server import runner_process
from edge_server.checkpoint import Checkpoint
from edge_server.config import EdgeConfig
from edge_server.edge_draft import DraftingEngine, num_shared_ids
from edge_server.engine import TorchEngine
from edge_server.facts import read_tokens
from edge_server.hardware import free_bytes, resolve_device, resolve_dtype
from edge_server.runner import Runner, num_blocks_in
from edge_server.runner_process import RunnerProcess

SWITCH_HERE_S, SWITCH_ELSEWHERE_S = 0.00005, 0.0005
"""How long a thread, an engine's or the event loop's, may keep the interpreter while another waits for
it. Python's default is 5 ms. An engine whose model is in this process asks for it anew with each
operator; one whose model is elsewhere twice a batch, and then a switch costs more than the wait."""

ServingEngine: TypeAlias = "TorchEngine | DraftingEngine"


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint, and how many ids its logits are read for."""

    checkpoint: Checkpoint
    num_ids: int

    def load(self, device: torch.device, dtype: torch.dtype) -> Runner:
        """Into this process."""
        from edge_server.loading import load_runner  # seconds, which an edge on CPUs saves

        return load_runner(self.checkpoint, num_ids=self.num_ids, device=device, dtype=dtype)

    def start(self, dtype: torch.dtype, num_threads: int) -> RunnerProcess:
        """In a process of its own."""
        return RunnerProcess(
            self.checkpoint, num_ids=self.num_ids, dtype=dtype, num_threads=num_threads
        )


@dataclass(frozen=True, slots=True)
class Starting:
    """Models that load, on CPUs while this process goes on."""

    config: EdgeConfig
    tokens: list[Entry]
    device: torch.device
    dtype: torch.dtype
    models: list[Model]
    """The target; then, if there is one, the model that drafts here."""
    replicas: list[list[Runner]]
    """Of each replica, in the order of the models."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The target's."""
        return self.models[0].checkpoint

    @property
    def num_threads(self) -> int | None:
        """Of a model in a process of its own, once it is loaded; None for others."""
        runner = self.replicas[0][0]
        return runner.num_threads if isinstance(runner, RunnerProcess) else None

    def engines(self) -> list[ServingEngine]:
        """One for each replica, all alike, when all are loaded.

        CheckpointError or ConfigError where something cannot be served or does not fit.
        """
        runners = list(itertools.chain(*self.replicas))
        try:
            for runner in runners:
                if isinstance(runner, RunnerProcess):
                    runner.wait_until_ready()
            cache_bytes = int(self.config.cache_gib * 2**30) or free_bytes(self.device)
            share = cache_bytes // len(self.replicas)
            return [make_engine(self.models, own, share) for own in self.replicas]
        except BaseException:  # Ctrl-C, too
            for runner in runners:
                runner.close()
            raise


def start(config: EdgeConfig, *, in_processes: bool | None = None) -> Starting:
    """Begin to load. CheckpointError or ConfigError where that is in vain.

    in_processes: whether models get processes of their own; by default on CPUs, where the system can.
    """
    checkpoint = Checkpoint.open(Path(config.model))
    tokens = read_tokens(checkpoint.folder)
    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    models = find_models(checkpoint, tokens, config.edge_draft)
    if in_processes is None:
        in_processes = device.type == "cpu" and runner_process.IS_HERE
    sys.setswitchinterval(SWITCH_ELSEWHERE_S if in_processes else SWITCH_HERE_S)
    if in_processes:
        return Starting(config, tokens, device, dtype, models, _processes(config, models, dtype))
    if config.replicas > 1:
        raise ConfigError(
            f"replicas is {config.replicas}; it must be 1 on a GPU (start an edge for each, with "
            "CUDA_VISIBLE_DEVICES) and on other systems than Linux"
        )
    runners = [model.load(device, dtype) for model in models]
    return Starting(config, tokens, device, dtype, models, [runners])


def find_models(checkpoint: Checkpoint, tokens: Sequence[Entry], edge_draft: str) -> list[Model]:
    """The target, and the draft model whose folder is named; ConfigError if it is no relative."""
    models = [Model(checkpoint, len(tokens))]
    if edge_draft:
        draft = Checkpoint.open(Path(edge_draft))
        models.append(Model(draft, num_shared_ids(draft, tokens)))
    return models


def _processes(
    config: EdgeConfig, models: Sequence[Model], dtype: torch.dtype
) -> list[list[Runner]]:
    num_threads = config.num_threads
    if not num_threads and config.replicas > 1:
        num_threads = max(1, len(os.sched_getaffinity(0)) // config.replicas)
    return [[model.start(dtype, num_threads) for model in models] for _ in range(config.replicas)]


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
