"""Beginnings of tales for the demo pair, written for this project."""

from __future__ import annotations

PROMPTS = (
    "Once upon a time there was a king who had three daughters",
    "The old woman looked at the prince and said",
    "In a dark forest there lived a wolf",
    '"Where are you going?" asked the',
    "The fisherman threw his net into the sea",
    "Long ago, when the mountains were young,",
    "The princess wept, for she had lost her golden",
    "A poor tailor had two sons, and the younger",
    "At midnight the clock struck",
    "The dragon opened one eye and",
    "They walked for seven days, until at last",
    "The miller's daughter was so beautiful that",
    "He took the sword from the wall and",
    "There was once a cat who could",
    "Next morning the queen sent for the",
    "The little bird sang from the top of the tree:",
    "When winter came, the brothers",
    "The giant laughed so loudly that the",
    "She put the ring upon her finger, and",
    "And so they lived happily, but",
)
