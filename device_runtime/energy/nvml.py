"""The energy counter of an NVIDIA GPU (NVML): mJ since the driver was loaded, Volta and newer."""

from __future__ import annotations

from typing import Any

from device_runtime.energy.meter import MeterError, MeterFacts

REFRESH_S = 0.1
"""How often the counter moves (zeus' documentation: about 100 ms)."""


class NvmlMeter:
    """One GPU, whole: what other programs make it do counts, too."""

    def __init__(self, index: int = 0, library: Any = None) -> None:
        """library: nvidia-ml-py's module `pynvml`, or what stands for it; MeterError if absent."""
        self._nvml = library if library is not None else _library()
        try:
            self._nvml.nvmlInit()
            self._gpu = self._nvml.nvmlDeviceGetHandleByIndex(index)
            name = self._nvml.nvmlDeviceGetName(self._gpu)
            self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)
        except self._nvml.NVMLError as error:
            raise MeterError(
                f"NVML gives no energy of GPU {index} ({error}): there is no NVIDIA GPU or driver, or "
                "the GPU has no counter, as Jetsons and those before Volta"
            ) from None
        self._facts = MeterFacts(
            name="nvml",
            kind="measured",
            point="gpu",
            covers=f"GPU {index}, {name}: the whole card; not the computer around it",
            unit="j",
            period_s=REFRESH_S,
            refresh_s=REFRESH_S,
        )

    @property
    def facts(self) -> MeterFacts:
        return self._facts

    def read(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._gpu)) / 1e3
        except self._nvml.NVMLError as error:
            raise OSError(f"NVML: {error}") from None

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def _library() -> Any:
    try:
        import pynvml
    except ModuleNotFoundError:
        raise MeterError(
            "reading a GPU's energy needs nvidia-ml-py; run: pip install nvidia-ml-py"
        ) from None
    return pynvml
