"""Linear layers through oneDNN: the same products, and only where they are worth it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.edge_passes import model_of
from edge_server import loading, onednn_linear
from edge_server.checkpoint import Checkpoint
from edge_server.loading import load_engine
from edge_server.onednn_linear import OneDnnLinear, onednn_is_faster, use_onednn

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture
def amd_with_avx512(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    facts = tmp_path / "cpuinfo"
    facts.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(onednn_linear, "_CPU_FACTS", facts)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    return facts


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 7, 130])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_products_are_those_of_the_layer(
    dtype: torch.dtype, tolerance: float, num_tokens: int, bias: bool
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=bias, dtype=dtype)
    x = torch.randn(1, num_tokens, 48, dtype=dtype)
    with torch.inference_mode():
        wanted, found = linear.double()(x.double()), OneDnnLinear(linear.to(dtype))(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance)


def test_every_linear_layer_is_replaced_and_nothing_else() -> None:
    model = nn.Sequential(nn.Embedding(9, 8), nn.Sequential(nn.Linear(8, 8), nn.SiLU()))
    model.append(nn.Linear(8, 9, bias=False))
    ids = torch.arange(9)[None]
    wanted = model(ids)
    use_onednn(model)
    kinds = [type(module).__name__ for module in model.modules()]
    assert kinds.count("OneDnnLinear") == 2
    assert kinds.count("Linear") == 0
    assert kinds.count("Embedding") == kinds.count("SiLU") == 1
    torch.testing.assert_close(model(ids), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("amd_with_avx512")
def test_it_is_for_types_it_knows_and_for_a_cpu() -> None:
    assert onednn_is_faster(torch.float32, CPU)
    assert onednn_is_faster(torch.bfloat16, CPU) is torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert not onednn_is_faster(torch.float64, CPU)
    assert not onednn_is_faster(torch.bfloat16, torch.device("cuda"))
    assert not onednn_is_faster(torch.float32, torch.device("cuda"))


def test_mkl_stays_where_it_is_as_fast(
    amd_with_avx512: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amd_with_avx512.write_text("vendor_id\t: GenuineIntel\n")
    assert not onednn_is_faster(torch.float32, CPU)
    amd_with_avx512.unlink()
    assert not onednn_is_faster(torch.float32, CPU)
    amd_with_avx512.write_text("vendor_id\t: AuthenticAMD\n")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not onednn_is_faster(torch.float32, CPU)


@pytest.mark.parametrize("is_faster", [True, False])
def test_an_engine_takes_it_where_it_is_faster(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, is_faster: bool
) -> None:
    monkeypatch.setattr(loading, "onednn_is_faster", lambda *_: is_faster)
    engine = load_engine(
        Checkpoint.open(checkpoint("llama")),
        num_ids=64,
        device="cpu",
        dtype="float32",
        cache_bytes=1 << 20,
    )
    kinds = {type(module) for module in model_of(engine).modules()}
    assert (OneDnnLinear in kinds) is is_faster
    assert (nn.Linear in kinds) is not is_faster
