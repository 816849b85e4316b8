"""How long logits → law takes, in numpy and in torch on one CPU thread: python -m benchmarks.laws.

The logits are made up: a power law over shuffled ids with Gaussian noise. It has four steepnesses,
whose nuclei at top-p 0.9 hold from a few ids to a few hundred, as the rows of real models do; every
timing runs over all four. Times are CPU seconds of the thread, so that waiting for a core that other
work holds does not count; a minimum far below the median still shows that other work was there.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from device_runtime.protocol.sampling import Sampling, to_law
from edge_server.sampling import to_laws

VOCABULARIES = (8_192, 32_000, 49_152, 151_936)
SETTINGS = {
    "T 1": Sampling(),
    "T 0.8": Sampling(temperature=0.8),
    "T 1, top-p 0.9": Sampling(top_p=0.9),
    "T 1, top-p 0.95": Sampling(top_p=0.95),
    "T 0.8, top-p 0.9": Sampling(temperature=0.8, top_p=0.9),
    "T 1, top-k 40": Sampling(top_k=40),
    "T 1, min-p 0.05": Sampling(min_p=0.05),
    "greedy": Sampling(temperature=0.0),
}
STEEPNESSES = (1.3, 1.5, 1.8, 2.2)
BATCH_ROWS = 16
LOOPS = 5


def made_up_logits(vocab_size: int) -> NDArray[np.float32]:
    """Logits (len(STEEPNESSES), vocab_size)."""
    rng = np.random.default_rng(0)
    rows = [
        rng.normal(0, 1, vocab_size) - steepness * np.log1p(rng.permutation(vocab_size))
        for steepness in STEEPNESSES
    ]
    return np.array(rows, np.float32)


def timed_us(work: Callable[[], object], num_laws: int, repeats: int) -> list[float]:
    """CPU microseconds per law of each repeat, after one warm-up."""
    work()
    times_us = []
    for _ in range(repeats):
        start_s = time.thread_time()
        for _ in range(LOOPS):
            work()
        times_us.append((time.thread_time() - start_s) / (LOOPS * num_laws) * 1e6)
    return times_us


def measure(vocab_size: int, sampling: Sampling, repeats: int) -> list[tuple[float, float]]:
    """(minimum, median) µs per law of numpy, torch row by row, and torch in a batch."""
    logits = made_up_logits(vocab_size)
    rows = torch.from_numpy(logits)
    batch = rows.repeat(BATCH_ROWS // len(rows), 1)

    def one_by_one() -> None:
        for row in range(len(rows)):
            to_laws(rows[row : row + 1], [sampling], [()])

    arms: tuple[tuple[Callable[[], object], int], ...] = (
        (lambda: [to_law(row, sampling, ()) for row in logits], len(logits)),
        (one_by_one, len(rows)),
        (lambda: to_laws(batch, [sampling] * len(batch), [()] * len(batch)), len(batch)),
    )
    times = [timed_us(work, num_laws, repeats) for work, num_laws in arms]
    return [(min(times_us), statistics.median(times_us)) for times_us in times]


def table(repeats: int) -> Iterator[str]:
    """The lines of the result."""
    yield f"{'vocabulary':>10}  {'sampling':18}{'numpy':>16}{'torch':>16}{'torch, batch':>16}"
    for vocab_size in VOCABULARIES:
        for name, sampling in SETTINGS.items():
            cells = measure(vocab_size, sampling, repeats)
            shown = "".join(f"{low:8.0f} /{middle:6.0f}" for low, middle in cells)
            yield f"{vocab_size:10,}  {name:18}{shown}"
    yield f"CPU µs per law: minimum / median of {repeats} repeats; a batch has {BATCH_ROWS} rows"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="time logits → law")
    parser.add_argument("--repeats", type=int, default=7, help="of each timing (default: 7)")
    repeats = parser.parse_args(argv).repeats
    torch.set_num_threads(1)
    for line in table(repeats):
        print(line, flush=True)  # noqa: T201 - a program for the command line
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
