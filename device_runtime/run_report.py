"""What `tandem run` says of an answer beside its text: values for --json, notes for people."""

from __future__ import annotations

from typing import Any

from device_runtime.protocol.schemes import SEEDED_SCHEME
from device_runtime.scheme_choice import Choice
from device_runtime.writer import Answer


def extra_values(answer: Answer) -> dict[str, Any]:
    """Beside the summary: what `auto` chose, and which tokens no edge has verified."""
    values: dict[str, Any] = {"unverified_spans": answer.transcript.unverified_spans}
    choice = answer.choice
    if choice is not None:
        values["auto"] = {
            "scheme": choice.scheme,
            "why": choice.why,
            "expected_s_per_token": choice.expected_s_per_token,
            "assumed": choice.assumed,
        }
    return values


def figures(answer: Answer) -> str:
    """One line: how fast it was, how many drafts stood, what a token cost on the link."""
    values = answer.summary()
    count = len(values["token_ids"])
    parts = [f"{count} tokens in {values['wall_s']:.1f} s"]
    if count and values["wall_s"]:
        parts[0] += f" ({count / values['wall_s']:.1f} a second)"
    if values["alpha"] is not None:
        parts.append(f"alpha {values['alpha']:.2f}")
    if count and values["frames_up"]:
        up, down = values["bytes_up"] / count, values["bytes_down"] / count
        parts.append(f"{up:.0f} bytes up and {down:.0f} down a token")
    return ", ".join(parts)


def notes(answer: Answer) -> list[str]:
    """Lines for stderr, after the text."""
    lines = [] if answer.choice is None else [auto_note(answer.choice)]
    config = answer.config
    if config.is_seed_given and config.sampling.temperature > 0 and answer.scheme != SEEDED_SCHEME:
        lines.append(
            f"seed: {answer.scheme} does not promise the same text again; {SEEDED_SCHEME} does"
        )
    if config.mode == "device":
        lines.append("unverified: the SLM alone wrote this")
    elif spans := [] if config.local_after_s is None else answer.transcript.unverified_spans:
        count = sum(end - first for first, end in spans)
        where = ", ".join(f"{first}-{end - 1}" for first, end in spans)
        lines.append(
            f"unverified: {count} of {len(answer.transcript.token_ids)} tokens ({where}) are the "
            "SLM's own, written while the edge was away"
        )
    elif not answer.lossless:
        lines.append("lossy: this text does not follow the LLM's law")
    return lines


def auto_note(choice: Choice) -> str:
    """One line: the scheme, why, and the expected time of every candidate."""
    line = f"auto: {choice.scheme}, {choice.why}"
    if choice.expected_s_per_token:
        figures = ", ".join(
            f"{name} {1e3 * seconds:.1f}" for name, seconds in choice.expected_s_per_token.items()
        )
        line += f" (ms: {figures})"
    if choice.assumed:
        line += f"; assumed, not yet measured: {', '.join(choice.assumed)}"
    return line
