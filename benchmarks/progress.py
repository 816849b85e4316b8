"""The progress bar of long measurements."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def progress_bar(console: Console, *, refreshes: bool = True) -> Progress:
    """What is done, how long it took and how long the rest will take.

    refreshes: by a thread that draws it ten times a second; without, whoever measures this process'
    CPU time draws it with `refresh` in between.
    """
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left:"), TimeRemainingColumn(), console=console, transient=True,
        auto_refresh=refreshes,
    )  # fmt: skip
