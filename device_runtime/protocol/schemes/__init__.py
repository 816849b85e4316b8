"""All verification schemes, one file each behind one interface (`base.Scheme`)."""

from __future__ import annotations

from device_runtime.protocol.errors import ConfigError, ErrorCode, RemoteError
from device_runtime.protocol.grid import GRID
from device_runtime.protocol.schemes.base import Scheme, Vocabulary
from device_runtime.protocol.schemes.coupled import Coupled
from device_runtime.protocol.schemes.dsd import WholeRow
from device_runtime.protocol.schemes.dssd import Dssd
from device_runtime.protocol.schemes.greedy import GreedyDraft
from device_runtime.protocol.schemes.known_draft import KnownDraft
from device_runtime.protocol.schemes.packed import PACKED_GRID, DssdPacked
from device_runtime.protocol.schemes.sqs import DEFAULT_RESOLUTION, Lattice
from device_runtime.protocol.schemes.thinned import DssdThinned
from device_runtime.protocol.schemes.tk_slt import DEFAULT_NUM_KEPT, Pairs

DEFAULT_SCHEME = "dssd-thinned"
SEEDED_SCHEME = "coupled"
"""Chosen when a user gives a seed and names no scheme: the only one a seed makes reproducible."""

SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        GreedyDraft(),
        Coupled(),
        Dssd("dssd", 3, "<f2"),
        Dssd("dssd-fp32", 4, "<f4"),
        DssdPacked(PACKED_GRID),
        DssdThinned(GRID),
        KnownDraft("dsd", 10, WholeRow()),
        KnownDraft("tk-slt", 11, Pairs(DEFAULT_NUM_KEPT)),
        KnownDraft("tk-slt-nucleus", 12, Pairs(num_kept=1024, share=0.9)),
        KnownDraft("sqs", 13, Lattice(DEFAULT_RESOLUTION, DEFAULT_NUM_KEPT)),
        KnownDraft("qsv", 14, Lattice(DEFAULT_RESOLUTION)),
    )
}
_BY_CODE = {scheme.code: scheme for scheme in SCHEMES.values()}


def scheme_named(name: str) -> Scheme:
    """The scheme of this name; ConfigError lists the names there are."""
    if name not in SCHEMES:
        raise ConfigError(f"there is no scheme {name!r}; choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def check_gamma(scheme: Scheme, gamma: int, num_ids: int) -> None:
    """ConfigError where blocks of gamma tokens over so many ids are more than the scheme allows."""
    limit = scheme.max_gamma(Vocabulary(num_ids))
    if gamma > limit:
        raise ConfigError(
            f"gamma is {gamma}; {scheme.name} sends a law with every token, and over {num_ids} ids "
            f"an edge takes at most {limit} of them at once: choose a smaller gamma or another scheme"
        )


def scheme_coded(code: int) -> Scheme:
    """The scheme a message names by its code."""
    if code not in _BY_CODE:
        raise RemoteError(ErrorCode.UNSUPPORTED_PARAMETER, f"scheme code {code}")
    return _BY_CODE[code]
