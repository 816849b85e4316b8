"""The edge that `tandem bench edge` measures, as a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tests.ports import is_open, wait_until_closed

ROOT = Path(__file__).parents[2]

PARENT = """
import time
from benchmarks.demo import PAIR
from benchmarks.edge import ProbeProcess
settings = {"model": str(PAIR / "llm"), "device": "cpu", "cache_gib": 0.1, "num_threads": 1}
with ProbeProcess(settings) as probe:
    print(probe.line()["url"], flush=True)
    time.sleep(60)
"""


def test_it_ends_with_its_parent_even_after_sigkill() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        port = urlsplit(parent.stdout.readline().strip()).port
        assert port is not None and is_open(port)
        parent.kill()
        parent.wait(20)
    wait_until_closed(port)
