"""`tandem link`, as a user calls it, and the proxy as a process."""

from __future__ import annotations

import socket
import threading

import pytest

from benchmarks.link_process import LinkProcess
from device_runtime import cli


def echo_server() -> socket.socket:
    """A listener that echoes one connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        end, _ = listener.accept()
        with end:
            while data := end.recv(1 << 16):
                end.sendall(data)

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_link_process_carries_and_counts(scheme: str) -> None:
    with echo_server() as edge:
        address = "{}:{}".format(*edge.getsockname())
        with LinkProcess("papers-0ms-100mbps", f"{scheme}{address}", ["--seed", "3"]) as link:
            with socket.create_connection(link.ready(), timeout=20.0) as device:
                device.sendall(b"x" * 1000)
                got = b""
                while len(got) < 1000:
                    got += device.recv(1000)
                counts = link.counts()
            assert counts["up"]["payload_bytes"] == counts["down"]["payload_bytes"] == 1000
            assert counts["up"]["wire_bytes"] == 1052


def test_show_says_what_is_emulated_and_what_tc_would_be_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["link", "show", "lte", "--up-bps", "5e6", "--outage", "3:1:60"]) == 0
    out = capsys.readouterr().out
    for text in ("5 Mbit/s", "117 Mbit/s", "32.25 ms", "radio sleeps", "netem", "outages: 1"):
        assert text in out


def test_a_dry_run_prints_the_commands_and_runs_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["link", "apply", "wifi5-home", "--dev", "nothere0", "--dry-run"]) == 0
    assert cli.main(["link", "undo", "--dev", "nothere0", "--dry-run"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 9
    assert all(line.startswith(("tc ", "ip ")) for line in out)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["show", "lt"], "no link profile"),
        (["show", "lte", "--outage", "1"], "expected START"),
        (["show", "lte", "--outage", "1:-1"], "positive duration"),
        (["show", "lte", "--up-trace", "/nowhere"], "cannot read the trace"),
        (["show", "lte", "--up-bps", "0"], "never carries"),
        (["show", "wifi5-home", "--near"], "nearby"),
        (["run", "lte", "--edge", "nohost"], "HOST:PORT"),
        (["run", "lte", "--edge", "a:99999"], "HOST:PORT"),
        (["run", "lte", "--edge", "http://a:1/path"], "HOST:PORT"),
        (["run", "lte", "--edge", "http://a:1", "--listen", "a:1"], "listen at another port"),
    ],
)
def test_mistakes_are_one_line_on_stderr(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["link", *words]) == cli.EXIT_FAILURE
    told = capsys.readouterr().err
    assert reason in told
    assert told.count("\n") == 1
