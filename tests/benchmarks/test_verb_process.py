"""A verb as a process of its own ends with the process that started it, however that one ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.verb_process import VerbFailedError, VerbProcess
from tests.ports import is_open, wait_until_closed

ROOT = Path(__file__).parents[2]

STARTED = {
    "ends with its stdin": """VerbProcess("link", ["run", "papers-0ms-100mbps",
        "--edge", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--no-realtime", "--json"])""",
    "reads its stdin": """LinkProcess("papers-0ms-100mbps", "127.0.0.1:9", ["--no-realtime"])""",
}
PARENT = """
import signal, time
from benchmarks.link_process import LinkProcess
from benchmarks.verb_process import VerbProcess
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests run under
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with {started} as process:
    print(process.line()["port"], flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("started", STARTED.values(), ids=STARTED)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_it_ends_with_its_parent(number: signal.Signals, started: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(started=started)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert is_open(port)
        parent.send_signal(number)
        parent.wait(20)
    wait_until_closed(port)


def test_it_ends_with_its_block() -> None:
    arguments = ["run", "papers-0ms-100mbps", "--edge", "127.0.0.1:9", "--listen", "127.0.0.1:0"]
    with VerbProcess("link", [*arguments, "--no-realtime", "--json"]) as process:
        port = process.line()["port"]
        assert is_open(port)
    assert not is_open(port)


def test_one_that_fails_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        VerbProcess("link", ["run", "nosuch", "--edge", "127.0.0.1:9", "--json"]) as process,
        pytest.raises(VerbFailedError, match="tandem link ended with status 1"),
    ):
        process.line()
    assert "nosuch" in capfd.readouterr().err
