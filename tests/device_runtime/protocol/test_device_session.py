"""What a device's session takes from an edge, and what it refuses."""

from __future__ import annotations

import pytest

from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError, ErrorCode, RemoteError
from device_runtime.protocol.messages import Begun, Ending, Verdict, Welcome, encode
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import scheme_named
from device_runtime.protocol.schemes.base import Ask, Drafted
from tests.table_model import vocabulary_hash

VOCAB = 12
END = 7
BLOCK = [Drafted(3), Drafted(5)]
ENDING_BLOCK = [Drafted(3), Drafted(END)]


def welcome(model: str = "llm", num_ids: int = VOCAB, *, resumed: bool = False) -> bytes:
    hash_ = vocabulary_hash(min(VOCAB, num_ids))
    return encode(Welcome(model, b"r" * 16, resumed, num_ids, hash_, 512, 8, (END,)))


def begun_session() -> DeviceSession:
    session = DeviceSession(VOCAB, vocabulary_hash, "test")
    session.receive_welcome(welcome())
    session.append([1, 2])
    session.begin(Generation(scheme_named("coupled"), Sampling(), 1, (END,)))
    session.receive_begun(encode(Begun(2)))
    return session


@pytest.mark.parametrize(("model", "num_ids"), [("other", VOCAB), ("llm", VOCAB + 4)])
def test_a_text_stays_with_the_model_it_was_begun_with(model: str, num_ids: int) -> None:
    session = begun_session()
    session.receive_welcome(welcome(resumed=True))
    with pytest.raises(ConfigError, match=r"was begun with llm .* begin it anew"):
        session.receive_welcome(welcome(model, num_ids))


POSSIBLE = {
    # (block, bonus wanted): what may stand before each ending
    ("whole", True): {(0, Ending.REJECTION), (1, Ending.REJECTION), (2, Ending.TOKEN)},
    ("whole", False): {(0, Ending.REJECTION), (1, Ending.REJECTION), (2, Ending.NOTHING)},
    ("ending", True): {(0, Ending.REJECTION), (1, Ending.REJECTION), (2, Ending.NOTHING)},
    ("empty", True): {(0, Ending.TOKEN)},
    ("empty", False): {(0, Ending.NOTHING)},
}
BLOCKS = {"whole": BLOCK, "ending": ENDING_BLOCK, "empty": []}


@pytest.mark.parametrize(("name", "bonus"), list(POSSIBLE))
def test_a_verdict_that_no_honest_edge_gives_changes_nothing(name: str, bonus: bool) -> None:
    block = BLOCKS[name]
    for num_accepted in range(len(block) + 2):
        for ending in Ending:
            session = begun_session()
            session.round(block, Ask(), bonus)
            body = b"" if ending is Ending.NOTHING else b"\x04"
            verdict = encode(Verdict(0, 0, num_accepted, ending, body, ()))
            if (num_accepted, ending) in POSSIBLE[name, bonus]:
                assert session.receive_verdict(verdict, block).num_accepted == num_accepted
                continue
            with pytest.raises(RemoteError, match="tokens stand, then") as caught:
                session.receive_verdict(verdict, block)
            assert caught.value.code is ErrorCode.MALFORMED
            assert list(session.tokens.ids) == [1, 2]
