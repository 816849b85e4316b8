"""What only a real engine and a real GPU can tell about themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from edge_server.blocks import BLOCK_LEN
from edge_server.engines import ServingEngine
from edge_server.status import GpuStatus


def used_tokens(engines: Sequence[ServingEngine]) -> int:
    """Tokens of the caches that texts hold, whole blocks counted."""
    return sum(engine.max_cached - engine.num_free_blocks * BLOCK_LEN for engine in engines)


def gpu_probe(device: torch.device) -> Callable[[], GpuStatus] | None:
    """What asks the GPU; None where the model runs on a CPU."""
    return (lambda: _gpu_status(device)) if device.type == "cuda" else None


def _gpu_status(device: torch.device) -> GpuStatus:
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return GpuStatus(
        name=torch.cuda.get_device_name(device),
        used_bytes=total_bytes - free_bytes,
        total_bytes=total_bytes,
        utilization=_utilization(device),
    )


def _utilization(device: torch.device) -> float | None:
    try:
        return torch.cuda.utilization(device) / 100.0
    except (ModuleNotFoundError, RuntimeError):  # needs the package nvidia-ml-py
        return None
