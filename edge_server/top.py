"""What `tandem top` shows: two snapshots of an edge's status, and the rates between them."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edge_server.tally import Tally

Json = dict[str, Any]
"""A `status.Status` as JSON."""

MAX_ROWS = 30
_MINUTE_S, _HOUR_S = 60.0, 3600.0


def rates(before: Json, after: Json) -> Json:
    """Per second between two snapshots of one server; zeros where it was restarted between."""
    seconds: float = after["uptime_s"] - before["uptime_s"]
    if seconds <= 0:
        before, seconds = after, 1.0

    def per_second(name: str) -> float:
        gain: float = after[name] - before[name]
        return gain / seconds

    batches = after["batches"] - before["batches"]
    old, new = Tally(**before["total"]), Tally(**after["total"])
    lately = Tally(evaluated=new.evaluated - old.evaluated, accepted=new.accepted - old.accepted)
    had = {session["number"]: _written(session) for session in before["sessions"]}
    return {
        "seconds": seconds,
        "tokens_per_s": (new.written - old.written) / seconds,
        "rounds_per_s": (new.rounds - old.rounds) / seconds,
        "model_tokens_per_s": per_second("batch_tokens"),
        "batches_per_s": per_second("batches"),
        "jobs_per_batch": (after["batch_jobs"] - before["batch_jobs"]) / batches if batches else 0,
        "alpha": lately.alpha,
        "session_tokens_per_s": {
            str(session["number"]): (_written(session) - had.get(session["number"], 0)) / seconds
            for session in after["sessions"]
        },
    }  # fmt: skip


def _written(session: Json) -> int:
    return Tally(**session["tally"]).written


def frame(status: Json, now: Json) -> RenderableType:
    """One picture: the server, then the busiest of this client's sessions."""
    own, total = len(status["sessions"]), status["connected"] + status["waiting"]
    parts = [_head(status, now), _sessions(status, now) if own else "no sessions"]
    if own < total:
        parts.append(f"sessions of this token: {own} of {total}; the server shows no others")
    return Group(*parts)


def _head(status: Json, now: Json) -> RenderableType:
    state, style = "ready", "green"
    if status["draining"]:
        state, style = "draining", "yellow"
    elif not status["ready"]:
        state, style = "failing", "red"
    elif lost := status["replicas_lost"]:
        state, style = f"{lost} of {lost + status['replicas']} replicas lost", "red"
    title = Text.assemble(
        (status["model"], "bold"), "  ", (state, style), f"  up {duration(status['uptime_s'])}"
    )
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        f"tokens/s {now['tokens_per_s']:.1f}",
        f"rounds/s {now['rounds_per_s']:.1f}",
        f"alpha {share(now['alpha'])} now, {share(Tally(**status['total']).alpha)} since the start",
    )
    grid.add_row(
        f"batch {now['jobs_per_batch']:.1f} jobs",
        f"batches/s {now['batches_per_s']:.1f}",
        f"model {now['model_tokens_per_s']:.0f} tokens/s",
    )
    grid.add_row(
        f"queue {status['queue_jobs']} jobs",
        f"completions {status['completions']}",
        f"sessions {status['connected']} connected, {status['waiting']} waiting",
    )
    grid.add_row(*_memory(status))
    return Group(title, grid)


def _memory(status: Json) -> list[str]:
    used, capacity = status["cache_used_tokens"], status["cache_capacity_tokens"]
    cache = f"cache {capacity:,} tokens"
    if used is not None:
        cache = f"cache {used / capacity:.0%} of {capacity:,} tokens"
    gpu, line = status["gpu"], "gpu none"
    if gpu is not None:
        load = "" if gpu["utilization"] is None else f", {gpu['utilization']:.0%} busy"
        gib = [gpu[name] / 2**30 for name in ("used_bytes", "total_bytes")]
        line = f"gpu {gpu['name']} {gib[0]:.1f} of {gib[1]:.1f} GiB{load}"
    return [cache, f"evictions {status['evictions']}", line]


def _sessions(status: Json, now: Json) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("session", "state", "text", "tokens/s", "rounds", "gamma", "alpha", "idle"):
        table.add_column(name, justify="left" if name == "state" else "right")
    speeds = now["session_tokens_per_s"]
    busiest = sorted(
        status["sessions"], key=lambda s: (-speeds[str(s["number"])], s["idle_s"], s["number"])
    )
    for session in busiest[:MAX_ROWS]:
        tally = session["tally"]
        gamma = f"{tally['proposed'] / tally['rounds']:.1f}" if tally["rounds"] else "-"
        table.add_row(
            str(session["number"]),
            "connected" if session["connected"] else "waiting",
            f"{session['tokens']:,}",
            f"{speeds[str(session['number'])]:.1f}",
            f"{tally['rounds']:,}",
            gamma,
            share(session["alpha"]),
            duration(session["idle_s"]),
        )
    if len(busiest) > MAX_ROWS:
        table.add_row("…", f"{len(busiest) - MAX_ROWS} more")
    return table


def share(value: float | None) -> str:
    """A rate between 0 and 1, if there is one."""
    return "-" if value is None else f"{value:.2f}"


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h"
