"""Where a model runs, in which numbers, how much memory its cache may have, and who goes first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from device_runtime.protocol.errors import ConfigError
from edge_server.config import DEVICES, DTYPES

_CPU_SHARE, _CUDA_SHARE = 0.25, 0.85


def resolve_device(name: str) -> torch.device:
    """The device of a name; `auto` takes a GPU if there is one."""
    if name not in DEVICES:
        raise ConfigError(f"device is {name!r}; choose one of {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("there is no CUDA device, or this torch was built without CUDA")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a name; `auto` is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    if name not in DTYPES:
        raise ConfigError(f"dtype is {name!r}; choose one of auto, {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def free_bytes(device: torch.device) -> int:
    """Memory that caches may grow to, in all."""
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(_CPU_SHARE * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


@contextmanager
def interrupting_nobody() -> Iterator[None]:
    """Within: this thread, and those it starts, wait for a free core when they wake up.

    They get their share of time all the same. Where the system knows nothing of it, nothing changes.
    """
    if not hasattr(os, "SCHED_BATCH"):
        yield
        return
    policy = os.sched_getscheduler(0)
    with suppress(OSError):  # some containers forbid it
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(0))
