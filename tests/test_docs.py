"""What the documents name is there: places they link to, files, commands and their options."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks.cli import BENCHES
from device_runtime.protocol.schemes import SCHEMES
from device_runtime.verbs import VERBS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "export" / "demo_pair" / "README.md",
]
OTHER_OPTIONS = {"--verbose", "--no-compile", "--only"}
"""Of every verb; of pip; of the demo pair's training."""

each = pytest.mark.parametrize("path", DOCUMENTS, ids=[str(p.relative_to(ROOT)) for p in DOCUMENTS])


def slugs(path: Path) -> set[str]:
    """The anchors that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text)
    for link in links:
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in slugs(target), link


@each
def test_files_that_are_named_exist(path: Path) -> None:
    """A name without a folder may be any file's."""
    names = re.findall(r"`((?:[\w.]+/)*[\w.]+\.py|(?:[\w.]+/)+)`", path.read_text(encoding="utf-8"))
    made = (".bench/", "bench-", "llm/", "slm/")  # folders that a command makes, or beside the page
    for name in names:
        if not name.startswith(made):
            assert (ROOT / name).exists() or any(ROOT.glob(f"*/**/{name}")), name


@cache
def parser_of(verb: str, bench: str = "") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(verb, exit_on_error=False)
    module = BENCHES[bench][0] if bench else VERBS[verb].module
    importlib.import_module(module).add_arguments(parser)
    return parser


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Of the parser and of all below it."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found = found.union(*(options(below) for below in action.choices.values()))
    return found


def split_command(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser of `tandem …`, and the words that it is to parse."""
    verb, *rest = words
    if verb == "bench":
        return parser_of(verb, rest[0]), rest[1:]
    return parser_of(verb), rest


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `tandem` of every command that stands in an indented block."""
    lines = re.findall(r"^ {4,}(.+)$", text.replace("\\\n", " "), re.MULTILINE)
    for line in lines:
        if not re.search(r"(^|&& |sudo )tandem ", line):
            continue
        words = shlex.split(line, comments=True)
        while "tandem" in words:
            words = words[words.index("tandem") + 1 :]
            ends = [i for i, word in enumerate(words) if word in {"&&", "|", ">"}]
            yield words[: min(ends, default=len(words))]


@each
def test_commands_are_taken_as_they_stand(path: Path) -> None:
    for words in commands(path.read_text(encoding="utf-8")):
        parser, rest = split_command(words)
        if "…" in rest:  # not the whole command
            assert {word for word in rest if word.startswith("--")} <= options(parser), words
        else:
            parser.parse_args(rest)


@each
def test_options_exist(path: Path) -> None:
    """Those of a command in the text are its own; those that stand alone are of some command."""
    parsers = [*map(parser_of, VERBS), *(parser_of("bench", name) for name in BENCHES)]
    everywhere = set().union(*map(options, parsers))
    for span in re.findall(r"`([^`\n]+)`", path.read_text(encoding="utf-8")):
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", span))
        words = span.split()
        is_command = words[0] == "tandem" and len(words) > 1 and words[1] in VERBS
        known = options(split_command(words[1:])[0]) if is_command else everywhere
        assert named <= known | OTHER_OPTIONS, span


@each
def test_targets_of_make_exist(path: Path) -> None:
    makefile, text = (p.read_text(encoding="utf-8") for p in (ROOT / "Makefile", path))
    named = re.findall(r"(?:^ {4,}|`)make ([a-z0-9.-]+)", text, re.MULTILINE)
    assert set(named) <= set(re.findall(r"^([a-z0-9.-]+):", makefile, re.MULTILINE))


def test_schemes_have_the_codes_that_the_wire_format_gives() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    listed = page.partition("*scheme*: ")[2].partition("\n\n")[0]
    codes = {name: int(code) for code, name in re.findall(r"(\d+) `([a-z0-9-]+)`", listed)}
    assert codes == {name: scheme.code for name, scheme in SCHEMES.items()}
