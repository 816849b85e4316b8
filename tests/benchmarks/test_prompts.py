"""The prompts of all benches: fifty, none twice, ten of each kind."""

from __future__ import annotations

from collections import Counter

from benchmarks.prompts import PROMPT_SET, PROMPTS


def test_fifty_prompts_of_five_kinds_have_names_of_their_own() -> None:
    kinds = Counter(prompt.kind for prompt in PROMPT_SET)
    assert kinds == dict.fromkeys(("opening", "refrain", "dialogue", "mid-sentence", "modern"), 10)
    assert len({prompt.name for prompt in PROMPT_SET}) == 50
    assert all(prompt.name.startswith(f"{prompt.kind}-") for prompt in PROMPT_SET)


def test_no_prompt_comes_twice_and_none_ends_in_a_space() -> None:
    """A space at the end would split the token that follows."""
    assert len(set(PROMPTS)) == 50
    assert tuple(prompt.text for prompt in PROMPT_SET) == PROMPTS
    assert all(text == text.strip() and "  " not in text for text in PROMPTS)
