"""What is measured and in which order: arms, links, prompts, repeats. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.prompts import Prompt
from benchmarks.record import Record
from device_runtime.lossy import METHODS
from device_runtime.protocol.errors import ConfigError
from device_runtime.writer import Mode

ALONE: dict[str, tuple[Mode, bool]] = {
    "edge": ("edge", False),
    "edge-draft": ("edge", True),
    "device": ("device", False),
}
"""Arms that split nothing → mode, and whether the edge drafts for itself."""
MAX_GAMMA = 64


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to write a text, as compared with the others."""

    name: str
    mode: Mode
    scheme: str | None = None
    gamma: int | None = None
    edge_drafts: bool = False

    @classmethod
    def parse(cls, text: str) -> Arm:
        """`edge`, `edge-draft`, `device`, or SCHEME/GAMMA; ConfigError for anything else."""
        if text in ALONE:
            mode, edge_drafts = ALONE[text]
            return cls(text, mode, edge_drafts=edge_drafts)
        scheme, _, gamma = text.partition("/")
        if scheme not in METHODS or not gamma.isdecimal() or not 1 <= int(gamma) <= MAX_GAMMA:
            raise ConfigError(
                f"there is no arm {text!r}: give {', '.join(ALONE)}, or SCHEME/GAMMA such as "
                f"dssd-thinned/4 (schemes: {', '.join(sorted(METHODS))})"
            )
        return cls(text, "split", scheme, int(gamma))

    @property
    def lossless(self) -> bool:
        """Whether its text has the LLM's law."""
        if self.mode != "split":
            return self.mode == "edge"
        assert self.scheme is not None
        return METHODS[self.scheme].lossless


@dataclass(frozen=True, slots=True)
class Task:
    """One answer to be written."""

    link: str
    sampling: str
    arm: Arm
    prompt: Prompt
    repeat: int
    seed: int
    """Of the edge's draws: the same for all arms, so that exact repeats are the same text."""
    is_warmup: bool = False

    @property
    def device_seed(self) -> int:
        """Of the device's coins: the same for all arms, and another one for every `seed`.

        A device's coins share nothing with the edge's, or the law would bend. A hash of the seed
        does share nothing that a draw could show: the edge's are SplitMix64 keyed by the seed itself,
        these a Philox that begins at SHA-256 of it. Who reads the code can foretell both, which
        matters to nobody in a bench. Six bytes, which every reader of JSON keeps.
        """
        words = f"tandem bench run: the device's coins of seed {self.seed}"
        return int.from_bytes(hashlib.sha256(words.encode()).digest()[:6], "big")

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from all others of a file."""
        head = (self.link, self.sampling, self.arm.name, self.prompt.name)
        return (*head, self.repeat, self.seed, self.is_warmup)


def key_of(record: Record) -> tuple[Any, ...]:
    """The key of the task that a record answers."""
    head = (record.settings[name] for name in ("link", "sampling", "arm", "prompt"))
    return (*head, record.repeat, record.settings["seed"], record.is_warmup)


@dataclass(frozen=True, slots=True)
class Plan:
    """A grid of answers."""

    arms: tuple[Arm, ...]
    links: tuple[str, ...]
    samplings: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    repeats: int
    max_tokens: int
    seed: int = 1

    def tasks(self, link: str) -> Iterator[Task]:
        """All answers over a link: warm-ups, then the arms in a new order for each prompt.

        Arms alternate within every prompt, so that a machine that grows slower meets all alike.
        """
        random = Random(f"{self.seed} {link}")  # noqa: S311 -- an order, no secret
        for sampling in self.samplings:
            for arm in self.arms:
                yield Task(link, sampling, arm, self.prompts[0], 0, self.seed, is_warmup=True)
            for repeat in range(self.repeats):
                for number, prompt in enumerate(self.prompts):
                    seed = self.seed + 1000 * repeat + number
                    for arm in random.sample(self.arms, len(self.arms)):
                        yield Task(link, sampling, arm, prompt, repeat, seed)

    @property
    def num_answers(self) -> int:
        """Of all links together, warm-ups apart."""
        return self._num_cells * self.repeats * len(self.prompts)

    @property
    def num_tasks(self) -> int:
        """The same with warm-ups."""
        return self._num_cells + self.num_answers

    @property
    def _num_cells(self) -> int:
        return len(self.links) * len(self.samplings) * len(self.arms)


def missing(tasks: Sequence[Task], records: Sequence[Record]) -> list[Task]:
    """Answers that no record holds, and the warm-ups of their arms, even those that are there.

    A run that goes on starts edges, links and the device's model anew: its first answers are cold.
    """
    done = {key_of(record) for record in records}
    left = [task for task in tasks if not task.is_warmup and task.key not in done]
    cold = {(task.sampling, task.arm) for task in left}
    wanted = {task.key for task in left}
    return [t for t in tasks if (t.sampling, t.arm) in cold if t.is_warmup or t.key in wanted]
