"""Linear layers through oneDNN, with weights in its own order: on CPUs where that is faster.

torch gives float32 products to MKL, which takes its AVX2 kernels on CPUs of other makers than Intel,
whatever they can; oneDNN, which comes with torch too, goes by what they can. On an AMD EPYC with
AVX-512 the products of 16 rounds take half of the time. bfloat16 goes to oneDNN anyway, but torch
orders the weights anew in each product: for one round that is half of its time.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

_CPU_FACTS = Path("/proc/cpuinfo")


class OneDnnLinear(nn.Module):
    """x (…, in) → (…, out), of the layer's type; the weights are a copy in oneDNN's own order.

    By the operators that torch.compile uses, too: unlike `Tensor.to_mkldnn` they order the weights once
    instead of in each product, and read and write tensors of torch as they are.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())  # noqa: SLF001
        self.register_buffer("weight", weight)
        bias: Tensor | None = linear.bias  # torch declares it as always there
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            x, self.weight, self.bias, "none", [], ""
        )
        return product


def use_onednn(model: nn.Module) -> None:
    """Replace the model's linear layers, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, OneDnnLinear(child))


def onednn_is_faster(model_dtype: torch.dtype, device: torch.device) -> bool:
    """Whether it is for products of this type on this machine."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if model_dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return (
        model_dtype == torch.float32
        and torch.backends.mkl.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _is_amd()
    )


def _is_amd() -> bool:
    """The CPU's maker; False where it cannot be known: then all stays as torch has it."""
    try:
        return "AuthenticAMD" in _CPU_FACTS.read_text()
    except OSError:
        return False
