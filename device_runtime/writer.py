"""One answer from a prompt, in any of three modes: what run, demo and benches share."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from device_runtime.bundle import Bundle
from device_runtime.chat_template import ChatTemplate, Message
from device_runtime.drafter import Drafter
from device_runtime.generate import (
    write_device_only,
    write_edge_only,
    write_lossy,
    write_split,
)
from device_runtime.link import EdgeLink, LinkSettings, Traffic
from device_runtime.lossy import Route, Router, method_named
from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.randomness import device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.settings import RuntimeSettings
from device_runtime.tokenizer import Tokenizer
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Counts

Mode = Literal["split", "edge", "device"]
PAD_BYTES = 256
"""Padded messages are multiples of this."""


def random_seed() -> int:
    """64 fresh bits."""
    return secrets.randbits(64)


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """How one answer is drawn."""

    mode: Mode
    scheme: str
    gamma: int
    sampling: Sampling
    max_tokens: int
    seed: int = field(default_factory=random_seed)
    lossy: bool = False
    """Whether a scheme whose text is not the LLM's may be used."""
    threshold: float | None = None
    """Of a lossy scheme; None takes its default."""
    stops: tuple[str, ...] = ()
    pad: bool = False
    logprobs: bool = False


class Device:
    """A bundle, loaded: tokenizer and drafter."""

    def __init__(self, folder: Path, settings: RuntimeSettings) -> None:
        self.bundle = Bundle.open(folder)
        self.tokenizer = Tokenizer.open(self.bundle.tokenizer_path)
        self.drafter: Drafter = OnnxDrafter(self.bundle, settings)

    def encode(self, prompt: str, system: str | None) -> list[int]:
        """Token ids of a prompt; as a chat message where a system message (or "") is given."""
        if system is None:
            ids = self.tokenizer.encode_prompt(prompt)
        else:
            messages = [Message("system", system)] if system else []
            messages.append(Message("user", prompt))
            template = ChatTemplate.open(self.bundle, self.tokenizer)
            ids = self.tokenizer.encode_segments(template.render(messages))
        if not ids and self.bundle.manifest.bos_token_id is not None:
            ids = [self.bundle.manifest.bos_token_id]
        if not ids:
            raise ConfigError("the prompt is empty and the model has no start token; write a word")
        return ids

    def session(self) -> DeviceSession:
        """A session yet to be opened."""
        return DeviceSession(self.tokenizer.num_ids, self.tokenizer.vocabulary_hash, "tandem run")


class Answer:
    """One answer being written: iterate over `pieces`, then ask for the `summary`."""

    def __init__(self, device: Device, config: WriteConfig, prompt_ids: list[int]) -> None:
        self.config = config
        self.prompt_ids = prompt_ids
        self.counts = Counts()
        self.transcript: Transcript
        self._device = device
        self._method = method_named(
            config.scheme, allow_lossy=config.lossy, threshold=config.threshold
        )
        self._traffic = Traffic()

    async def pieces(self, link: EdgeLink | None) -> AsyncIterator[Piece]:
        """Text as it becomes certain; the link is needed unless the device writes alone."""
        end_ids = self._device.bundle.manifest.end_token_ids
        if link is not None:
            end_ids = link.session.facts.end_ids
            link.session.append(self.prompt_ids)
            before = replace(link.traffic)
        self._begin(end_ids)
        async for piece in self._write(link):
            yield piece
        if link is not None:
            self._traffic = link.traffic.since(before)

    def _begin(self, end_ids: tuple[int, ...]) -> None:
        config = self.config
        self._generation = Generation(
            self._method.scheme, config.sampling, config.seed, end_ids,
            PAD_BYTES if config.pad else 0, config.logprobs,
        )  # fmt: skip
        detokenizer = self._device.tokenizer.detokenizer(self.prompt_ids, config.stops)
        self.transcript = Transcript(detokenizer, frozenset(end_ids), config.max_tokens)

    def _write(self, link: EdgeLink | None) -> AsyncIterator[Piece]:
        drafter, generation, transcript = self._device.drafter, self._generation, self.transcript
        mode, policy = self.config.mode, self._method.policy
        if mode == "split" and isinstance(policy, Router):
            num_ids = self._device.tokenizer.num_ids
            drafter.truncate(0)
            route = policy.route(drafter, self.prompt_ids, num_ids)
            drafter.truncate(0)
            mode = "device" if route is Route.DEVICE else "edge"
        if mode == "device":
            num_ids = self._device.tokenizer.num_ids
            return write_device_only(
                drafter, self.prompt_ids, generation, num_ids, device_coins(), transcript
            )
        assert link is not None
        if mode == "edge":
            return write_edge_only(link, generation, transcript)
        if policy is not None and not isinstance(policy, Router):
            return write_lossy(
                link, drafter, generation, policy, device_coins(), transcript, self.counts
            )
        return write_split(
            link, drafter, generation, self.config.gamma, device_coins(), transcript, self.counts
        )

    @property
    def lossless(self) -> bool:
        """Whether the text follows the LLM's law."""
        return self.config.mode != "device" and self._method.lossless

    def summary(self) -> dict[str, Any]:
        """What `--json` prints. alpha counts judged drafts only; bytes are message payloads."""
        counts, transcript, traffic = self.counts, self.transcript, self._traffic
        logprobs = [transcript.logprobs.get(i) for i in range(len(transcript.token_ids))]
        return {
            "text": transcript.text,
            "token_ids": transcript.token_ids,
            **({"logprobs": logprobs} if self.config.logprobs else {}),
            "prompt_tokens": len(self.prompt_ids),
            "rounds": counts.rounds,
            "drafted": counts.drafted,
            "accepted": counts.accepted,
            "bonus": counts.bonus,
            "rejected": counts.rejected,
            "more_requests": counts.more_requests,
            "unverified": counts.unverified,
            "alpha": counts.alpha,
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "frames_up": traffic.frames_up,
            "frames_down": traffic.frames_down,
            "ttft_s": transcript.ttft_s,
            "tpot_s": transcript.tpot_s,
            "wall_s": transcript.wall_s,
            "mode": self.config.mode,
            "scheme": self.config.scheme if self.config.mode == "split" else None,
            "lossless": self.lossless,
            "gamma": self.config.gamma if self.config.mode == "split" else None,
            "seed": self.config.seed,
            "finish_reason": transcript.finish_reason and transcript.finish_reason.value,
        }


def link_to(settings: LinkSettings, device: Device) -> EdgeLink:
    """A link for a new session of this device; enter it to connect."""
    return EdgeLink(settings, device.session())
