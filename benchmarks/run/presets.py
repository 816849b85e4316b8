"""Grids that have a name."""

from __future__ import annotations

from benchmarks.prompts import PROMPT_SET, Prompt
from benchmarks.run.plan import Arm, Plan
from device_runtime.lossy import METHODS
from hw_profiles import papers_grid

PAPER_GAMMAS = (2, 4, 6, 8)
"""Of DSSD (arXiv 2507.12000), section 4."""
QUICK_LINKS = (
    "papers-0ms-50mbps", "papers-20ms-50mbps", "papers-50ms-50mbps", "papers-20ms-10mbps",
    "papers-20ms-100mbps",
)  # fmt: skip
WORST_LINK = "papers-50ms-10mbps-up10"
"""The papers' worst cell: 50 ms, 10 Mbit/s down, 1 Mbit/s up."""


def _arms(*names: str) -> tuple[Arm, ...]:
    return tuple(Arm.parse(name) for name in names)


def _prompts(each: int) -> tuple[Prompt, ...]:
    """The first prompts of every kind."""
    kinds = list(dict.fromkeys(prompt.kind for prompt in PROMPT_SET))
    return tuple(
        prompt
        for kind in kinds
        for prompt in [prompt for prompt in PROMPT_SET if prompt.kind == kind][:each]
    )


QUICK = Plan(
    _arms("dssd-thinned/4", "coupled/4", "dssd-packed/4", "dssd/4", "edge", "edge-draft", "device"),
    QUICK_LINKS, ("T=0.8",), _prompts(1)[:2], repeats=5, max_tokens=16,
)  # fmt: skip
FULL = Plan(
    (
        *_arms("edge", "edge-draft", "device"),
        *(
            Arm.parse(f"{name}/{gamma}")
            for name, method in METHODS.items()
            if method.lossless
            for gamma in (2, 4, 8)
        ),
    ),
    ("ethernet", "wifi5-home", "5g-low", "lte", "starlink", *QUICK_LINKS),
    ("T=1", "T=0.7, top-p 0.9"), _prompts(1), repeats=5, max_tokens=32,
)  # fmt: skip
"""A night: 18,720 answers, warm-ups included, at about one a second."""
PAPERS = Plan(
    (
        *_arms("edge"),
        *(
            Arm.parse(f"{scheme}/{gamma}")
            for scheme in ("dsd", "dssd", "dssd-thinned", "coupled")
            for gamma in PAPER_GAMMAS
        ),
    ),
    tuple(link.name for link in papers_grid(1)), ("T=1",), _prompts(1), repeats=5, max_tokens=32,
)  # fmt: skip
WORST = Plan(
    _arms("dsd/8", "dssd/8", "dssd-thinned/8", "coupled/8", "edge"),
    (WORST_LINK,), ("T=1",), PROMPT_SET[:20], repeats=1, max_tokens=24,
)  # fmt: skip
PRESETS = {"quick": QUICK, "full": FULL, "papers": PAPERS, "worst-cell": WORST}
