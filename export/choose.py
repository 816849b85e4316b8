"""What to build: kind of graph, kind of weights, context; from the command line and the profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.runtime_versions import FIRST_WITH_INT8_CACHE, in_words, version_of
from export.checkpoint import Checkpoint
from export.quantise import BITS
from hw_profiles.schema import CUDA, DeviceProfile

GRAPHS = ("auto", "fused", "optimum")
"""`auto`: fused where the architecture has such a graph, else optimum."""
WEIGHTS = ("auto", "fp32", "fp16", "int8", "int8-dynamic", "int4")
"""`auto`: what the hardware profile says, else int4; fp16 is for a GPU."""
ACCURACY_LEVELS = (0, 1, 4)
"""Of MatMulNBits: 4 rounds activations to int8 where the CPU has kernels for that."""
CACHES = ("auto", "fp32", "int8")
"""`auto`: int8 in fused graphs of rounded weights, where the device's onnxruntime can read it."""
CALIBRATED = ("int4",)
"""Kinds of weights whose rounding is fitted to text; 8 bits cost next to nothing as they are."""
DEFAULT_CONTEXT_LEN = 8192
"""Longer contexts cost memory for rotary tables that few drafters use: say --context for more."""


@dataclass(frozen=True, slots=True)
class WeightChoice:
    """Which weights are to be stored, and what the user should know of how that came about."""

    weights: str
    """`fp32`, `fp16`, `int8` (blocks), `int8-dynamic` (columns) or `int4`."""
    accuracy_level: int
    """One of ACCURACY_LEVELS; means something for blocks only."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be built."""

    graph: str
    """`fused` or `optimum`."""
    weights: str
    accuracy_level: int
    """Both as in WeightChoice."""
    cache: str
    """What keys and values are stored as: `fp32`, `fp16` or `int8`."""
    calibration: str
    """What int4 and the scales of an int8 cache are fitted to: `own`, `none`, or a text file's path."""
    context_len: int
    """Positions the graph must be right for."""


def choose_weights(
    wanted: str, accuracy_level: int | None, profile_name: str | None
) -> WeightChoice:
    """From the flags, else from the profile, else int4; ConfigError where the profile is unknown."""
    if profile_name is None:
        level = 4 if accuracy_level is None else accuracy_level
        return WeightChoice("int4" if wanted == "auto" else wanted, level)
    profile = _profile(profile_name)
    runtime = profile.runtime
    level = runtime.accuracy_level.value if accuracy_level is None else accuracy_level
    weights = runtime.weights.value if wanted == "auto" else wanted
    if weights == "int8" and not _multiplies_int8_blocks(profile):
        reason = (
            f"int8-dynamic in place of int8: onnxruntime's 8-bit block kernels for ARM need the dot "
            f"product, which {profile.name} lacks, and would expand every matrix in every run"
        )
        return WeightChoice("int8-dynamic", level, (reason,))
    if weights == "fp16" and wanted == "auto" and runtime.cpu_weights is not None:
        reason = (
            f"fp16 is for the GPU of {profile.name}; where its onnxruntime has no CUDA, export with "
            f"--weights {runtime.cpu_weights.value}"
        )
        return WeightChoice(weights, level, (reason,))
    return WeightChoice(weights, level)


def _profile(name: str) -> DeviceProfile:
    import hw_profiles

    try:
        return hw_profiles.load(name)
    except hw_profiles.ProfileError as error:
        raise ConfigError(f"--device: {error}") from None


def choose_cache(
    wanted: str, weights: str, graph: str, profile_name: str | None, onnxruntime: str
) -> str:
    """As in Choice; ConfigError where the graph cannot have the wanted one.

    onnxruntime: the version on this machine, with which the export tries its graph.
    """
    if weights == "fp16":
        if wanted != "auto":
            raise ConfigError(f"--cache {wanted}: with fp16 weights the cache is of fp16, too")
        return "fp16"
    is_read_here = version_of(onnxruntime) >= FIRST_WITH_INT8_CACHE
    if wanted == "int8" and graph != "fused":
        raise ConfigError("--cache int8 needs a fused graph, and this one comes from optimum")
    if wanted == "int8" and not is_read_here:
        raise ConfigError(
            f"--cache int8 needs onnxruntime {in_words(FIRST_WITH_INT8_CACHE)} on CPUs, and here is "
            f"{onnxruntime}; install a newer one, or use --cache fp32"
        )
    if wanted != "auto":
        return wanted
    # JetPack's Python 3.10 gets no onnxruntime that new.
    has_gpu = profile_name is not None and CUDA in (_profile(profile_name).runtime.providers.value)
    rounds = weights != "fp32" and graph == "fused"
    return "int8" if rounds and is_read_here and not has_gpu else "fp32"


def _multiplies_int8_blocks(profile: DeviceProfile) -> bool:
    return profile.cpu.isa != "aarch64" or "dotprod" in profile.cpu.features


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


def fit_to_graph(chosen: WeightChoice, graph: str, wanted: str) -> WeightChoice:
    """The weights as this kind of graph can hold them; ConfigError where it cannot hold the wanted."""
    if chosen.weights != "fp16" or graph == "fused":
        return chosen
    if wanted == "fp16":
        raise ConfigError(
            "--weights fp16 needs a fused graph, and this one comes from optimum; use --weights "
            "fp32, which CUDA runs as it is and TensorRT in half precision"
        )
    reason = (
        "fp32 in place of fp16: only fused graphs are written in fp16; CUDA runs this one as it is, "
        "TensorRT in half precision"
    )
    return replace(chosen, weights="fp32", notes=(reason,))


def check_calibration(wanted: str) -> None:
    """ConfigError where a file is wanted and there is none."""
    if wanted not in ("own", "none") and not Path(wanted).is_file():
        raise ConfigError(
            f"--calibration {wanted}: there is no such file; name a text file, `own` or `none`"
        )


def choose_calibration(wanted: str, weights: str, cache: str) -> str:
    """As in Choice."""
    return wanted if weights in CALIBRATED or cache == "int8" else "none"


def doubts(
    choice: Choice, accuracy_level: int | None, calibration: str, profile_name: str | None
) -> tuple[str, ...]:
    """Which options do nothing in what was chosen, or do not suit the device; a sentence each.

    accuracy_level, calibration: as the command line has them.
    """
    found = []
    if accuracy_level is not None and choice.weights not in BITS:
        found.append(
            f"--accuracy-level {accuracy_level} changes nothing: it is for weights of "
            f"{' or '.join(BITS)}, and these are {choice.weights}"
        )
    if calibration not in ("own", "none") and choice.calibration == "none":
        found.append(
            f"--calibration {calibration} was not read: nothing is fitted where weights are "
            f"{choice.weights} and the cache is {choice.cache}"
        )
    if profile_name is not None:
        found += _misfits(choice, accuracy_level, _profile(profile_name))
    return tuple(found)


def _misfits(choice: Choice, accuracy_level: int | None, profile: DeviceProfile) -> Iterator[str]:
    """What the device cannot use or read."""
    has_gpu = CUDA in profile.runtime.providers.value
    if choice.weights == "fp16" and not has_gpu:
        yield (
            f"fp16 is for a GPU, and onnxruntime has none on {profile.name}; export with --weights "
            f"{profile.runtime.weights.value}"
        )
    rounds = accuracy_level == max(ACCURACY_LEVELS) and choice.weights in BITS
    if rounds and not _multiplies_int8_blocks(profile):
        yield (
            f"--accuracy-level {accuracy_level} changes nothing on {profile.name}, which lacks the dot "
            "product: onnxruntime computes as with 0 there"
        )
    if choice.cache == "int8" and has_gpu:
        yield (
            f"a cache of int8 needs onnxruntime {in_words(FIRST_WITH_INT8_CACHE)}, and JetPack 6 on "
            f"{profile.name} gets none that new; there use --cache fp32"
        )


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
