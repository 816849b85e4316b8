"""A progress bar takes no CPU time of a process that is measured."""

from __future__ import annotations

import io
import threading

from rich.console import Console

from benchmarks.progress import progress_bar


def test_no_thread_draws_where_cpu_time_is_measured() -> None:
    screen = io.StringIO()
    before = threading.active_count()
    with progress_bar(Console(file=screen, force_terminal=True), refreshes=False) as progress:
        bar = progress.add_task("", total=2)
        assert threading.active_count() == before
        progress.update(bar, description="an answer", refresh=True)
        assert "an answer" in screen.getvalue()
    with progress_bar(Console(file=io.StringIO(), force_terminal=True)):
        assert threading.active_count() == before + 1
