"""The clock of an answer: what became certain together, and what came after."""

from __future__ import annotations

import time

import pytest

from device_runtime.protocol.detokenizer import Detokenizer
from device_runtime.transcript import FinishReason, Transcript
from device_runtime.turn import Committed, Origin


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 10.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def a_transcript(*stops: str, max_tokens: int = 40) -> Transcript:
    spelled = Detokenizer(lambda token_id: bytes([97 + token_id]), stops)
    return Transcript(spelled, frozenset(), max_tokens, started_s=9.0)


def write(transcript: Transcript, clock: Clock, *rounds: tuple[int, ...]) -> None:
    """One round a second."""
    for ids in rounds:
        clock.now_s += 1.0
        transcript.add(Committed(token_id, Origin.ACCEPTED) for token_id in ids)


def test_a_round_s_tokens_are_the_first_ones_together(clock: Clock) -> None:
    answer = a_transcript()
    write(answer, clock, (), (1, 2, 3), (4,), (5, 6))
    assert answer.num_first == 3
    assert answer.ttft_s == 3.0
    assert answer.tpot_s == pytest.approx(2 / 3)  # three tokens in the two seconds after it


def test_a_stream_s_time_per_token_is_that_between_tokens(clock: Clock) -> None:
    answer = a_transcript()
    write(answer, clock, (1,), (2,), (3,))
    assert (answer.num_first, answer.tpot_s) == (1, 1.0)


def test_an_answer_of_one_round_has_no_time_per_token(clock: Clock) -> None:
    answer = a_transcript(max_tokens=2)
    assert answer.tpot_s is None
    write(answer, clock, (1, 2, 3))
    assert answer.finish_reason is FinishReason.LENGTH
    assert (answer.num_first, answer.tpot_s) == (2, None)


def test_the_tokens_of_a_stop_string_took_their_time(clock: Clock) -> None:
    answer = a_transcript("def")
    write(answer, clock, (1,), (2,), (3,), (4,), (5,))
    assert answer.token_ids == [1, 2]
    assert answer.tpot_s == 1.0
