"""What a device profile and a link profile hold.

Every number is a `Quantity`: its unit is the end of its key, and it says where it comes from, what
kind of evidence that is and, for power and energy, at which point of the board it was measured.
Every setting is a `Choice` with its reason. What is not known is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, NewType, TypeVar

Kind = Literal["measured", "derived", "datasheet", "assumption", "unverified"]
"""measured: by someone who shows how · derived: arithmetic on cited numbers · datasheet: the
vendor's documents or a standard · assumption: ours, for want of a number · unverified: seen on a
secondary page, or sources disagree."""

MeasuringPoint = Literal[
    "wall",
    "board_input",
    "module_input",
    "rails",
    "cpu_package",
    "gpu",
    "radio",
    "modem",
    "phone",
    "terminal",
]
"""wall: mains side of the supply · board_input: DC input of the board · module_input: the module
without its carrier (VDD_IN) · rails: only the named supply rails · cpu_package: RAPL's package ·
gpu: the whole card (NVML) · radio: added by the radio · modem: input of the modem chip · phone,
terminal: the whole device."""

Feature = Literal[
    "dotprod",
    "fp16",
    "i8mm",
    "sve",
    "sve2",
    "bf16",
    "aes",
    "avx2",
    "fma",
    "avx512_vnni",
    "avx_vnni",
]
"""Instruction sets that matter to the kernels; named as the compilers name them."""

Weights = Literal["fp32", "fp16", "int8", "int8-dynamic", "int4"]
"""As `tandem export --weights` names them: int8 in blocks, int8-dynamic in columns, fp16 for a GPU."""
AccuracyLevel = Literal[0, 1, 2, 3, 4]
"""MatMulNBits: 0 unset, 1 fp32, 2 fp16, 3 bf16, 4 int8 activations."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
GPU_PROVIDERS = (CUDA, TENSORRT)
"""As onnxruntime names them."""

SensorKind = Literal["none", "pmic", "ina3221", "ina238", "rapl"]
Confidence = Literal["high", "medium", "low"]

Source = NewType("Source", str)
"""A citation. In a file: a key of its [sources] table."""

T = TypeVar("T")


class ProfileError(ValueError):
    """A profile is unknown, or its file breaks the schema; the message says where."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number with its evidence; the unit is the end of the key that holds it."""

    value: float
    kind: Kind
    source: Source
    measuring_point: MeasuringPoint | None = None
    low: float | None = None
    high: float | None = None
    """Ends of the range that was seen, in the unit of `value`."""
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Choice(Generic[T]):
    """One setting with its reason."""

    value: T
    why: str


@dataclass(frozen=True, slots=True)
class Match:
    """How a machine is recognised."""

    compatibles: tuple[str, ...] = ()
    """Parts of a device-tree `compatible` string; one that is found is enough."""
    fallback_isa: str | None = None
    """Instruction set of machines that no other profile matches."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Cores of one kind."""

    core: str
    num_cores: Quantity
    max_clock_hz: Quantity | None = None


@dataclass(frozen=True, slots=True)
class Cpu:
    """Clusters, the fastest first; empty for a family of machines."""

    isa: Literal["aarch64", "x86_64"]
    features: tuple[Feature, ...]
    features_source: Source
    clusters: tuple[Cluster, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """Sizes sold, and how fast memory is read: decode speed follows the read bandwidth."""

    technology: str | None = None
    smallest_bytes: Quantity | None = None
    largest_bytes: Quantity | None = None
    theoretical_bytes_per_s: Quantity | None = None
    read_one_core_bytes_per_s: Quantity | None = None
    """Sequential read by one core: a floor for what all cores reach together."""
    copy_one_core_bytes_per_s: Quantity | None = None
    fill_one_core_bytes_per_s: Quantity | None = None
    read_gpu_bytes_per_s: Quantity | None = None


@dataclass(frozen=True, slots=True)
class Sensor:
    """What the board itself can tell about its power."""

    kind: SensorKind
    covers: str
    """In words: what it sees and what it misses."""
    source: Source
    rails: tuple[str, ...] = ()
    total_rail: str | None = None
    """The rail that holds the others; never add it to its parts."""
    wall_per_sensor_ratio: Quantity | None = None
    wall_offset_w: Quantity | None = None
    """Power at the supply ≈ wall_per_sensor_ratio · sensor + wall_offset_w."""


@dataclass(frozen=True, slots=True)
class Power:
    """Power of the whole device, and the sensor it has."""

    sensor: Sensor
    idle_w: Quantity | None = None
    idle_tuned_w: Quantity | None = None
    """Lowest idle reached with everything switched off that can be."""
    active_w: Quantity | None = None
    """All CPU cores busy."""
    envelope_min_w: Quantity | None = None
    envelope_max_w: Quantity | None = None
    """What the module is specified for."""


@dataclass(frozen=True, slots=True)
class PowerMode:
    """A row of nvpmodel: caps on clocks and cores, not on watts. An absent clock is uncapped."""

    id: str
    name: str
    firmware: Literal["original", "super"]
    num_cores: Quantity
    is_default: bool = False
    cpu_clock_hz: Quantity | None = None
    gpu_clock_hz: Quantity | None = None
    memory_clock_hz: Quantity | None = None
    sustained_w: Quantity | None = None
    peak_w: Quantity | None = None
    cpu_w: Quantity | None = None
    gpu_w: Quantity | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Thermal:
    """Where the board slows itself down."""

    soft_limit_c: Quantity | None = None
    hard_limit_c: Quantity | None = None
    hottest_unthrottled_c: Quantity | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """A decode speed somebody published: a check for projections, not a promise."""

    model: str
    engine: str
    processor: Literal["cpu", "gpu", "npu"]
    speed_tokens_per_s: Quantity
    model_bytes: Quantity | None = None
    load_w: Quantity | None = None


@dataclass(frozen=True, slots=True)
class Runtime:
    """Settings of the drafter on this device."""

    weights: Choice[Weights]
    accuracy_level: Choice[AccuracyLevel]
    allow_spinning: Choice[bool]
    providers: Choice[tuple[str, ...]]
    num_context_tokens: Quantity
    """Cap on the context: longer ones need more cache than the smallest board should give."""
    num_threads: Quantity | None = None
    """Absent: one per physical core."""
    num_prefill_tokens: Quantity | None = None
    """Most tokens of one run: it holds as many rows of logits. Absent: the runtime's own number."""
    memory_arena: Choice[bool] | None = None
    cpu_weights: Choice[Weights] | None = None
    """In place of `weights` where the GPU that `providers` wishes for is not used."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One board or family of boards."""

    name: str
    title: str
    summary: str
    match: Match
    cpu: Cpu
    memory: Memory
    power: Power
    runtime: Runtime
    gpu: str | None = None
    thermal: Thermal | None = None
    modes: tuple[PowerMode, ...] = ()
    published: tuple[Published, ...] = ()

    @property
    def num_cores(self) -> int | None:
        """All cores of all clusters; None where the profile stands for a family of machines."""
        return int(sum(c.num_cores.value for c in self.cpu.clusters)) or None


@dataclass(frozen=True, slots=True)
class Radio:
    """Energy of the network interface, beyond the idle device."""

    up_j_per_bit: Quantity | None = None
    down_j_per_bit: Quantity | None = None
    """Slope of power against rate: 1 mW per Mbit/s is 1 nJ per bit."""
    tx_w: Quantity | None = None
    rx_w: Quantity | None = None
    """Added while the air is in use, times the share of time it is."""
    frame_j: Quantity | None = None
    """Cost of handling one frame, whatever its size."""
    active_w: Quantity | None = None
    """Added while the link is in its high state, whatever the rate."""
    tail_w: Quantity | None = None
    tail_s: Quantity | None = None
    """How long the high state lasts after the last packet."""
    promotion_s: Quantity | None = None
    """Added to the first packet after the tail has ended."""


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """The network between device and edge. What is absent is not emulated."""

    name: str
    title: str
    summary: str
    confidence: Confidence
    down_bps: Quantity
    up_bps: Quantity
    rtt_s: Quantity
    """Round trip of a small packet on the idle link."""
    rtt_near_s: Quantity | None = None
    """The same to a server within 50 km."""
    jitter_s: Quantity | None = None
    loss_ratio: Quantity | None = None
    radio: Radio | None = None
