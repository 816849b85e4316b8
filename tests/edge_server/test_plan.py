"""Which jobs run next, and how much of each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_runtime.protocol.messages.fields import MAX_ROWS
from edge_server.plan import ROUND_TOKENS, Limits, Share, Waiting, plan

LIMITS = Limits(max_rows=8, max_tokens=100, prefill_tokens=40, max_cached=10_000)


def a_round(num_new: int = 5, num_tokens: int = 50) -> Waiting:
    return Waiting(num_new, num_tokens, is_round=True)


def prompt(num_new: int) -> Waiting:
    return Waiting(num_new, num_new, is_round=False)


def test_the_rows_a_round_may_ask_for_are_computed_in_one_go() -> None:
    """Each row is that of a new token, or of one that runs again."""
    assert MAX_ROWS <= ROUND_TOKENS


def test_nothing_waits_nothing_runs() -> None:
    assert plan([], LIMITS) == []


def test_rounds_run_together_first_come_first_served() -> None:
    waiting = [a_round() for _ in range(10)]
    assert plan(waiting, LIMITS) == [Share(i, 5) for i in range(8)]


def test_a_long_prompt_alone_takes_the_whole_batch_and_no_more() -> None:
    assert plan([prompt(1000)], LIMITS) == [Share(0, 100)]


def test_a_prompt_runs_in_chunks_beside_rounds() -> None:
    shares = plan([a_round(), prompt(1000), a_round()], LIMITS)
    assert shares == [Share(0, 5), Share(2, 5), Share(1, 40)]


def test_a_prompt_at_the_front_runs_even_if_rounds_would_fill_every_row() -> None:
    shares = plan([prompt(1000), *(a_round() for _ in range(30))], LIMITS)
    assert shares[0] == Share(0, 40)
    assert len(shares) == LIMITS.max_rows


def test_rounds_leave_a_prompt_its_share() -> None:
    shares = plan([*(a_round(20) for _ in range(7)), prompt(1000)], LIMITS)
    assert shares == [Share(0, 20), Share(1, 20), Share(2, 20), Share(7, 40)]


def test_a_short_prompt_leaves_the_rest_of_its_share_to_the_next() -> None:
    assert plan([a_round(), prompt(10), prompt(500)], LIMITS)[1:] == [Share(1, 10), Share(2, 30)]


def test_the_cache_bounds_a_batch_by_whole_blocks() -> None:
    limits = replace(LIMITS, max_cached=128, cache_block=32)
    assert [s.index for s in plan([a_round(num_tokens=33) for _ in range(5)], limits)] == [0, 1]


def test_a_job_whose_tokens_are_all_cached_costs_no_room() -> None:
    waiting = [a_round(100), a_round(0), a_round(1)]
    assert plan(waiting, LIMITS) == [Share(0, 100), Share(1, 0)]


def test_a_round_too_large_for_any_batch_runs_alone() -> None:
    assert plan([a_round(120), a_round(5)], LIMITS) == [Share(0, 120)]


def test_length_aware_batching_takes_rounds_of_like_length() -> None:
    limits = replace(LIMITS, length_ratio=2.0)
    lengths = (100, 900, 200, 49, 50, 201, 120)
    waiting = [a_round(num_tokens=length) for length in lengths]
    assert [share.index for share in plan(waiting, limits)] == [0, 2, 4, 6]
    assert [share.index for share in plan(waiting, LIMITS)] == list(range(7))


def test_beside_a_prompt_the_first_round_sets_the_length() -> None:
    limits = replace(LIMITS, length_ratio=2.0)
    waiting = [prompt(1000), a_round(num_tokens=30), a_round(num_tokens=900), a_round()]
    assert [share.index for share in plan(waiting, limits)] == [0, 1, 3]


jobs = st.lists(
    st.one_of(
        st.builds(a_round, st.integers(0, 60), st.integers(60, 300)),
        st.builds(prompt, st.integers(61, 300)),
    ),
    min_size=1,
    max_size=20,
)


@given(jobs, st.sampled_from([0.0, 1.5]))
def test_a_batch_is_never_empty_and_keeps_the_limits(
    waiting: list[Waiting], length_ratio: float
) -> None:
    limits = replace(LIMITS, max_cached=900, cache_block=32, length_ratio=length_ratio)
    shares = plan(waiting, limits)
    assert shares
    assert len({share.index for share in shares}) == len(shares) <= limits.max_rows
    assert sum(share.num_new for share in shares) <= limits.max_tokens
    assert sum(waiting[share.index].num_tokens for share in shares) <= limits.max_cached
    for share in shares:
        job = waiting[share.index]
        assert share.num_new == job.num_new or not job.is_round
        assert 0 < share.num_new <= job.num_new or job.num_new == 0


@pytest.mark.parametrize("num_rounds", [0, 3, 30])
def test_every_job_is_done_in_the_end_whatever_else_comes(num_rounds: int) -> None:
    """Rounds come again as soon as they are done, thirty of them to eight rows a batch."""
    queue: list[tuple[str, Waiting]] = [("prompt", prompt(400)), ("other", prompt(90))]
    queue += [(f"round {i}", a_round()) for i in range(num_rounds)]
    done: dict[str, int] = {}
    for number in range(1, 100):
        shares = {share.index: share.num_new for share in plan([job for _, job in queue], LIMITS)}
        left = [entry for i, entry in enumerate(queue) if i not in shares]
        for i, num_new in shares.items():
            name, job = queue[i]
            if num_new < job.num_new:
                left.append((name, replace(job, num_new=job.num_new - num_new)))
            else:
                done.setdefault(name, number)
                left += [(name, a_round())] if job.is_round else []
        queue = left
    assert done["other"] <= 6 + num_rounds
    assert done["prompt"] <= 16 + 2 * num_rounds
    assert all(done[f"round {i}"] <= 6 for i in range(num_rounds))
