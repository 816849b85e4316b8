"""`tandem edge` as its own process: it tells where it listens, serves, and ends when told to."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch

from device_runtime import cli
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.messages import Hello, Welcome, decode, encode
from edge_server import engines, runner_process
from edge_server.config import EdgeConfig
from edge_server.local_runner import LocalRunner
from edge_server.tls import tls_context
from tests.tiny_models import NUM_TOKENS

SETTINGS = ("--device", "cpu", "--dtype", "float32", "--cache-gib", "0.01", "--threads", "1")


@contextmanager
def started(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """The process and the line it printed when it was ready."""
    command = [sys.executable, "-m", "device_runtime", "edge", "--model", str(folder), *SETTINGS]
    with subprocess.Popen(
        [*command, "--port", "0", "--json", *more], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


async def test_it_prints_its_url_serves_reloads_and_drains_on_sigterm(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "tokens").write_text("the-old-token-here")
    old, new = ({"Authorization": f"Bearer the-{name}-token-here"} for name in ("old", "new"))
    with started(checkpoint("llama"), "--tokens-file", str(tmp_path / "tokens")) as (
        process,
        ready,
    ):
        assert ready["event"] == "ready"
        assert ready["model"] == "llama"
        assert ready["dtype"] == "float32"
        assert ready["url"].startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession(ready["url"]) as http:
            async with http.get("/readyz") as answer:
                assert answer.status == 200
            await leave_a_stream(http, old)
            (tmp_path / "tokens").write_text("the-new-token-here")
            process.send_signal(signal.SIGHUP)
            assert (await status_when_quiet(http, new))["model"] == "llama"
            async with http.get("/v1/status", headers=old) as answer:
                assert answer.status == 401
            async with http.get("/metrics", headers=new) as answer:
                assert 'error_type="cancelled"' in await answer.text()
            async with http.ws_connect("/v1/session", headers=new) as socket:
                await socket.send_bytes(encode(Hello("test", NUM_TOKENS)))
                assert isinstance(decode(await socket.receive_bytes()), Welcome)
                process.send_signal(signal.SIGTERM)
                message = await socket.receive(20)
                assert message.type is aiohttp.WSMsgType.CLOSE
                assert message.data == aiohttp.WSCloseCode.GOING_AWAY
        assert process.wait(20) == 0


async def test_replicas_serve_side_by_side_and_a_lost_one_is_told(
    checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    body = {"model": "llama", "prompt": "x", "max_tokens": 12, "seed": 1}
    with started(checkpoint("llama"), "--replicas", "2") as (process, ready):
        assert ready["replicas"] == 2
        children = children_of(process.pid)
        assert len(children) == 2
        async with aiohttp.ClientSession(ready["url"]) as http:
            answers = await asyncio.gather(*(complete(http, body) for _ in range(4)))
            (text,) = {answer[1] for answer in answers}  # of either replica
            assert text
            os.kill(children[0], signal.SIGKILL)
            for _ in range(4):  # one finds out and goes where all is well, as do the others
                assert await complete(http, body) == (200, text)
            async with http.get("/healthz") as answer:
                assert answer.status == 503
            async with http.get("/readyz") as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    await until_gone(children[1])
    assert "stopped: LostRunnerError (the process" in capfd.readouterr().err


async def test_an_edge_whose_last_replica_is_lost_ends(
    checkpoint: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but a new start helps, and supervisors look at the exit code."""
    body = {"model": "llama", "prompt": "x", "max_tokens": 12, "seed": 1}
    with started(checkpoint("llama")) as (process, ready):
        async with (
            aiohttp.ClientSession(ready["url"]) as http,
            http.ws_connect("/v1/session") as socket,
        ):
            await socket.send_bytes(encode(Hello("test", NUM_TOKENS)))
            assert isinstance(decode(await socket.receive_bytes()), Welcome)
            os.kill(children_of(process.pid)[0], signal.SIGKILL)
            assert await complete(http, body) == (500, "")
            message = await socket.receive(20)
            assert message.data == aiohttp.WSCloseCode.GOING_AWAY
        assert await asyncio.to_thread(process.wait, 20) == 1
    error = capfd.readouterr().err
    assert "stopped: LostRunnerError (the process" in error
    assert "tandem: the model can run no more" in error


async def complete(http: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, str]:
    """Status and text."""
    async with http.post("/v1/completions", json=body) as answer:
        data = await answer.json()
        return answer.status, data["choices"][0]["text"] if answer.status == 200 else ""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def until_gone(pid: int) -> None:
    for _ in range(1000):
        if not is_there(pid):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the model's process outlived the edge")


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_without_processes_the_model_is_in_the_server(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Mac."""
    monkeypatch.setattr(runner_process, "IS_HERE", False)
    config = EdgeConfig(model=str(checkpoint("llama")), device="cpu", cache_gib=0.01)
    starting = engines.start(config)
    (engine,) = starting.engines()
    assert isinstance(starting.replicas[0][0], LocalRunner)
    assert engine.max_cached > 0
    with pytest.raises(ConfigError, match="Linux"):
        engines.start(replace(config, replicas=2))


def test_a_gpu_has_one_replica(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "resolve_device", lambda _: torch.device("cuda"))
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES"):
        engines.start(EdgeConfig(model=str(checkpoint("llama")), replicas=2))


@pytest.mark.parametrize(
    ("module", "heavy"), [("edge_server.cli", "torch"), ("edge_server.engines", "transformers")]
)
def test_help_and_the_start_of_models_wait_for_no_import(module: str, heavy: str) -> None:
    """Seconds, which a user would notice."""
    code = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


async def leave_a_stream(http: aiohttp.ClientSession, headers: dict[str, str]) -> None:
    """Ask for a long text and go away after its first line."""
    body = {"model": "llama", "prompt": "x", "max_tokens": 200, "stream": True}
    async with http.post("/v1/completions", json=body, headers=headers) as answer:
        await answer.content.readline()


async def status_when_quiet(http: aiohttp.ClientSession, headers: dict[str, str]) -> dict[str, Any]:
    """The status as soon as the token is good and no completion runs."""
    for _ in range(1000):
        async with http.get("/v1/status", headers=headers) as answer:
            if answer.status == 200:
                status: dict[str, Any] = await answer.json()
                if status["completions"] == 0:
                    return status
        await asyncio.sleep(0.01)
    raise AssertionError("it never was quiet")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = cli.main(["edge", *arguments])
    return status, capsys.readouterr().err


def test_what_is_wrong_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments, words in (
        ([], "give --model"),
        (["--model", str(tmp_path / "none")], "there is no folder"),
        (["--model", str(tmp_path)], "no config.json"),
        (["--model", "m", "--host", "0.0.0.0"], "--insecure"),
        (["--model", "m", "--tls-cert", "c"], "both a certificate and its key"),
    ):
        status, error = run(capsys, *arguments)
        assert status == 1
        assert error.startswith("tandem: ")
        assert error.count("\n") == 1
        assert words in error


@pytest.mark.parametrize("where", [["--host", "127.0.0.1"], ["--host", "nosuch.invalid"]])
def test_an_address_that_cannot_be_had_is_told_before_the_model_loads(
    where: list[str],
    checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engines, "start", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        model = str(checkpoint("llama"))
        status, error = run(capsys, "--model", model, "--port", port, "--insecure", *where)
    assert status == 1
    assert f"nothing can listen at {where[1]}:{port}" in error and "take another --port" in error


def test_tokens_that_are_no_good_are_told_before_the_model_loads(
    checkpoint: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(engines, "start", None)
    (tmp_path / "tokens").write_text("short")
    model, tokens = str(checkpoint("llama")), str(tmp_path / "tokens")
    status, error = run(capsys, "--model", model, "--tokens-file", tokens)
    assert status == 1 and "1 of them shorter than 16" in error


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["edge", "--help"])
    text = capsys.readouterr().out
    assert "127.0.0.1" in text
    assert "8600" in text


def test_tls_is_off_without_a_certificate_and_modern_with_one(tmp_path: Path) -> None:
    assert tls_context(EdgeConfig()) is None
    (tmp_path / "no").write_text("no certificate")
    with pytest.raises(ConfigError, match="no certificate and its key in PEM"):
        tls_context(EdgeConfig(tls_cert=str(tmp_path / "no"), tls_key=str(tmp_path / "no")))
