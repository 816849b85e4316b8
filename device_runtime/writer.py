"""One answer from a prompt, in any of three modes: what run, demo and benches share."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from device_runtime.bundle import Bundle
from device_runtime.cancellation import in_thread
from device_runtime.chat_template import ChatTemplate, Message
from device_runtime.drafter import Drafter
from device_runtime.estimates import Situation, choose_scheme
from device_runtime.generate import (
    write_device_only,
    write_edge_only,
    write_lossy,
    write_split,
)
from device_runtime.link import EdgeLink, LinkSettings, Traffic
from device_runtime.lossy import Route, Router, method_named
from device_runtime.measured import Handshake, RoundTimes
from device_runtime.measured_file import Memory
from device_runtime.onnx_drafter import OnnxDrafter
from device_runtime.protocol.device_session import DeviceSession, Generation
from device_runtime.protocol.errors import ConfigError
from device_runtime.protocol.randomness import Coins, device_coins
from device_runtime.protocol.sampling import Sampling
from device_runtime.protocol.schemes import DEFAULT_SCHEME, SEEDED_SCHEME, check_gamma
from device_runtime.round_clock import RoundClock
from device_runtime.scheme_choice import AUTO, Choice
from device_runtime.settings import RuntimeSettings
from device_runtime.tokenizer import Tokenizer
from device_runtime.transcript import Piece, Transcript
from device_runtime.turn import Counts, Origin

Mode = Literal["split", "edge", "device"]
PAD_BYTES = 256
"""Padded messages are multiples of this."""


def random_seed() -> int:
    """64 fresh bits."""
    return secrets.randbits(64)


def fresh_coins() -> Coins:
    """The device's own coins. They share nothing with the generation's seed, which the edge knows."""
    return device_coins(secrets.randbits(128))


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """How one answer is drawn."""

    mode: Mode
    scheme: str
    """A name of `lossy.METHODS`, or `auto`: the quickest lossless one by what was measured."""
    gamma: int
    sampling: Sampling
    max_tokens: int
    seed: int = field(default_factory=random_seed)
    device_seed: int | None = None
    """Of the device's own coins. None takes fresh ones; a bench whose answers must be repeatable
    gives one that nothing of `seed` can be told from."""
    is_seed_given: bool = False
    """The seed is somebody's choice, so the same one must give the same text (`auto`)."""
    lossy: bool = False
    """Whether a scheme whose text is not the LLM's may be used."""
    threshold: float | None = None
    """Of a lossy scheme; None takes its default."""
    stops: tuple[str, ...] = ()
    is_chat: bool = False
    """The answer is a text of its own and does not continue the prompt's."""
    pad: bool = False
    logprobs: bool = False
    local_after_s: float | None = None
    """How long an edge may stay away before the SLM goes on alone; None: it never does."""


class Device:
    """A bundle, loaded: tokenizer and drafter."""

    def __init__(self, folder: Path, settings: RuntimeSettings, *, drafts: bool = True) -> None:
        """drafts: whether the SLM is loaded, which an answer by the edge alone does without."""
        self.bundle = Bundle.open(folder)
        self.tokenizer = Tokenizer.open(self.bundle.tokenizer_path)
        self._drafter = OnnxDrafter(self.bundle, settings) if drafts else None

    @property
    def drafter(self) -> Drafter:
        """The SLM, if it was loaded."""
        assert self._drafter is not None
        return self._drafter

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

    def __init__(
        self,
        device: Device,
        config: WriteConfig,
        prompt_ids: list[int],
        memory: Memory | None = None,
    ) -> None:
        """memory: what `auto` has learnt of this edge and bundle, and where it learns more."""
        self.config = config
        self.prompt_ids = prompt_ids
        self.counts = Counts()
        self.transcript: Transcript
        self.choice: Choice | None = None
        """What `auto` took and why."""
        self._device = device
        self._memory = memory or Memory()
        self._times = RoundTimes()
        self._method = method_named(
            DEFAULT_SCHEME if config.scheme == AUTO else config.scheme,
            allow_lossy=config.lossy,
            threshold=config.threshold,
        )
        if config.mode == "split" and self._method.policy is None:
            check_gamma(self._method.scheme, config.gamma, device.tokenizer.num_ids)
        self._traffic = Traffic()

    async def pieces(self, link: EdgeLink | None) -> AsyncIterator[Piece]:
        """Text as it becomes certain; the link is needed unless the device writes alone."""
        end_ids = self._device.bundle.manifest.end_token_ids
        # The LLM may have more ids than the SLM, and its law is the one that a bias changes.
        model = self._device.tokenizer if link is None else link.session.facts
        self.config.sampling.check_ids(model.num_ids)
        if link is not None:
            end_ids = link.session.facts.end_ids
            link.session.append(self.prompt_ids)
            before, handshake = replace(link.traffic), link.handshake
            self._choose(link)
        self._begin(end_ids)
        try:
            async for piece in await self._write(link):
                yield piece
        finally:
            if link is not None:
                self._traffic = link.traffic.since(before)
        if link is not None:
            self._learn(handshake)

    def _choose(self, link: EdgeLink) -> None:
        """Put a scheme in the place of `auto`."""
        config = self.config
        if config.scheme != AUTO or config.mode != "split":
            return
        if config.is_seed_given:
            self.choice = Choice(SEEDED_SCHEME, "a seed was given; no other scheme repeats a text")
        else:
            now = Situation(
                num_ids=link.session.facts.num_ids,
                gamma=min(config.gamma, link.session.facts.max_gamma),
                sampling=config.sampling,
                pad_to_bytes=PAD_BYTES if config.pad else 0,
                handshake=link.handshake,
            )
            self.choice = choose_scheme(self._memory.history, now)
        self._method = method_named(self.choice.scheme)

    def _learn(self, handshake: Handshake) -> None:
        """Keep what this generation measured for the next choice."""
        measured = self._times.measured(
            self._method.scheme.name, self.config.sampling, self.counts, handshake,
            padded=self.config.pad,
        )  # fmt: skip
        if measured is not None:
            self._memory.add(measured)

    def _begin(self, end_ids: tuple[int, ...]) -> None:
        config = self.config
        self._generation = Generation(
            self._method.scheme, config.sampling, config.seed, end_ids,
            PAD_BYTES if config.pad else 0, config.logprobs,
        )  # fmt: skip
        context = [] if config.is_chat else self.prompt_ids
        detokenizer = self._device.tokenizer.detokenizer(context, config.stops)
        self.transcript = Transcript(detokenizer, frozenset(end_ids), config.max_tokens)

    async def _write(self, link: EdgeLink | None) -> AsyncIterator[Piece]:
        generation, transcript, mode = self._generation, self.transcript, await self._mode()
        if mode == "edge":
            assert link is not None
            return write_edge_only(link, generation, transcript)
        drafter, policy, seed = self._device.drafter, self._method.policy, self.config.device_seed
        coins = fresh_coins() if seed is None else device_coins(seed)
        if mode == "device":
            num_ids = self._device.tokenizer.num_ids
            return write_device_only(
                drafter, self.prompt_ids, generation, num_ids, coins, transcript
            )
        assert link is not None
        if policy is not None and not isinstance(policy, Router):
            return write_lossy(link, drafter, generation, policy, coins, transcript, self.counts)
        return write_split(
            link, drafter, generation, self.config.gamma, coins, transcript, self.counts,
            times=self._times, local_after_s=self.config.local_after_s,
        )  # fmt: skip

    async def _mode(self) -> Mode:
        """Who writes; a router lets the SLM read the prompt first."""
        policy = self._method.policy
        if self.config.mode != "split" or not isinstance(policy, Router):
            return self.config.mode
        drafter, num_ids = self._device.drafter, self._device.tokenizer.num_ids
        drafter.truncate(0)
        route = await in_thread(policy.route, drafter, self.prompt_ids, num_ids)
        drafter.truncate(0)
        return "device" if route is Route.DEVICE else "edge"

    @property
    def round_clocks(self) -> Sequence[RoundClock]:
        """Of the rounds so far; those of lossy policies are not clocked."""
        return self._times.clocks

    @property
    def scheme(self) -> str:
        """The name of the method in force; `auto` has been resolved once writing has begun."""
        return self.choice.scheme if self.choice is not None else self.config.scheme

    @property
    def lossless(self) -> bool:
        """Whether the text follows the LLM's law."""
        own = self.config.mode == "device" or self.counts.unverified > 0
        return self._method.lossless and not own

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
            "unverified": transcript.origins.count(Origin.UNVERIFIED),
            "alpha": counts.alpha,
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "frames_up": traffic.frames_up,
            "frames_down": traffic.frames_down,
            "first_tokens": transcript.num_first,
            "ttft_s": transcript.ttft_s,
            "tpot_s": transcript.tpot_s,
            "wall_s": transcript.wall_s,
            "mode": self.config.mode,
            "scheme": self.scheme if self.config.mode == "split" else None,
            "lossless": self.lossless,
            "gamma": self.config.gamma if self.config.mode == "split" else None,
            "seed": self.config.seed,
            "finish_reason": transcript.finish_reason and transcript.finish_reason.value,
        }


def link_to(settings: LinkSettings, device: Device) -> EdgeLink:
    """A link for a new session of this device; enter it to connect."""
    return EdgeLink(settings, device.session())
