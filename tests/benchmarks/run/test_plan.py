"""The order of answers, arms by their names, and what is still missing."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest

from benchmarks.prompts import PROMPT_SET
from benchmarks.record import Record
from benchmarks.run import presets
from benchmarks.run.plan import Arm, Plan, Task, missing
from benchmarks.run.presets import FULL, PAPERS, PRESETS, WORST, WORST_LINK
from benchmarks.schemes import SAMPLINGS
from device_runtime.protocol.errors import ConfigError
from hw_profiles import load_link

PLAN = Plan(
    (Arm.parse("edge"), Arm.parse("device"), Arm.parse("dssd/2")), ("lte", "ethernet"),
    ("T=1",), PROMPT_SET[:3], repeats=4, max_tokens=8,
)  # fmt: skip


def a_record(task: Task) -> Record:
    values = {
        "link": task.link, "sampling": task.sampling, "arm": task.arm.name,
        "prompt": task.prompt.name, "seed": task.seed,
    }  # fmt: skip
    return Record.of("run", {}, values, repeat=task.repeat, is_warmup=task.is_warmup)


def test_an_arm_is_named_by_what_it_does() -> None:
    arm = Arm.parse("dssd-thinned/8")
    assert (arm.mode, arm.scheme, arm.gamma, arm.lossless) == ("split", "dssd-thinned", 8, True)
    assert Arm.parse("edge-draft").edge_drafts and Arm.parse("edge-draft").lossless
    assert not Arm.parse("device").lossless
    assert not Arm.parse("u-hlm/4").lossless


@pytest.mark.parametrize("text", ["", "dssd", "dssd/", "dssd/0", "dssd/65", "dssd/-1", "nosuch/4"])
def test_what_is_no_arm_is_refused_with_what_is(text: str) -> None:
    with pytest.raises(ConfigError, match="SCHEME/GAMMA such as dssd-thinned/4"):
        Arm.parse(text)


def test_every_arm_meets_every_prompt_as_often_as_there_are_repeats() -> None:
    tasks = list(PLAN.tasks("lte"))
    counts = Counter((t.arm.name, t.prompt.name) for t in tasks if not t.is_warmup)
    assert set(counts.values()) == {4} and len(counts) == 9
    assert sum(task.is_warmup for task in tasks) == 3
    assert len(tasks) * len(PLAN.links) == PLAN.num_tasks
    assert sum(not task.is_warmup for task in tasks) * len(PLAN.links) == PLAN.num_answers


def test_arms_alternate_within_each_prompt_in_changing_order() -> None:
    tasks = [task for task in PLAN.tasks("lte") if not task.is_warmup]
    rounds = [list(same) for _, same in groupby(tasks, lambda t: (t.repeat, t.prompt.name))]
    orders = [tuple(task.arm.name for task in same) for same in rounds]
    assert all(len(set(order)) == 3 for order in orders)
    assert len(set(orders)) > 1
    assert all(len({task.seed for task in same}) == 1 for same in rounds)
    assert len({task.seed for task in tasks}) == 12


def test_arms_share_the_devices_coins_and_prompts_do_not() -> None:
    tasks = [task for task in PLAN.tasks("lte") if not task.is_warmup]
    assert len({(task.seed, task.device_seed) for task in tasks}) == 12
    assert len({task.device_seed for task in tasks}) == 12
    # Where a JSON reader keeps every digit, and far from the generation's own.
    assert max(task.device_seed for task in tasks) < 2**53
    assert not {task.device_seed for task in tasks} & {task.seed for task in tasks}


def test_the_order_is_the_same_every_time() -> None:
    assert list(PLAN.tasks("lte")) == list(PLAN.tasks("lte"))


def test_what_a_file_holds_is_not_missing() -> None:
    tasks = list(PLAN.tasks("lte"))
    answers = [task for task in tasks if not task.is_warmup]
    done = [a_record(task) for task in answers[:5] + answers[9:11]]
    left = missing(tasks, done)
    assert [task for task in left if not task.is_warmup] == answers[5:9] + answers[11:]
    assert missing(tasks, [a_record(task) for task in PLAN.tasks("ethernet")]) == tasks


def test_arms_that_go_on_warm_up_again_and_no_others() -> None:
    """Edges, links and the device's model start anew with each run."""
    tasks = list(PLAN.tasks("lte"))
    last = next(task for task in reversed(tasks) if task.arm.name == "dssd/2")
    left = missing(tasks, [a_record(task) for task in tasks if task is not last])
    assert [(task.arm.name, task.is_warmup) for task in left] == [
        ("dssd/2", True), ("dssd/2", False)
    ]  # fmt: skip
    assert left[-1] is last
    assert missing(tasks, [a_record(task) for task in tasks]) == []
    assert missing(tasks, [a_record(task) for task in tasks if not task.is_warmup]) == []


@pytest.mark.parametrize("plan", PRESETS.values(), ids=list(PRESETS))
def test_presets_name_what_exists(plan: Plan) -> None:
    assert all(load_link(link).name == link for link in plan.links)
    assert set(plan.samplings) <= SAMPLINGS.keys()
    keys = [task.key for link in plan.links for task in plan.tasks(link)]
    assert len(set(keys)) == len(keys) == plan.num_tasks


def test_the_full_grid_is_as_long_as_it_says() -> None:
    text = Path(presets.__file__).read_text(encoding="utf-8")
    assert f"A night: {FULL.num_tasks:,} answers" in text


def test_the_papers_grid_is_the_papers() -> None:
    links = [load_link(link) for link in PAPERS.links]
    assert {link.rtt_s.value for link in links} == {0.0, 0.02, 0.05}
    assert {link.down_bps.value for link in links} == {10e6, 50e6, 100e6}
    assert {arm.gamma for arm in PAPERS.arms if arm.scheme} == {2, 4, 6, 8}
    worst = load_link(WORST_LINK)
    assert (worst.rtt_s.value, worst.down_bps.value, worst.up_bps.value) == (0.05, 10e6, 1e6)
    assert {arm.gamma for arm in WORST.arms if arm.scheme} == {8}
    assert len(WORST.prompts) >= 20
