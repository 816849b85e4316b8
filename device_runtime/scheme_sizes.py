"""Payload bytes of a round under each scheme, before any was sent.

The way up is exact to a few bytes, the lengths of varints. The way down of a rejection depends on
the law p, which only the edge knows: those sizes were seen on the demo pair and stand in until this
pair's own have been measured.
"""

from __future__ import annotations

from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.protocol.schemes.base import Vocabulary
from device_runtime.protocol.schemes.index_test import IndexTest
from device_runtime.protocol.schemes.packed import DssdPacked
from device_runtime.protocol.schemes.thinned import DssdThinned

ROUND_BYTES = 13
"""A round without its block."""
VERDICT_BYTES = 8
"""A verdict without its body."""
TAGGED_DRAWS_BYTES = 2
PACKED_FRAME_BYTES = 6
PACKED_ENTRY_BYTES = 2.0
"""Leftover id, step, count and codes; then gap and number of an entry."""

TYPICAL_DISTINCT_DRAWS = 10
"""Of the 20 draws that a generation begins with."""
TYPICAL_NUCLEUS = 40
TYPICAL_SUPPORT = 700
"""Ids in a packed row with top-p or min-p, and without them."""


def _id_bytes(num_ids: int) -> int:
    """Of a large id as a varint."""
    return -(-Vocabulary(num_ids).id_bits // 7)


def padded(num_bytes: float, pad_to_bytes: int) -> float:
    """The size on the wire of a message of about this size; a multiple of the pad, if any."""
    return -(-num_bytes // pad_to_bytes) * pad_to_bytes if pad_to_bytes else num_bytes


def up_bytes(scheme: str, num_ids: int, gamma: int) -> float:
    """Of a round: header, the token resampled last, ids and evidence."""
    rules = SCHEMES[scheme]
    evidence_bits = rules.grid.index_bits if isinstance(rules, IndexTest) else 0
    block = -(-gamma * (Vocabulary(num_ids).id_bits + evidence_bits) // 8)
    return ROUND_BYTES + _id_bytes(num_ids) + block


def accepted_bytes(num_ids: int) -> float:
    """Of a verdict with a token."""
    return VERDICT_BYTES + _id_bytes(num_ids)


def rejected_bytes(scheme: str, num_ids: int, sampling: Sampling) -> float:
    """Of a verdict with what the device needs to replace a token; typical, not exact."""
    rules = SCHEMES[scheme]
    if isinstance(rules, DssdThinned):
        num_draws = num_entries(sampling, TYPICAL_DISTINCT_DRAWS, TYPICAL_DISTINCT_DRAWS)
        gap_bits = max(1.0, Vocabulary(num_ids).id_bits - (num_draws - 1).bit_length() + 2.0)
        # Beside gap and index: how many draws of the id there were, and how many unconditional.
        bits = 5 + num_draws * (gap_bits + rules.grid.index_bits + 2)
        return VERDICT_BYTES + TAGGED_DRAWS_BYTES + bits / 8
    if isinstance(rules, DssdPacked) and sampling.temperature == 0:
        return VERDICT_BYTES + _id_bytes(2 * num_ids)  # one id, and a bit that says so
    if isinstance(rules, DssdPacked):
        entries = num_entries(sampling, TYPICAL_NUCLEUS, TYPICAL_SUPPORT)
        return VERDICT_BYTES + PACKED_FRAME_BYTES + PACKED_ENTRY_BYTES * min(entries, num_ids)
    return accepted_bytes(num_ids)


def num_entries(sampling: Sampling, after_truncation: int, at_most: int) -> int:
    """Ids that p is likely to keep."""
    if sampling.temperature == 0:
        return 1
    truncated = sampling.top_p < 1 or sampling.min_p > 0
    entries = after_truncation if truncated else at_most
    return min(entries, sampling.top_k) if sampling.top_k else entries
