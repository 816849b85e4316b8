"""Prompts for the demo pair, written for this project: five kinds, ten of each.

The kinds differ in how well an SLM guesses what the LLM writes: a refrain is easy, a formula at the
beginning of a tale is easier than the middle of a sentence, and what is no fairy tale at all is hard.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to continue."""

    name: str
    """Of its kind and its number, such as opening-3."""
    kind: str
    text: str


_TEXTS = {
    "opening": (
        "Once upon a time there was a king who had three daughters",
        "In a dark forest there lived a wolf",
        "Long ago, when the mountains were young,",
        "A poor tailor had two sons, and the younger",
        "There was once a cat who could",
        "Once upon a time there lived in a far country a queen who",
        "There was once upon a time a widow who had two",
        "Far away in the north there stood a castle, and in it",
        "A fisherman and his wife lived together in a hut by the sea, and every day",
        "Many years ago there reigned a sultan who",
    ),
    "refrain": (
        'The little bird sang: "Tweet, tweet, who will come to me?" and again the little bird sang:',
        "He walked and he walked and he walked, and when he had walked a long way he",
        'The first brother said "No", the second brother said "No", and the third brother said',
        "On the first day she spun, on the second day she spun, and on the third day she",
        'And the wolf said: "Let me in." And the kid said: "I will not." And the wolf said:',
        "The old man pulled, and the old woman pulled, and the child pulled, and",
        "One for the king, one for the queen, one for the prince, and one for the",
        'The mill said: "Clip, clap." The brook said: "Drip, drop." The mill said:',
        "Over the hill he rode, and over the bridge he rode, and over the",
        "She knocked once, and nobody came; she knocked twice, and nobody came; she knocked",
    ),
    "dialogue": (
        "The old woman looked at the prince and said",
        '"Where are you going?" asked the',
        '"What will you give me," said the dwarf, "if I',
        '"Mother," cried the boy, "I have seen a',
        '"You must not open the door," answered the giant, "for',
        '"Who has been eating from my plate?" asked the',
        '"Alas!" sighed the princess, "if only my',
        'The fox laughed. "Do you not know,"',
        '"I am the king\'s son," he replied, "and I have come to',
        '"Dear sister," said the youngest, "why do you',
    ),
    "mid-sentence": (
        "The fisherman threw his net into the sea",
        "The princess wept, for she had lost her golden",
        "He took the sword from the wall and",
        "Next morning the queen sent for the",
        "When winter came, the brothers",
        "The giant laughed so loudly that the",
        "She put the ring upon her finger, and",
        "And so they lived happily, but",
        "They walked for seven days, until at last",
        "The miller's daughter was so beautiful that",
    ),
    "modern": (
        "The train from the airport was late again, so the engineer",
        "To install the program, first open a terminal and",
        "The committee voted seven to two against the new",
        "According to the report, electricity prices in March",
        "She typed her password twice before the screen",
        "Our results show that the error falls with the number of",
        "The goalkeeper dived to the left, but the ball",
        "Mix the flour with two eggs and a cup of",
        "The satellite passed over the coast at nine, and its camera",
        "Dear Sir or Madam, with reference to your letter of",
    ),
}  # fmt: skip

PROMPT_SET = tuple(
    Prompt(f"{kind}-{number}", kind, text)
    for kind, texts in _TEXTS.items()
    for number, text in enumerate(texts, start=1)
)

PROMPTS = tuple(prompt.text for prompt in PROMPT_SET)
