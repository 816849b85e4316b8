"""What both halves run, and the settings of a record that name it."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.demo import PAIR, exported_slm
from benchmarks.run.plan import Arm
from benchmarks.run.stage import EdgeSpec
from benchmarks.wide_pair import wide_bundle, wide_checkpoint
from device_runtime.bundle import TOKENIZER_FILE, load_manifest
from device_runtime.protocol.errors import ConfigError
from device_runtime.tokenizer import Tokenizer
from edge_server.checkpoint import Checkpoint
from edge_server.hardware import resolve_device, resolve_dtype

NUM_SAMPLES, SAMPLE_BYTES = 16, 1 << 16
DIGEST_LEN = 16
"""Hex digits: enough to tell models apart, short enough for a table."""


@dataclass(frozen=True, slots=True)
class Models:
    """Two halves, and how the edges are started."""

    bundle: Path
    llm: Path
    edge_draft: Path
    """The small model of the arm `edge-draft`."""
    dtype: str
    edge_threads: int
    """Of the LLM on a CPU; 0 takes the cores."""

    @classmethod
    def of(cls, args: argparse.Namespace, console: Console) -> Models:
        """What was named, or the demo pair, as it is or widened; ConfigError for what cannot be."""
        num_ids = args.num_ids
        if num_ids and (args.bundle or args.model):
            raise ConfigError("--num-ids widens the demo pair; leave --bundle and --model out")
        dtype = str(resolve_dtype(args.dtype, resolve_device("auto"))).removeprefix("torch.")
        threads = args.edge_threads
        if threads is None:
            threads = 0 if args.model else 1
        if num_ids:
            draft = args.edge_draft or wide_checkpoint("slm", num_ids)
            llm = wide_checkpoint("llm", num_ids)
            return cls(wide_bundle(num_ids), llm, draft, dtype, threads)
        bundle = args.bundle or exported_slm(console)
        draft = args.edge_draft or PAIR / "slm"
        return cls(bundle, args.model or PAIR / "llm", draft, dtype, threads)

    def edges(self, arms: Sequence[Arm]) -> dict[bool, EdgeSpec]:
        """Those that the arms need; key: whether it drafts for itself."""
        plain: tuple[str, ...] = ("--dtype", self.dtype)
        if self.edge_threads:
            plain = (*plain, "--threads", str(self.edge_threads))
        specs = {}
        if any(not arm.edge_drafts and arm.mode != "device" for arm in arms):
            specs[False] = EdgeSpec(self.llm, plain)
        if any(arm.edge_drafts for arm in arms):
            specs[True] = EdgeSpec(self.llm, (*plain, "--edge-draft", str(self.edge_draft)))
        return specs

    def settings(self) -> dict[str, Any]:
        """By the keys of `benchmarks.record_keys`; BundleError or CheckpointError for no model."""
        manifest = load_manifest(self.bundle)
        files = json.dumps(manifest.files, sort_keys=True)
        return {
            "llm": Checkpoint.open(self.llm).name, "llm_digest": checkpoint_digest(self.llm),
            "dtype": self.dtype, "edge_threads": self.edge_threads,
            "slm": manifest.source, "slm_digest": _hex(hashlib.sha256(files.encode())),
            "weights": manifest.weights, "graph": manifest.graph,
            "cache_dtype": manifest.cache_dtype,
            "num_ids": Tokenizer.open(self.bundle / TOKENIZER_FILE).num_ids,
        }  # fmt: skip

    def edge_draft_settings(self) -> dict[str, Any]:
        """The same for the model that drafts on the edge."""
        name = Checkpoint.open(self.edge_draft).name
        return {"edge_draft": name, "edge_draft_digest": checkpoint_digest(self.edge_draft)}


def checkpoint_digest(folder: Path) -> str:
    """What names a checkpoint: its JSON files, the sizes of its weights and samples of them.

    Sixteen blocks of a file are read instead of gigabytes. A model that was trained further differs
    in all of them; one that was changed by hand in a few numbers may not.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        digest.update(path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        num_bytes = path.stat().st_size
        digest.update(f"{path.name} {num_bytes}".encode())
        with path.open("rb") as file:
            for i in range(NUM_SAMPLES):
                file.seek(num_bytes * i // NUM_SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return _hex(digest)


def _hex(digest: Any) -> str:
    return str(digest.hexdigest()[:DIGEST_LEN])
