"""What the device computes from fixed inputs, as one JSON object: the same program on any machine.

`python -m tests.arm.probe FOLDER` reads every bundle in the folder; with `--drafts` behind it, nothing
else is computed. Integers, what schemes decide, and greedy tokens can be compared between machines.
Bytes of messages that follow from float64 laws, and logits, need not be equal: the last bit of an
exponential function is each library's own.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.lattice import LatticeCode, quantise
from device_runtime.protocol.packing import read_row, write_row
from device_runtime.protocol.randomness import device_coins, stream_bits, stream_key
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.wire import Reader, Writer
from device_runtime.settings import RuntimeSettings
from device_runtime.turn import Counts, Turn
from tests.table_model import TableDrafter, TableEdge, open_session, random_table

NUM_TOKENS = 48
SAMPLINGS = (Sampling(), Sampling(temperature=0.7, top_p=0.9), Sampling(temperature=0.0))


def report(bundles: Path) -> dict[str, Any]:
    """Everything that is compared, and where it was computed."""
    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "streams": _digest([stream_bits(stream_key(1, 2, 3), np.arange(1000)).tobytes()]),
        "packing": [_digest(_packed_rows(size)) for size in (1, 320, 49_152, 151_936)],
        "lattice": _lattice_numbers(),
        "schemes": {name: _generations(name) for name in SCHEMES},
        "drafts": drafts(bundles),
    }


def drafts(bundles: Path) -> dict[str, Any]:
    """What each bundle of the folder writes."""
    return {folder.name: _draft(folder) for folder in sorted(bundles.iterdir())}


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _packed_rows(num_ids: int) -> Iterable[bytes]:
    """Rows of whole grid indices, packed; each must come back."""
    rng = np.random.default_rng(num_ids)
    for share in (1.0, 0.03):
        ids = np.flatnonzero(rng.random(num_ids) <= share)
        indices = rng.integers(1, GRID.num_levels, len(ids))
        out = Writer()
        write_row(out, ids, indices)
        again = read_row(Reader(out.getvalue()), num_ids, GRID.num_levels)
        assert np.array_equal(again[0], ids) and np.array_equal(again[1], indices)
        yield out.getvalue()


def _lattice_numbers() -> list[int]:
    """Numbers of laws that are fractions of whole counts."""
    rng = np.random.default_rng(5)
    code = LatticeCode(49_152, 100, 16)
    numbers = []
    for _ in range(8):
        ids = np.sort(rng.choice(49_152, 16, replace=False))
        counts = quantise(rng.integers(1, 1000, 16) / 1024, 100)
        kept = counts > 0
        numbers.append(code.number(ids[kept], counts[kept]))
        assert np.array_equal(code.parts(numbers[-1])[1], counts[kept])
    return numbers


def _generations(scheme: str) -> dict[str, Any]:
    """What is decided between two sessions in memory, and the digest of all their messages."""
    llm = random_table(1500, seed=1)
    slm = (llm + random_table(1500, seed=2, spread=0.5)).astype(np.float32)
    decisions: list[dict[str, Any]] = []
    messages: list[bytes] = []
    for sampling in SAMPLINGS:
        edge = TableEdge(llm)
        session = open_session(edge)
        session.append([3, 1, 4])
        generation = Generation(SCHEMES[scheme], sampling, seed=77, end_ids=())
        session.receive_begun(edge.answer(session.begin(generation)))
        counts = Counts()
        turn = Turn(session, TableDrafter(slm), generation, device_coins(5), counts)
        while len(session.tokens) < NUM_TOKENS:
            data: bytes | None = turn.draft(4)
            while data is not None:
                reply = edge.answer(data)
                messages += data, reply
                data = turn.receive(reply).send
        tokens = [int(token_id) for token_id in session.tokens.ids]
        decisions.append({"tokens": tokens, "counts": asdict(counts)})
    return {"decisions": decisions, "messages": _digest(messages)}


def _draft(folder: Path) -> dict[str, Any]:
    """Greedy tokens with a rollback now and then; then the choices along a text that is given."""
    drafter = OnnxDrafter.open(folder, RuntimeSettings(num_threads=1, prefill_chunk=8))
    prompt = np.arange(5, 25)
    row = drafter.append(prompt)
    tokens: list[int] = []
    while len(tokens) < NUM_TOKENS:
        tokens.append(int(row.argmax()))
        if len(tokens) % 5 == 0:
            drafter.append(np.array([7, 8, 9]))
            drafter.truncate(len(prompt) + len(tokens) - 1)
        row = drafter.append(np.array(tokens[-1:]))
    drafter.truncate(len(prompt))
    choices: list[int] = []
    margins: list[float] = []
    for token_id in np.random.default_rng(3).integers(4, drafter.vocab_size, NUM_TOKENS):
        row = drafter.append(np.array([token_id]))
        choices.append(int(row.argmax()))
        second, best = np.partition(row, -2)[-2:]
        margins.append(round(float((best - second) / row.std()), 4))
    return {"tokens": tokens, "choices": choices, "margins": margins}


if __name__ == "__main__":
    compute = drafts if "--drafts" in sys.argv[2:] else report
    json.dump(compute(Path(sys.argv[1])), sys.stdout)
