"""A runner in a process of its own: a model's operators and the event loop share no interpreter.

In one process each operator takes the interpreter from the event loop and waits for it again; with
several such processes (`edge_server.replicas`) a server uses several cores, too. Requests cross a pipe
as 64-bit numbers; logits come back in memory that both processes see, without a copy. What the other
process does is in `edge_server.runner_main`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
import weakref
from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum
from multiprocessing.connection import Pipe

import torch
from torch import Tensor

from edge_server.batch import Piece
from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.failures import DescribedError
from edge_server.logs import format_in_use
from edge_server.runner import LostRunnerError, logits_dtype

CPU = torch.device("cpu")
_PROGRAM = """
import sys
sys.path[:] = sys.argv.pop().split(":")
import signal
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
from edge_server.runner_main import main
main()
"""
"""What the other process runs. The server alone is told to end: it has rounds to finish. And modules
come from where the server has them, not from the current folder, which may be a stranger's checkpoint.
"""
IS_HERE = hasattr(os, "memfd_create")
"""Whether this system has what it takes: Linux does."""
_STOP_TIMEOUT_S = 10.0
_LEAST_BYTES = 1 << 16
_STDERR = 2


class Kind(IntEnum):
    """The first number of a request."""

    RUN = 0
    """Offset and size of the memory for the logits, then the pieces."""
    GROW = 1
    """The capacity."""
    WIPE = 2
    """The blocks."""


class PassFailedError(DescribedError):
    """A request failed there, as described; the next one may not."""


class RunnerProcess:
    """A `Runner` on CPUs. It starts at once; before its first use, `wait_until_ready`."""

    def __init__(
        self, checkpoint: Checkpoint, *, num_ids: int, dtype: torch.dtype, num_threads: int
    ) -> None:
        """num_threads: of the model; 0 takes as many as pay."""
        self._name = checkpoint.name
        self._dtype = dtype
        self._block_bytes = self._num_logits = 0
        self.num_threads = num_threads
        self._regions = _Regions()
        self._pipe, theirs = Pipe()
        files = theirs.fileno(), self._regions.file
        path = ":".join(folder for folder in sys.path if folder)
        # No part in the server's standard output, which scripts read.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, files), path],
            stdin=subprocess.DEVNULL, stdout=_STDERR, pass_fds=files, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        settings = {
            "folder": str(checkpoint.folder),
            "config": checkpoint.config,
            "generation_config": checkpoint.generation_config,
            "num_ids": num_ids,
            "dtype": str(dtype).removeprefix("torch."),
            "num_threads": num_threads,
            "log_format": format_in_use(),
        }
        self._pipe.send_bytes(json.dumps(settings).encode())

    def wait_until_ready(self) -> None:
        """CheckpointError where the model cannot be served."""
        facts = json.loads(self._received())
        if "refused" in facts:
            self.close()
            raise CheckpointError(facts["refused"])
        self._block_bytes, self._num_logits = facts["block_bytes"], facts["num_logits"]
        self.num_threads = facts["num_threads"]

    @property
    def device(self) -> torch.device:
        return CPU

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype

    @property
    def block_bytes(self) -> int:
        return self._block_bytes

    def grow(self, capacity: int) -> None:
        self._ask(Kind.GROW, capacity)

    def wipe(self, blocks: Sequence[int]) -> None:
        self._ask(Kind.WIPE, *blocks)

    def run(self, pieces: Sequence[Piece]) -> Tensor:
        dtype = logits_dtype(self._dtype)
        shape = sum(piece.num_rows for piece in pieces), self._num_logits
        offset, memory = self._regions.take(shape[0] * shape[1] * dtype.itemsize)
        self._ask(Kind.RUN, offset, len(memory), *written_pieces(pieces))
        return tensor_in(memory, shape, dtype)

    def check(self) -> None:
        if self._process.poll() is not None:
            raise self._lost()

    def close(self) -> None:
        self._pipe.close()  # its loop ends with that
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._regions.close()

    def _ask(self, *numbers: int) -> None:
        try:
            self._pipe.send_bytes(array("q", numbers))
        except OSError:
            raise self._lost() from None
        failure = self._received()
        if failure:
            raise PassFailedError(failure.decode())

    def _received(self) -> bytes:
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            raise self._lost() from None

    def _lost(self) -> LostRunnerError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT_S)
        does, status = "runs" if self._num_logits else "loads", self._process.returncode
        how = f"ended with status {status}; its words are above"
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            how = f"was ended by {name}" + (", mostly for lack of memory" if status == -9 else "")
        return LostRunnerError(f"the process {self._process.pid} that {does} {self._name} {how}")


class _Regions:
    """Parts of one file in memory. A part is free again when nothing reads its numbers any more."""

    def __init__(self) -> None:
        self.file = os.memfd_create("logits")
        self._num_bytes = 0
        self._free: list[tuple[int, mmap.mmap]] = []

    def take(self, num_bytes: int) -> tuple[int, memoryview]:
        """Offset and memory of a part with so many bytes or more."""
        # The last one first: of equals, what was written lately is still in the CPU's cache.
        fitting = [part for part in reversed(self._free) if len(part[1]) >= num_bytes]
        part = min(fitting, key=lambda part: len(part[1]), default=None)
        if part is None:
            part = self._new(num_bytes)
        else:
            self._free.remove(part)
        memory = memoryview(part[1])
        weakref.finalize(memory, self._free.append, part).atexit = False
        return part[0], memory

    def _new(self, num_bytes: int) -> tuple[int, mmap.mmap]:
        # Powers of two, so that few sizes exist; what is never written takes no memory.
        size = max(_LEAST_BYTES, 1 << (num_bytes - 1).bit_length())
        offset = self._num_bytes
        self._num_bytes += size
        os.ftruncate(self.file, self._num_bytes)
        return offset, mmap.mmap(self.file, size, offset=offset)

    def close(self) -> None:
        """What is read still stays readable."""
        os.close(self.file)


def tensor_in(memory: memoryview | mmap.mmap, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Numbers in this memory, which stays as long as they do."""
    if not shape[0]:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype, count=shape[0] * shape[1]).view(shape)


def written_pieces(pieces: Sequence[Piece]) -> Iterable[int]:
    """Numbers that say what the pieces are."""
    for piece in pieces:
        yield from (len(piece.token_ids), piece.start, len(piece.blocks), piece.num_rows)
        yield from piece.token_ids
        yield from piece.blocks


def read_pieces(numbers: Sequence[int]) -> list[Piece]:
    """The inverse of `written_pieces`."""
    pieces, at = [], 0
    while at < len(numbers):
        num_tokens, start, num_blocks, num_rows = numbers[at : at + 4]
        blocks_at = at + 4 + num_tokens
        tokens = numbers[at + 4 : blocks_at]
        at = blocks_at + num_blocks
        pieces.append(Piece(tokens, start, numbers[blocks_at:at], num_rows))
    return pieces
