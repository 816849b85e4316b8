"""Replacements that an edge draws itself, drawn where the law is.

Schemes whose edge knows the law q of a draft (`dsd`, `tk-slt`, `sqs`, `qsv`, and the edge's own
drafts) draw what replaces it from norm(max(0, p − q)). Written against `Law` alone that asks for
every probability of p; a law on a GPU draws there instead and one id crosses to the host. Either
way it is inverse CDF in id order with the same uniform.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from device_runtime.protocol.law import Floats, Ids, Law
from device_runtime.protocol.randomness import Purpose, Streams
from device_runtime.protocol.schemes import scheme_coded
from device_runtime.protocol.schemes.base import Ask, Drafted, Place, Scheme
from device_runtime.protocol.schemes.known_draft import KnownDraft, residual
from device_runtime.protocol.schemes.on_edge import OnEdge
from edge_server.law import TorchLaw


@dataclass(frozen=True, slots=True)
class _Above:
    """norm(max(0, p − q)) of a p that can draw from it; nothing but draws is asked of it."""

    p: TorchLaw
    q: Law

    def prob(self, ids: Ids) -> Floats:
        return residual(self.p, self.q).prob(ids)

    def draw(self, uniforms: Floats) -> Ids:
        return self.p.draw_above(self.q, uniforms)

    def support(self) -> Ids:
        return residual(self.p, self.q).support()


def replacement(p: Law, q: Law, streams: Streams) -> int:
    """A token from norm(max(0, p − q)) with the edge's coin for it."""
    left = _Above(p, q) if isinstance(p, TorchLaw) else residual(p, q)
    return int(streams(Purpose.RESIDUAL, 0).draw(left, 1)[0])


class KnownDraftHere(KnownDraft):
    """`dsd` and its kin."""

    def __init__(self, scheme: KnownDraft) -> None:
        super().__init__(scheme.name, scheme.code, scheme.codec)

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return replacement(p, drafted.evidence.law(), streams)


class OnEdgeHere(OnEdge):
    """The edge's own drafts."""

    def reject(self, p: Law, drafted: Drafted, place: Place, streams: Streams, ask: Ask) -> Any:
        return replacement(p, drafted.evidence, streams)


@lru_cache(maxsize=64)
def scheme_here(code: int) -> Scheme:
    """The scheme of this code on the wire, as an edge judges by it."""
    scheme = scheme_coded(code)
    return KnownDraftHere(scheme) if isinstance(scheme, KnownDraft) else scheme
