"""`dsd`, `tk-slt`, `sqs` and `qsv`: what goes up, what rounding costs, what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from device_runtime.protocol.device_session import Generation
from device_runtime.protocol.errors import ErrorCode, RemoteError
from device_runtime.protocol.law import ArrayLaw, Law, overlap
from device_runtime.protocol.messages import More, encode
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.dsd import WholeRow
from device_runtime.protocol.schemes.known_draft import DraftCodec, IntegerLaw, residual
from device_runtime.protocol.schemes.sqs import Lattice
from device_runtime.protocol.schemes.tk_slt import Pairs, most_probable
from device_runtime.protocol.schemes.weights import from_indices, to_indices, to_weights
from device_runtime.protocol.wire import BitReader, BitWriter
from device_runtime.turn import Counts, Turn
from tests.table_model import TableDrafter, TableEdge, open_session, random_table

VOCAB = Vocabulary(1_000)
CODECS: dict[str, DraftCodec] = {
    "dsd": WholeRow(),
    "tk-slt": Pairs(32),
    "tk-slt-nucleus": Pairs(1_024, share=0.9),
    "sqs": Lattice(240, 32),
    "qsv": Lattice(240),
}
NAMES = list(CODECS)


def some_law(seed: int, num_ids: int = VOCAB.num_ids, steepness: float = 1.3) -> ArrayLaw:
    """A law whose probabilities fall as a power of the rank, over shuffled ids."""
    rng = np.random.default_rng(seed)
    return ArrayLaw.dense(np.power(1.0 + rng.permutation(num_ids), -steepness).astype(np.float64))


def sent(
    codec: DraftCodec, drafting: IntegerLaw, vocab: Vocabulary = VOCAB
) -> tuple[IntegerLaw, int]:
    """What the edge reads, and the bits it took up to a whole byte."""
    bits = BitWriter()
    codec.write(bits, drafting, vocab)
    data = bits.getvalue()
    reader = BitReader(data)
    received = codec.read(reader, vocab)
    reader.finish()
    return received, 8 * len(data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("law", [some_law(0), some_law(1, 3), ArrayLaw.one_hot(999)])
def test_both_ends_have_the_same_drafting_law(name: str, law: Law) -> None:
    drafting = CODECS[name].rounded(law)
    received, _ = sent(CODECS[name], drafting)
    assert received.ids.tolist() == drafting.ids.tolist()
    assert received.law().probs.tobytes() == drafting.law().probs.tobytes()
    assert drafting.weights.min() >= 1


@pytest.mark.parametrize("name", NAMES)
def test_drafts_come_from_the_rounded_law(name: str) -> None:
    q = some_law(2)
    drafting = CODECS[name].rounded(q).law()
    coins, same_coins = device_coins(3), device_coins(3)
    for _ in range(50):
        drafted = SCHEMES[name].draft(q, Place(0, 0), coins)
        assert drafted.token_id == same_coins.draw(drafting, 1)[0]


def test_a_row_of_dsd_costs_sixteen_bits_an_id_and_almost_no_acceptance() -> None:
    q = some_law(4)
    drafting = WholeRow().rounded(q)
    received, num_bits = sent(WholeRow(), drafting)
    assert num_bits == 16 * VOCAB.num_ids
    assert overlap(q, received.law()) > 0.9998


def test_pairs_cost_an_id_and_sixteen_bits_each() -> None:
    drafting = Pairs(32).rounded(some_law(5))
    _, num_bits = sent(Pairs(32), drafting)
    count_bits = 2 * (32).bit_length() - 1
    assert num_bits == 8 * math.ceil((32 * (16 + 10) + count_bits) / 8)


def test_pairs_hold_the_most_probable_ids() -> None:
    q = some_law(6)
    drafting = Pairs(32).rounded(q)
    assert set(drafting.ids.tolist()) == set(np.argsort(q.probs)[-32:].tolist())
    kept_mass = q.prob(drafting.ids).sum()
    assert overlap(q, drafting.law()) == pytest.approx(kept_mass, abs=1e-3)


def test_ties_go_to_the_lower_id() -> None:
    assert most_probable(ArrayLaw.dense(np.ones(10)), 3).tolist() == [0, 1, 2]


def test_a_nucleus_holds_its_share_and_no_id_too_many() -> None:
    q = some_law(7)
    drafting = Pairs(1_024, share=0.9).rounded(q)
    probs = np.sort(q.prob(drafting.ids))
    assert probs.sum() >= 0.9 > probs[1:].sum()


def test_a_nucleus_counts_its_share_of_all_of_q() -> None:
    """Cut to few ids first, it must not take the share of what is left only."""
    q = some_law(8)
    assert len(Pairs(8, share=0.9).rounded(q).ids) == 8


@pytest.mark.parametrize("resolution", [240, 720])
def test_a_finer_lattice_accepts_more(resolution: int) -> None:
    q = some_law(9)
    coarse, fine = Lattice(resolution).rounded(q), Lattice(3 * resolution).rounded(q)
    assert overlap(q, coarse.law()) < overlap(q, fine.law())
    assert coarse.weights.sum() == resolution


def test_weights_come_back_from_their_indices() -> None:
    probs = np.concatenate([some_law(10).probs, [0.0, 1e-30]])
    weights = to_weights(probs)
    assert from_indices(to_indices(weights)).tolist() == weights.tolist()
    assert weights.max() == 2**35
    relative = weights[weights > 0] / 2**35 * probs.max() / probs[weights > 0]
    assert 1 - 2**-11 < relative.min() <= relative.max() <= 1
    assert weights[-2:].tolist() == [0, 0]


def test_the_residual_of_equal_laws_is_the_law() -> None:
    p = some_law(11, 4)
    assert residual(p, p) is p


# Bytes from a stranger


def block_of(*fields: tuple[int, int]) -> BitReader:
    """A block of (value, number of bits)."""
    bits = BitWriter()
    for value, num_bits in fields:
        bits.put(value, num_bits)
    return BitReader(bits.getvalue())


def pair_block(count: int, ids: Sequence[int], indices: Sequence[int]) -> BitReader:
    bits = BitWriter()
    bits.put_gamma(count - 1)
    for token_id in ids:
        bits.put(token_id, VOCAB.id_bits)
    for index in indices:
        bits.put(index, 16)
    return BitReader(bits.getvalue())


BROKEN: dict[str, tuple[DraftCodec, Callable[[], BitReader]]] = {
    "an empty row": (WholeRow(), lambda: block_of((0, 16_000))),
    "a short row": (WholeRow(), lambda: block_of((1, 15_992))),
    "a weight beyond the grid": (WholeRow(), lambda: block_of((0xFFFF, 16_000))),
    "too many pairs": (Pairs(32), lambda: pair_block(33, range(33), [9] * 33)),
    "more pairs than ids": (Pairs(9_999), lambda: pair_block(1_001, [0] * 1_001, [9] * 1_001)),
    "a billion pairs": (Pairs(1 << 31), lambda: pair_block(1 << 30, [1], [1])),
    "pairs out of order": (Pairs(32), lambda: pair_block(2, [5, 4], [9, 9])),
    "a pair twice": (Pairs(32), lambda: pair_block(2, [5, 5], [9, 9])),
    "an id out of range": (Pairs(32), lambda: pair_block(1, [1_000], [9])),
    "a pair without weight": (Pairs(32), lambda: pair_block(2, [4, 5], [0, 9])),
    "a pair's weight beyond the grid": (Pairs(32), lambda: pair_block(1, [4], [0xFFFF])),
    "a number out of range": (Lattice(240, 32), lambda: block_of(((1 << 600) - 1, 600))),
    "a short number": (Lattice(240), lambda: block_of((0, 8))),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_evidence_is_malformed(case: str) -> None:
    codec, block = BROKEN[case]
    with pytest.raises(RemoteError) as refused:
        codec.read(block(), VOCAB)
    assert refused.value.code is ErrorCode.MALFORMED


@pytest.mark.parametrize("name", NAMES)
def test_a_token_without_weight_in_its_law_is_malformed(name: str) -> None:
    """It would be accepted with certainty: the law would not be p."""
    scheme = SCHEMES[name]
    drafting = CODECS[name].rounded(ArrayLaw.one_hot(3))
    bits = BitWriter()
    scheme.write_evidence(bits, [Drafted(3, drafting)], VOCAB)
    with pytest.raises(RemoteError, match="no weight"):
        scheme.read_evidence(BitReader(bits.getvalue()), [4], VOCAB)


@pytest.mark.parametrize("name", NAMES)
def test_random_bits_are_evidence_or_malformed(name: str) -> None:
    rng = np.random.default_rng(12)
    vocab = Vocabulary(20)
    for _ in range(300):
        data = rng.bytes(int(rng.integers(0, 60)))
        try:
            (drafted,) = SCHEMES[name].read_evidence(BitReader(data), [7], vocab)
        except RemoteError:
            continue
        assert drafted.evidence.law().prob(np.array([7]))[0] > 0


@pytest.mark.parametrize("name", [*NAMES, "greedy-draft", "coupled"])
def test_no_more_draws_are_given_where_the_replacement_was_sent(name: str) -> None:
    """Such a request holds no evidence; nobody honest sends it."""
    edge = TableEdge(random_table(8, seed=1))
    session = open_session(edge)
    session.append([3])
    generation = Generation(SCHEMES[name], Sampling(), seed=1, end_ids=())
    session.receive_begun(edge.answer(session.begin(generation)))
    drafter = TableDrafter(random_table(8, seed=2))
    turn = Turn(session, drafter, generation, device_coins(1), Counts())
    while turn.counts.rejected == 0:
        turn.receive(edge.answer(turn.draft(4)))
    tokens = edge.session.tokens
    more = More(
        0, turn.counts.rounds - 1, len(tokens), tokens.prefix_hash(len(tokens)), 0, 1, False
    )
    with pytest.raises(RemoteError) as refused:
        edge.answer(encode(more))
    assert refused.value.code is ErrorCode.UNEXPECTED_MESSAGE
    turn.receive(edge.answer(turn.draft(4)))
