"""How long a block may be under each scheme: what it needs must fit a message and be read quickly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from device_runtime.protocol import lattice
from device_runtime.protocol.edge_session import EdgeSession
from device_runtime.protocol.errors import ConfigError, ErrorCode, LocalError
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.messages import MAX_GAMMA, Round, encode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import MAX_TOKEN_ID, Sampling
from device_runtime.protocol.schemes import SCHEMES, check_gamma
from device_runtime.protocol.schemes.base import Place, Scheme, Vocabulary
from device_runtime.protocol.wire import BitWriter
from tests.edge_examples import (
    BEGIN,
    FACTS,
    HELLO,
    PROMPT,
    RESUME_TOKEN,
    answer,
    prefix_hash,
    refused,
)

QWEN = Vocabulary(151_936)


def a_block(scheme: Scheme, vocab: Vocabulary, gamma: int) -> bytes:
    """Drafted from a flat law: evidence is never longer."""
    flat = ArrayLaw.dense(np.ones(vocab.num_ids))
    drafted = scheme.draft(flat, Place(0, 0), device_coins(0))
    bits = BitWriter()
    for _ in range(gamma):
        bits.put(drafted.token_id, vocab.id_bits)
    scheme.write_evidence(bits, [drafted] * gamma, vocab)
    return bits.getvalue()


def a_round(block: bytes, gamma: int, **more: object) -> Round:
    fields: dict[str, object] = {"base": 3, "prefix_hash": prefix_hash(PROMPT), "appended": ()}
    return Round(0, 0, gamma=gamma, num_draws=0, block=block, **(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SCHEMES)
def test_the_longest_block_over_a_large_vocabulary_fits_a_message(name: str) -> None:
    scheme = SCHEMES[name]
    gamma = scheme.max_gamma(QWEN)
    block = a_block(scheme, QWEN, gamma)
    # With a hundred tokens riding along, numbers as long as they get, and padding.
    data = encode(a_round(block + bytes(256), gamma, base=1 << 20, appended=(MAX_TOKEN_ID,) * 100))
    assert len(data) > len(block)


def test_a_whole_row_a_token_would_soon_fill_a_message() -> None:
    """At gamma 14 the rows alone are 4.25 MB: what the limit is there for."""
    dsd = SCHEMES["dsd"]
    assert dsd.max_gamma(QWEN) == 13
    with pytest.raises(LocalError):
        encode(a_round(a_block(dsd, QWEN, 14), 14))
    assert dsd.max_gamma(Vocabulary(8_192)) == MAX_GAMMA


@pytest.mark.parametrize("name", ["dsd", "qsv"])
def test_a_gamma_that_will_not_do_is_named_before_anything_is_sent(name: str) -> None:
    scheme = SCHEMES[name]
    limit = scheme.max_gamma(QWEN)
    assert limit < MAX_GAMMA
    check_gamma(scheme, limit, QWEN.num_ids)
    with pytest.raises(ConfigError, match=f"gamma is {limit + 1}; {name} .* at most {limit} "):
        check_gamma(scheme, limit + 1, QWEN.num_ids)


@pytest.mark.parametrize("name", sorted(SCHEMES.keys() - {"dsd", "qsv"}))
def test_other_schemes_allow_every_gamma_of_the_protocol(name: str) -> None:
    check_gamma(SCHEMES[name], MAX_GAMMA, QWEN.num_ids)


def test_an_edge_reads_no_number_of_a_block_that_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers of flat laws take an edge milliseconds each: a stranger may not send 64 at once."""
    qsv = SCHEMES["qsv"]
    session = EdgeSession(replace(FACTS, max_gamma=MAX_GAMMA, context_len=512), RESUME_TOKEN)
    answer(session, HELLO)
    answer(session, replace(BEGIN, scheme_code=qsv.code, sampling=Sampling()))
    vocab = Vocabulary(FACTS.num_ids)
    limit = qsv.max_gamma(vocab)
    num_read = 0

    def parts(code: lattice.LatticeCode, number: int) -> object:
        nonlocal num_read
        num_read += 1
        return read_one(code, number)

    read_one = lattice.LatticeCode.parts
    monkeypatch.setattr(lattice.LatticeCode, "parts", parts)
    too_long = a_round(a_block(qsv, vocab, limit + 1), limit + 1)
    assert refused(session, too_long) is ErrorCode.TOO_LARGE
    assert num_read == 0
    step = session.receive(encode(a_round(a_block(qsv, vocab, limit), limit)))
    assert step.job is not None
    assert num_read == limit
