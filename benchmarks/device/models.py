"""What the contenders read: a random checkpoint of a shape, our bundles and the peers' files.

Everything is made once and kept in .bench; removing that folder starts anew.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.shapes import SHAPES
from device_runtime.protocol.errors import TandemError
from export.quantise import block_size

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".bench"

CONSTRAINTS = ROOT / "constraints.txt"
PEER_PACKAGES = (
    "transformers", "optimum-onnx", "onnxruntime",
    "onnxruntime-genai==0.14.1", "onnx_ir", "gguf==0.19.0", "llama-cpp-python==0.3.36",
)  # fmt: skip
"""What the project uses itself comes in the versions that it pins, in constraints.txt.

0.14.1 is the newest of onnxruntime-genai whose builder works with transformers 4.57.
"""
TORCH_INDEX = "TORCH_INDEX"
"""As for `make`: address of an index that has another build of torch than pip's own."""
OWN, ON_OPTIMUM = "tandem", "tandem on optimum's graph"
NO_AMX = " ".join(f"-DGGML_AMX_{kind}=OFF" for kind in ("TILE", "INT8", "BF16"))


class PeerError(TandemError):
    """A peer's environment or file could not be made; its place in the table stays empty."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table."""

    name: str
    arm: str
    """Which arm the worker opens."""
    python: Path
    model: Path
    weights: str

    @property
    def model_bytes(self) -> int:
        """Everything that is read at the start: graph and weights."""
        if self.model.is_file():
            return self.model.stat().st_size
        kinds = (".onnx", ".onnx_data", ".data", ".safetensors")
        return sum(path.stat().st_size for path in self.model.iterdir() if path.suffix in kinds)


def own(shape: str, weights: str, console: Console) -> Contender:
    """Tandem's fused bundle of that kind of weights."""
    return of_bundle(_bundle(shape, "fused", weights, console), weights)


def of_bundle(bundle: Path, weights: str) -> Contender:
    """Tandem on a bundle that exists already."""
    return Contender(OWN, "tandem", Path(sys.executable), bundle, weights)


def peers(shape: str, weights: str, python: Path, console: Console) -> list[Contender]:
    """Every other contender whose files can be made; the console says which cannot, and why.

    torch has no kernels for these weights: transformers runs in float32. Tandem's own runtime on
    optimum's graph tells what comes from the graph and what from the runtime.
    """
    here = Path(sys.executable)

    def written(kind: str) -> Callable[[], Path]:
        return lambda: _peer_file(kind, shape, weights, python, console)

    # Its default are blocks of 32; with larger ones, as ours, it is faster, too.
    size = block_size(SHAPES[shape]["hidden_size"])
    other = f"onnxruntime-genai, blocks of {size}", "genai", python, written(f"genai-{size}")
    makers: tuple[tuple[str, str, Path, Callable[[], Path]], ...] = (
        (ON_OPTIMUM, "tandem", here, lambda: _bundle(shape, "optimum", weights, console)),
        ("onnxruntime-genai", "genai", python, written("genai")),
        *([other] if weights == "int4" else []),
        ("llama.cpp", "llama.cpp", python, written("gguf")),
        ("optimum", "optimum", python, lambda: _optimum(shape, weights, console)),
    )
    found = []
    for name, arm, program, make in makers:
        try:
            found.append(Contender(name, arm, program, make(), weights))
        except PeerError as error:
            console.print(f"{name} is left out: {error}")
    checkpoint = _checkpoint(shape, console)
    return [*found, Contender("transformers", "transformers", python, checkpoint, "fp32")]


def peer_python(given: Path | None, console: Console) -> Path:
    """A Python with the peers: the one given, or an environment made in .bench."""
    if given is not None:
        return given
    folder = CACHE / "peers"
    python = folder / "bin" / "python"
    stamp = folder / "packages"
    torch = f"torch=={version('torch')}"  # with its build: no CUDA where there is none here
    wanted = "\n".join((torch, *PEER_PACKAGES, CONSTRAINTS.read_text()))
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    console.print("installing the peers into .bench/peers (builds llama.cpp: takes a while) …")
    _checked([sys.executable, "-m", "venv", "--clear", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(CONSTRAINTS)]
    index = os.environ.get(TORCH_INDEX)
    # torch alone and without its dependencies, so that the second index is asked for nothing else.
    try:
        _checked([*install, "--no-deps", *(["--extra-index-url", index] if index else []), torch])
    except PeerError as error:
        raise PeerError(f"{error}; {TORCH_INDEX}=URL names an index that has {torch}") from None
    # llama.cpp's AMX kernels crash on CPUs without AMX (seen with 0.3.36).
    environment = {**os.environ, "CMAKE_ARGS": f"-DGGML_NATIVE=ON {NO_AMX}"}
    _checked([*install, torch, *PEER_PACKAGES], environment)
    stamp.write_text(wanted)
    return python


def _checkpoint(shape: str, console: Console) -> Path:
    folder = CACHE / shape / "checkpoint"
    if not (folder / "model.safetensors").exists():
        console.print(f"writing random weights of {shape}'s shape …")
        _checked([sys.executable, "-m", "benchmarks.shapes", shape, str(folder)])
    return folder


def _bundle(shape: str, graph: str, weights: str, console: Console) -> Path:
    folder = CACHE / shape / f"{graph}-{weights}"
    if not (folder / "manifest.json").exists():
        checkpoint = _checkpoint(shape, console)
        console.print(f"exporting {shape}: {graph} graph, {weights} …")
        export = [sys.executable, "-m", "device_runtime", "export", str(checkpoint)]
        export += ["--out", str(folder), "--graph", graph, "--weights", weights, "--json"]
        export += ["--calibration", "none"]  # nobody reads what random weights write
        _checked(export)
    return folder


def _optimum(shape: str, weights: str, console: Console) -> Path:
    """optimum's own graph with the same weights, and the config that its runtime wants beside it."""
    folder = _bundle(shape, "optimum", weights, console)
    config = CACHE / shape / "checkpoint" / "config.json"
    if not (folder / config.name).exists():
        shutil.copy(config, folder)
    return folder


def _peer_file(kind: str, shape: str, weights: str, python: Path, console: Console) -> Path:
    path = CACHE / shape / f"{kind}-{weights}"
    if not path.exists():
        checkpoint = _checkpoint(shape, console)
        console.print(f"writing {shape} for {kind} …")
        draft = path.with_name(f"{path.name}.new")
        if draft.is_dir():
            shutil.rmtree(draft)
        module = [str(python), "-m", "benchmarks.device.peer_models"]
        _checked([*module, kind, str(checkpoint), weights, str(draft)])
        draft.rename(path)
    return path


def _checked(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise PeerError(f"{json.dumps(command[1:5])} failed: {last}")
