"""How the runtime uses the machine; hardware profiles and command-line flags fill it in."""

from __future__ import annotations

import os
from dataclasses import dataclass

import hw_profiles
from device_runtime.protocol.errors import ConfigError

PREFILL_CHUNK = 64


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Threads, memory and run lengths of the drafter. The defaults suit a small Linux box."""

    num_threads: int = 0
    """Threads of one run; 0 lets onnxruntime take one per core."""
    max_tokens: int = 2048
    """Positions of the cache, at most the model's; a longer text is drafted from its tail."""
    prefill_chunk: int = PREFILL_CHUNK
    """Most tokens of one run; it holds chunk × vocabulary logits, wanted or not."""
    allow_spinning: bool = True
    """Threads wait busily between the operators of a run, which costs less than waking them. They
    stop with the run, so that nothing spins while the device waits for the network."""
    memory_arena: bool = True
    """Keep memory from run to run; off saves some on boards with 1 GB or less."""
    providers: tuple[str, ...] = ()
    """onnxruntime's execution providers in the order of the wish. None named: CUDA where it is
    present, and no word where it is not."""

    def __post_init__(self) -> None:
        ranges = (
            ("num_threads", self.num_threads, 0, 1024),
            ("max_tokens", self.max_tokens, 16, 1 << 20),
            ("prefill_chunk", self.prefill_chunk, 1, 1 << 16),
        )
        for name, value, low, high in ranges:
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; it must lie between {low} and {high}")

    @classmethod
    def for_profile(cls, name: str) -> RuntimeSettings:
        """What a hardware profile, or a TOML file of that form, says; ConfigError if it is none.

        No more threads than this machine has cores: a profile may stand for a larger sister.
        """
        try:
            runtime = hw_profiles.load(name).runtime
        except hw_profiles.ProfileError as error:
            raise ConfigError(str(error)) from None
        wanted = int(runtime.num_threads.value) if runtime.num_threads else 0
        chunk = runtime.num_prefill_tokens
        return cls(
            num_threads=min(wanted, os.cpu_count() or 1),
            max_tokens=int(runtime.num_context_tokens.value),
            prefill_chunk=int(chunk.value) if chunk else PREFILL_CHUNK,
            allow_spinning=runtime.allow_spinning.value,
            memory_arena=runtime.memory_arena.value if runtime.memory_arena else True,
            providers=runtime.providers.value,
        )
