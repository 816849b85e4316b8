"""The test with one index: what stands, what is sent of it, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from device_runtime.protocol.errors import RemoteError
from device_runtime.protocol.law import ArrayLaw
from device_runtime.protocol.randomness import edge_streams
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Vocabulary
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.schemes.packed import DssdPacked, PackedRow, Rounding
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.wire import BitReader, BitWriter

VOCAB = Vocabulary(300)
NAMES = [name for name, scheme in SCHEMES.items() if isinstance(scheme, IndexTest)]
STREAMS = edge_streams(0, 0, 0, 0)


def scheme_of(name: str) -> DssdPacked | DssdThinned:
    scheme = SCHEMES[name]
    assert isinstance(scheme, (DssdPacked, DssdThinned))
    return scheme


def laws() -> Iterator[ArrayLaw]:
    """On two ids, a few and many, peaked and flat: the row's step is coarse and fine."""
    rng = np.random.default_rng(1)
    for num_ids, concentration in (
        (2, 1.0),
        (3, 0.3),
        (5, 1.0),
        (40, 0.1),
        (300, 0.02),
        (300, 1.0),
    ):
        for _ in range(4):
            yield ArrayLaw.dense(rng.dirichlet(np.full(num_ids, concentration)))
    for rest in (1e-4, 5e-4, 1e-3):  # the coarsest step there is
        yield ArrayLaw.dense(np.array([1 - rest, rest]))


@pytest.mark.parametrize("name", NAMES)
def test_an_index_stands_up_to_that_of_the_row_and_no_further(name: str) -> None:
    """An index between the row and p would be judged by one law and replaced by another."""
    scheme = scheme_of(name)
    num_between = 0
    for p in laws():
        row = scheme.reject(p, Drafted(-1), Place(0, 0), STREAMS, Ask(whole_row=True))
        assert isinstance(row, PackedRow)
        levels = Rounding(scheme.grid, row.exponent).level(row.numbers)
        of_row = dict(zip(row.ids.tolist(), scheme.grid.floor(levels).tolist(), strict=True))
        for token_id in p.ids[np.argsort(-p.probs)[:5]].tolist():
            highest, floor = of_row.get(token_id, 0), scheme.grid.floor_of(p.prob_of(token_id))
            indices = range(max(1, highest - 1), min(floor + 3, scheme.grid.num_levels))
            stand = [
                i for i in indices if scheme.accepts(p, Drafted(token_id, i), Place(0, 0), STREAMS)
            ]
            assert stand == [i for i in indices if i <= highest], (p.probs, token_id)
            num_between += floor - highest
    assert (num_between > 0) == (name == "dssd-packed")


@pytest.mark.parametrize("name", NAMES)
def test_an_index_that_no_honest_device_sends_is_refused(name: str) -> None:
    """0 would stand where p is 0: the text would hold an id that the LLM never writes."""
    scheme = scheme_of(name)
    for index, is_honest in (
        (0, False), (1, True), (scheme.grid.num_levels - 1, True), (scheme.grid.num_levels, False),
    ):  # fmt: skip
        bits = BitWriter()
        scheme.write_evidence(bits, [Drafted(7, index)], VOCAB)
        sent = BitReader(bits.getvalue())
        if is_honest:
            assert scheme.read_evidence(sent, [7], VOCAB) == (Drafted(7, index),)
            continue
        with pytest.raises(RemoteError, match="grid index is out of range"):
            scheme.read_evidence(sent, [7], VOCAB)
