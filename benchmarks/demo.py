"""`tandem demo`: both halves on this machine, with the pair of models that ships with the project.

Exports the SLM (once), starts the edge as a process of its own, writes after the same prompt in
three ways and compares them. Accepted, corrected and bonus tokens are told apart by colour, or by
marks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.edge_process import EdgeProcess
from benchmarks.machine import collect
from benchmarks.overhead import Direction, wire_bytes
from benchmarks.record import RESULTS_FILE, Record, write
from device_runtime.bundle import load_manifest
from device_runtime.link import EdgeLink, LinkSettings
from device_runtime.protocol.errors import BundleError, TandemError
from device_runtime.settings import RuntimeSettings
from device_runtime.transcript import Piece
from device_runtime.turn import Origin
from device_runtime.writer import Answer, Device, Mode, WriteConfig, link_to
from device_runtime.writing_options import add_sampling_arguments, config_from

ROOT = Path(__file__).parents[1]
PAIR = ROOT / "export" / "demo_pair"
CACHE = ROOT / ".demo"
PROMPT = "Once upon a time there was a king who had three daughters, and the youngest"

EXPORT = ("--graph", "fused", "--weights", "int4", "--calibration", "own")
"""As for a board. Beside fp32 int4 costs about 0.014 of acceptance (`tandem bench weights`)."""

STYLES = {
    Origin.ACCEPTED: ("green", "{}"),
    Origin.CORRECTED: ("bold yellow", "[{}]"),
    Origin.BONUS: ("bold cyan", "({})"),
    Origin.UNVERIFIED: ("default", "{}"),
}
"""Colour of a token, and its marks where there is no colour."""

NOTE = (
    "alpha: accepted per judged draft; drafts after a rejected one were never judged. Bytes per "
    "token: payload of the messages / all bytes down to IP, without TLS; the prompt's way up "
    "included. One machine plays both sides: the times say nothing about a board or a link."
)

TITLES: dict[Mode, str] = {
    "split": "split: the device drafts, the edge verifies",
    "edge": "edge only: the LLM alone, streamed",
    "device": "device only: the SLM alone, unverified",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `tandem demo`."""
    parser.add_argument("prompt", nargs="?", default=PROMPT, help="how the story begins")
    add_sampling_arguments(parser)
    parser.set_defaults(max_tokens=120)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")


def run(args: argparse.Namespace) -> int:
    """Show the demo; exit code 0."""
    console = Console(highlight=False, soft_wrap=True, quiet=args.json)
    args.edge, args.edge_only, args.device_only = "loopback", False, False
    config = config_from(args)
    with EdgeProcess(PAIR / "llm") as edge:
        bundle = exported_slm(console)
        device = Device(bundle, RuntimeSettings())
        link = LinkSettings(edge.ready())
        answers = asyncio.run(_write_all(device, link, args.prompt, config, console))
    summaries = [answer.summary() for answer in answers]
    console.print(comparison(summaries))
    console.print(NOTE)
    facts = collect()
    results = CACHE / RESULTS_FILE
    write(results, [Record.of("demo", facts, summary) for summary in summaries])
    console.print(f"results: {results}")
    if args.json:
        print(json.dumps(summaries, ensure_ascii=False))
    return 0


def exported_slm(console: Console) -> Path:
    """The bundle of the shipped SLM; exported on the first call, and again when the SLM changes."""
    folder = CACHE / "slm"
    stamp, wanted = CACHE / "slm.stamp", "\n".join((*EXPORT, _fingerprint(PAIR / "slm")))
    try:
        load_manifest(folder)
        if stamp.read_text() == wanted:
            return folder
    except (BundleError, FileNotFoundError):
        pass
    CACHE.mkdir(exist_ok=True)
    console.print("exporting the small model to ONNX (once) …")
    command = [sys.executable, "-m", "device_runtime", "export", str(PAIR / "slm")]
    command += ["--out", str(folder), "--force", "--json", *EXPORT]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise TandemError("the export of the shipped SLM failed; its words are above")
    stamp.write_text(wanted)
    return folder


def _fingerprint(checkpoint: Path) -> str:
    """Names, sizes and times of the files: enough to see that the shipped model changed."""
    files = sorted(checkpoint.iterdir())
    return "\n".join(f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)


async def _write_all(
    device: Device, link: LinkSettings, prompt: str, config: WriteConfig, console: Console
) -> list[Answer]:
    prompt_ids = device.encode(prompt, system=None)
    answers = []
    for mode, title in TITLES.items():
        answer = Answer(device, replace(config, mode=mode), prompt_ids)
        console.rule(title, align="left")
        console.print(Text(prompt, style="dim"), end="")
        device.drafter.truncate(0)
        if mode == "device":
            await _show(answer, None, console)
        else:
            async with link_to(link, device) as edge:
                await _show(answer, edge, console)
        answers.append(answer)
    show_legend(console)
    return answers


async def _show(answer: Answer, edge: EdgeLink | None, console: Console) -> None:
    async for piece in answer.pieces(edge):
        console.print(styled(piece, answer.config.mode, marks=needs_marks(console)), end="")
    console.print("\n")


def needs_marks(console: Console) -> bool:
    """Whether colours would not be seen: NO_COLOR, a dumb terminal, no terminal at all."""
    return console.no_color or console.color_system is None


def styled(piece: Piece, mode: Mode, marks: bool) -> Text:
    """A piece with its colour or its marks; only the split mode has anything to tell apart."""
    if mode != "split":
        return Text(piece.text)
    style, mark = STYLES[piece.origin]
    body = piece.text.strip()
    text = piece.text.replace(body, mark.format(body)) if marks and body else piece.text
    return Text(text, style=style)


def show_legend(console: Console) -> None:
    """What the colours, or the marks, stand for."""
    legend = Text("In the split text: ")
    for origin in (Origin.ACCEPTED, Origin.CORRECTED, Origin.BONUS):
        legend.append(styled(Piece(origin.value, origin), "split", needs_marks(console)))
        legend.append("  ")
    console.print(legend)


def comparison(summaries: list[dict[str, Any]]) -> Table:
    """One column a mode, one row a figure."""
    table = Table("", *(str(summary["mode"]) for summary in summaries))
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("scheme", lambda s: str(s["scheme"] or "–")),
        ("tokens", lambda s: str(len(s["token_ids"]))),
        ("rounds", lambda s: str(s["rounds"] or "–")),
        ("alpha", lambda s: _number(s["alpha"], "{:.2f}")),
        ("tokens per round", lambda s: _number(_per(s, s["rounds"]), "{:.2f}")),
        ("bytes up per token", lambda s: _bytes_per_token(s, Direction.UP)),
        ("bytes down per token", lambda s: _bytes_per_token(s, Direction.DOWN)),
        ("time to first token, ms", lambda s: _number(s["ttft_s"], "{:.1f}", 1e3)),
        ("time per token, ms", lambda s: _number(s["tpot_s"], "{:.1f}", 1e3)),
    ]
    for name, figure in rows:
        table.add_row(name, *(figure(summary) for summary in summaries))
    return table


def _number(value: float | None, form: str, scale: float = 1.0) -> str:
    return "–" if value is None else form.format(value * scale)


def _per(summary: dict[str, Any], count: int) -> float | None:
    return len(summary["token_ids"]) / count if count else None


def _bytes_per_token(summary: dict[str, Any], direction: Direction) -> str:
    """Payload / with headers; the prompt's upload is part of it."""
    payload = summary[f"bytes_{direction.value}"]
    frames = summary[f"frames_{direction.value}"]
    tokens = len(summary["token_ids"])
    if not frames:
        return "–"
    on_wire = frames * wire_bytes(payload // frames, direction, tls=False)
    return f"{payload / tokens:.1f} / {on_wire / tokens:.1f}"
