"""Padded generations: every message of one direction has the same size."""

from __future__ import annotations

import numpy as np
import pytest

from device_runtime import turn as turn_module
from device_runtime.protocol import messages
from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.messages import Begin, Cancel, Kind, More, Round, Stream, encode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.turn import Counts, Turn
from tests.table_model import TableDrafter, TableEdge, open_session, random_table

VOCAB, GAMMA, PAD = 300, 4, 256
LLM = random_table(VOCAB, seed=1)
SLM = (LLM + random_table(VOCAB, seed=2, spread=1.0)).astype(np.float32)


class Overheard:
    """A device and an edge, and the kind and size of every message between them."""

    def __init__(self, scheme: str, pad_to_bytes: int) -> None:
        self.edge = TableEdge(LLM)
        self.session = open_session(self.edge)
        self.session.append([3, 1, 4])
        self.generation = Generation(SCHEMES[scheme], Sampling(), 7, (), pad_to_bytes)
        self.up: list[tuple[int, int]] = []
        self.down: list[tuple[int, int]] = []
        self.session.receive_begun(self.exchange(self.session.begin(self.generation))[0])

    def exchange(self, data: bytes) -> list[bytes]:
        answers = self.edge.answers(data)
        self.up.append((data[1], len(data)))
        self.down += [(answer[1], len(answer)) for answer in answers]
        return answers

    def write(self, num_tokens: int) -> Counts:
        """Rounds in which one draw is asked for at a time, so that many need more."""
        counts = Counts()
        turn = Turn(
            self.session, TableDrafter(SLM), self.generation, device_coins(5), counts, lambda: 1
        )
        first = len(self.session.tokens)
        while len(self.session.tokens) < first + num_tokens:
            data: bytes | None = turn.draft(GAMMA)
            while data is not None:
                (answer,) = self.exchange(data)
                data = turn.receive(answer).send
        return counts

    def sizes(self) -> tuple[set[int], set[int]]:
        up, down = ({size for _, size in way} for way in (self.up, self.down))
        return up, down


@pytest.fixture
def no_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole row is the one answer that may need more than a padded message."""
    monkeypatch.setattr(turn_module, "MAX_DRAW_REQUESTS", 1000)


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
def test_all_messages_of_a_padded_generation_have_one_size(scheme: str, no_whole_row: None) -> None:
    overheard = Overheard(scheme, PAD)
    counts = overheard.write(200)
    assert min(counts.accepted, counts.rejected, counts.bonus) > 0
    assert (counts.more_requests > 0) == (scheme == "dssd-thinned")
    assert overheard.sizes() == ({PAD}, {PAD})
    assert {kind for kind, _ in overheard.up} >= {Kind.BEGIN, Kind.ROUND}
    assert (Kind.MORE in {kind for kind, _ in overheard.up}) == (counts.more_requests > 0)


@pytest.mark.parametrize("scheme", ["dssd-thinned", "coupled"])
def test_without_padding_sizes_tell_much(scheme: str, no_whole_row: None) -> None:
    overheard = Overheard(scheme, 0)
    overheard.write(200)
    up, down = overheard.sizes()
    assert len(up) > 1 and len(down) > 1


@pytest.mark.parametrize("kind", [Begin, Round, More])
def test_the_check_fails_when_one_kind_of_message_is_not_padded(
    kind: type, no_whole_row: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(message: messages.Message, pad_to_bytes: int = 0) -> bytes:
        return encode(message, 0 if isinstance(message, kind) else pad_to_bytes)

    monkeypatch.setattr("device_runtime.protocol.device_session.encode", forgetful)
    overheard = Overheard("dssd-thinned", PAD)
    overheard.write(200)
    assert overheard.sizes() != ({PAD}, {PAD})


def test_a_padded_stream_of_the_llm_alone_has_one_size() -> None:
    overheard = Overheard("coupled", PAD)
    session = overheard.session
    for data in overheard.exchange(session.stream(20)):
        session.receive_tokens(data)
    assert len(session.tokens) == 3 + 20
    assert overheard.edge.session.receive(session.cancel()).reply is None
    assert len(session.cancel()) == PAD
    assert overheard.sizes() == ({PAD}, {PAD})
    assert {kind for kind, _ in overheard.down} == {Kind.BEGUN, Kind.TOKENS}
    assert [type(messages.decode(data)) for data in (session.stream(1), session.cancel())] == [
        Stream, Cancel,
    ]  # fmt: skip
