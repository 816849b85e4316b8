"""The process of a runner: `edge_server.runner_process` starts it and says what is said."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import select
import sys
import threading
from array import array
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from edge_server.checkpoint import Checkpoint, CheckpointError
from edge_server.failures import describe
from edge_server.hardware import interrupting_nobody
from edge_server.loading import load_runner
from edge_server.local_runner import LocalRunner
from edge_server.logs import use_format
from edge_server.runner_process import CPU, Kind, read_pieces, tensor_in
from edge_server.thread_choice import use_threads_that_pay


def main() -> None:
    """Load the model that the pipe names, then do what it asks until it ends."""
    pipe_file, memory_file = map(int, sys.argv[1:])
    threading.Thread(target=_end_with_server, args=(pipe_file,), daemon=True).start()
    with (
        interrupting_nobody(),  # the server's event loop goes first: it is soon done
        contextlib.suppress(EOFError, ConnectionError),
        Connection(pipe_file) as pipe,
    ):
        settings = json.loads(pipe.recv_bytes())
        logging.basicConfig()
        use_format(settings["log_format"])
        if settings["num_threads"]:
            torch.set_num_threads(settings["num_threads"])
        try:
            runner = load_runner(
                Checkpoint(
                    Path(settings["folder"]), settings["config"], settings["generation_config"]
                ),
                num_ids=settings["num_ids"],
                device=CPU,
                dtype=getattr(torch, settings["dtype"]),
            )
        except CheckpointError as error:
            pipe.send_bytes(json.dumps({"refused": str(error)}).encode())
            return
        if not settings["num_threads"]:
            use_threads_that_pay(runner)
        facts = {
            "block_bytes": runner.block_bytes,
            "num_logits": runner.num_logits,
            "num_threads": torch.get_num_threads(),
        }
        pipe.send_bytes(json.dumps(facts).encode())
        _serve(runner, pipe, memory_file)


def _end_with_server(pipe_file: int) -> None:
    """End at once where the server has, also while a model loads, which may take minutes."""
    poll = select.poll()
    poll.register(pipe_file, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def _serve(runner: LocalRunner, pipe: Connection, memory_file: int) -> None:
    """Answer each request: with nothing if it was done, else with what went wrong."""
    memories: dict[int, mmap.mmap] = {}
    while True:
        request = array("q", pipe.recv_bytes())
        try:
            kind, numbers = request[0], request[1:].tolist()
            if kind == Kind.GROW:
                runner.grow(*numbers)
            elif kind == Kind.WIPE:
                runner.wipe(numbers)
            else:
                offset, size, *pieces = numbers
                if offset not in memories:
                    memories[offset] = mmap.mmap(memory_file, size, offset=offset)
                logits = runner.run(read_pieces(pieces))
                shape = len(logits), logits.shape[1]
                tensor_in(memories[offset], shape, logits.dtype).copy_(logits)
        except Exception as error:  # noqa: BLE001 -- the next request may be fine
            pipe.send_bytes(describe(error).encode())
        else:
            pipe.send_bytes(b"")
