"""Settings of a run: what its records say, and what those that are there already must say."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import Record
from benchmarks.run.models import Models
from benchmarks.run.plan import Arm, Plan, Task
from benchmarks.schemes import SAMPLINGS
from device_runtime.protocol.errors import ConfigError
from hw_profiles import DeviceProfile, LinkProfile, load_link


@dataclass(frozen=True, slots=True)
class Settings:
    """By the keys of `benchmarks.record_keys`; None stands for a key that is left out."""

    shared: Mapping[str, Any]
    """Of every record."""
    links: Mapping[str, Mapping[str, Any]]
    """Of those over a link, by its name."""
    edge_draft: Mapping[str, Any]
    """Of those of an arm that drafts on the edge."""

    @classmethod
    def of(
        cls, args: argparse.Namespace, plan: Plan, models: Models, board: DeviceProfile | None
    ) -> Settings:
        """Of this command; models and links are looked at, nothing is started."""
        shared = {
            **models.settings(), "max_tokens": plan.max_tokens, "num_threads": args.threads,
            "slow_start": args.slow_start, "device_profile": board and board.name,
        }  # fmt: skip
        drafts = any(arm.edge_drafts for arm in plan.arms)
        return cls(
            shared,
            {link: _link_values(load_link(link)) for link in plan.links},
            models.edge_draft_settings() if drafts else {},
        )

    def for_record(self, link: str, arm: Arm) -> dict[str, Any]:
        """Of a record of this arm over this link; less for a link that is not of this run."""
        return {
            **self.shared, **self.links.get(link, {}),
            **(self.edge_draft if arm.edge_drafts else {}),
        }  # fmt: skip

    def for_task(self, task: Task) -> dict[str, Any]:
        """Of the record of this answer; those that the answer itself tells come with it."""
        sampling = SAMPLINGS[task.sampling]
        return {
            **self.for_record(task.link, task.arm),
            "arm": task.arm.name, "lossless": task.arm.lossless, "link": task.link,
            "sampling": task.sampling, "temperature": sampling.temperature,
            "top_k": sampling.top_k, "top_p": sampling.top_p, "min_p": sampling.min_p,
            "prompt": task.prompt.name, "prompt_kind": task.prompt.kind, "seed": task.seed,
            "device_seed": task.device_seed if task.arm.mode != "edge" else None,
        }  # fmt: skip

    def require(self, path: Path, records: Iterable[Record]) -> None:
        """ConfigError where records were measured otherwise: they would pass for this run's."""
        for record in records:
            arm = Arm.parse(record.settings["arm"])
            for name, ours in self.for_record(record.settings["link"], arm).items():
                theirs = record.settings.get(name)
                if theirs != ours:
                    raise ConfigError(
                        f"{path} holds answers with {name} {_words(theirs)}, and this run has "
                        f"{_words(ours)}: give it another folder by --out, or the same settings"
                    )


def _words(value: Any) -> str:
    return "not told" if value is None else repr(value)


def _link_values(link: LinkProfile) -> dict[str, float]:
    return {
        "link_rtt_s": link.rtt_s.value, "link_up_bps": link.up_bps.value,
        "link_down_bps": link.down_bps.value,
    }  # fmt: skip
