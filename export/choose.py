"""What to build: kind of graph, kind of weights, context; from the command line and the profile."""

from __future__ import annotations

from dataclasses import dataclass

from device_runtime.protocol.errors import ConfigError
from export.checkpoint import Checkpoint

GRAPHS = ("auto", "fused", "optimum")
"""`auto`: fused where the architecture has such a graph, else optimum."""
WEIGHTS = ("auto", "fp32", "int8", "int8-dynamic", "int4")
"""`auto`: what the hardware profile says, else int4, which all profiles say today."""
ACCURACY_LEVELS = (0, 1, 4)
"""Of MatMulNBits: 4 rounds activations to int8 where the CPU has kernels for that."""
DEFAULT_CONTEXT_LEN = 8192
"""Longer contexts cost memory for rotary tables that few drafters use: say --context for more."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be built."""

    graph: str
    """`fused` or `optimum`."""
    weights: str
    """`fp32`, `int8` (blocks), `int8-dynamic` (columns) or `int4`."""
    accuracy_level: int
    """One of ACCURACY_LEVELS; means something for blocks only."""
    context_len: int
    """Positions the graph must be right for."""


def choose_weights(
    weights: str, accuracy_level: int | None, profile_name: str | None
) -> tuple[str, int]:
    """Kind of weights and accuracy level; ConfigError where the profile is unknown."""
    if profile_name is None:
        level = 4 if accuracy_level is None else accuracy_level
        return ("int4" if weights == "auto" else weights), level
    import hw_profiles

    try:
        profile = hw_profiles.load(profile_name)
    except hw_profiles.ProfileError as error:
        raise ConfigError(f"--device: {error}") from None
    if weights == "auto":
        weights = profile.runtime.weights.value
    if weights == "int8" and profile.cpu.isa == "aarch64" and "dotprod" not in profile.cpu.features:
        # All 8-bit block kernels for ARM use the dot product; without one the whole matrix is
        # expanded to fp32 in every run.
        weights = "int8-dynamic"
    if accuracy_level is None:
        accuracy_level = profile.runtime.accuracy_level.value
    return weights, accuracy_level


def choose_graph(wanted: str, checkpoint: Checkpoint) -> str:
    """`fused` or `optimum`; ConfigError where a fused graph is wanted and there is none."""
    if wanted == "optimum":
        return wanted
    from export import decoder_families

    reason = decoder_families.unsupported(checkpoint.config)
    if reason is None:
        return "fused"
    if wanted == "fused":
        raise ConfigError(f"{checkpoint.source} has no fused graph: {reason}; use --graph optimum")
    return "optimum"


def choose_context(wanted: int | None, model_context_len: int) -> int:
    """Positions to export for; ConfigError where the model was made for fewer."""
    if wanted is None:
        return min(model_context_len, DEFAULT_CONTEXT_LEN)
    if not 16 <= wanted <= model_context_len:
        raise ConfigError(
            f"--context {wanted}: it must lie between 16 and {model_context_len}, the positions "
            "the model was made for"
        )
    return wanted
