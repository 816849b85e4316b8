"""The page stands alone, holds together and fits any screen that asks."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report.page import to_page
from benchmarks.report.pictures.ink import PALETTE
from benchmarks.report.report import build
from benchmarks.report.tables import Entry, Section, Table
from tests.benchmarks.report.hand_made import at
from tests.benchmarks.report.synthetic import GRID, LINKS, records

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Elements, attributes and text, and whether every element is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        """Of an attribute, wherever it stands."""
        return [value for _, found, value in self.attributes if found == name]


def outline_of(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


@pytest.fixture(scope="module")
def page() -> str:
    arms = ("edge", "edge-draft", "device", "dssd/4", "dssd-thinned/4", "u-hlm/4")
    measured = records(LINKS[:2] + GRID[:2], arms, repeats=2)
    counted = [record for record in measured if not record.is_warmup]
    projected = Table(("arm", "ms"), ((Entry("<edge>"), Entry("40")),))
    return to_page(build(counted, [Section("On a board", projected, "Projected & labelled.")]))


@pytest.fixture(scope="module")
def outline(page: str) -> Outline:
    return outline_of(page)


def test_it_needs_nothing_else(page: str, outline: Outline) -> None:
    assert not outline.tags.keys() & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "use.src",
    }
    links = outline.values("href") + outline.values("src") + outline.values("xlink:href")
    assert links and all(link.startswith("#") for link in links)
    assert not re.search(r"https?://|@import|url\((?!#)", page)


def test_its_links_and_ids_hold_together(outline: Outline, page: str) -> None:
    ids = outline.values("id")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    asked = {link[1:] for link in outline.values("href") + outline.values("xlink:href")}
    asked |= set(re.findall(r"url\(#([\w-]+)\)", page))
    assert asked <= set(ids)


def test_both_themes_know_every_colour(page: str) -> None:
    light, dark = page.split("@media (prefers-color-scheme: dark)")
    for role, (in_light, in_dark) in PALETTE.items():
        assert f"--{role}: {in_light};" in light and f"--{role}: {in_dark};" in dark
    used = set(re.findall(r"var\(--([\w-]+)\)", page))
    assert used - {"page", "of"} <= PALETTE.keys()


def test_it_is_made_for_phones(outline: Outline) -> None:
    assert ("meta", "content", "width=device-width, initial-scale=1") in outline.attributes
    assert outline.values("class").count("scroll") == outline.tags["table"]


def test_it_shows_every_picture_with_words_for_those_who_do_not_see_it(outline: Outline) -> None:
    # 2 samplings: acceptance, bandwidth (the grid's) and 4 links with 6 pictures each.
    assert outline.tags["svg"] == outline.tags["figure"] == 2 * (2 + 4 * 6)
    labels = outline.values("aria-label")
    assert len(labels) == len(set(labels)) == outline.tags["svg"]


def test_it_says_what_was_found(outline: Outline) -> None:
    text = " ".join("".join(outline.text).split())
    for part in (
        "Split decoding, measured: demo-llm and demo-slm", "Who wins where", "T=0.7 p=0.9",
        "Fastest: edge-draft", "u-hlm/4 (lossy)", "How to read the figures", "On a board",
        "No picture of “time per token against the round trip”", "<edge>", "Projected & labelled.",
    ):  # fmt: skip
        assert part in text


def test_numbers_stay_with_their_units(outline: Outline) -> None:
    text = "".join(outline.text)
    assert "round trip 64.5\N{NO-BREAK SPACE}ms, 117\N{NO-BREAK SPACE}Mbit/s down" in text
    assert not re.search(r"\d Mbit/s", text)


def test_names_in_the_data_are_text_and_not_markup() -> None:
    evil = "<script>alert(1)</script>&\"'"
    page = to_page(
        build([*at(20, prompt=evil, link=evil, sampling=evil, arm=f"{evil}/4", llm=evil)])
    )
    outline = outline_of(page)
    assert "script" not in outline.tags and "&lt;script&gt;" in page


def test_the_same_data_give_the_same_page() -> None:
    report = build(list(at(20, 1.0)))
    assert to_page(report) == to_page(report)


def test_the_template_is_a_file_of_its_own() -> None:
    from benchmarks.report import page

    template = Path(page.__file__).with_name(page.TEMPLATE)
    assert template.read_text(encoding="utf-8").startswith("{%")
