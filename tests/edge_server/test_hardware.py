"""Who goes first when threads want the same core."""

from __future__ import annotations

import os

import pytest

from edge_server.hardware import interrupting_nobody

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux schedules so")


def test_a_thread_interrupts_nobody_until_it_is_done() -> None:
    before = os.sched_getscheduler(0)
    with interrupting_nobody():
        assert os.sched_getscheduler(0) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == before


def test_where_it_may_not_be_asked_for_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: object) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(os, "sched_setscheduler", forbid)
    before = os.sched_getscheduler(0)
    with interrupting_nobody():
        assert os.sched_getscheduler(0) == before
