"""The page in a real browser: a phone and a desktop, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image
from numpy.typing import NDArray

from benchmarks.report.page import to_page
from benchmarks.report.report import build
from tests.benchmarks.report.synthetic import GRID, LINKS, records

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        BROWSER is None, reason="needs Chromium on the path (Debian: apt install chromium)"
    ),
]

SCREENS = {"phone": (375, 800), "desktop": (1280, 900)}
TEXT_PX = (10.0, 17.0)
"""Of the pictures: the least that can be read, and hardly more than the page's own."""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
MEASURE = """
addEventListener("load", () => {
  const page = document.querySelector("iframe").contentDocument;
  const width = page.documentElement.clientWidth;
  const reaches = element => element.getBoundingClientRect().right > width + 1;
  const texts = [...page.querySelectorAll("figure svg text")];
  const isCut = text => {
    const [own, all] = [text.getBoundingClientRect(), text.closest("svg").getBoundingClientRect()];
    return own.left < all.left - 1 || own.right > all.right + 1 || own.top < all.top - 1 || own.bottom > all.bottom + 1;
  };
  const isOver = (one, other) => {
    const [a, b] = [one.getBoundingClientRect(), other.getBoundingClientRect()];
    return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3;
  };
  const isCovered = text => [...text.closest("svg").querySelectorAll("text, use")].some(other => other !== text && isOver(text, other));
  const hasHole = figure => {
    const [own, all] = [figure, figure.parentElement].map(e => e.getBoundingClientRect());
    return own.right < all.right - 1 && figure.nextElementSibling?.getBoundingClientRect().top !== own.top;
  };
  const scale = text => { const svg = text.closest("svg"); return svg.clientWidth / svg.viewBox.baseVal.width; };
  const sizes = texts.map(text => parseFloat(getComputedStyle(text).fontSize) * scale(text));
  document.body.dataset.found = JSON.stringify({
    width,
    scrollWidth: page.documentElement.scrollWidth,
    wide: [...page.body.querySelectorAll("*")].filter(e => !e.closest(".scroll table") && reaches(e)).map(e => e.outerHTML.slice(0, 80)),
    cut: texts.filter(isCut).map(text => text.textContent),
    covered: texts.filter(text => text.textContent && isCovered(text)).map(text => text.textContent),
    sizes: [Math.min(...sizes), Math.max(...sizes)],
    columns: [...page.querySelectorAll(".pictures")].map(p => new Set([...p.children].map(f => f.getBoundingClientRect().left)).size),
    holes: [...page.querySelectorAll("figure")].filter(hasHole).map(f => f.firstElementChild.textContent),
    isDark: matchMedia("(prefers-color-scheme: dark)").matches,
  });
});
"""  # noqa: E501
"""Runs beside the page, which has no script of its own."""

Browse = Callable[[str, bool, str], str]


@pytest.fixture(scope="module")
def page() -> str:
    """With one, three, five and six pictures in a part: across links, and of a link."""
    measured = [r for r in records(LINKS[1:2] + GRID[:2] + GRID[3:4], repeats=2) if not r.is_warmup]
    shown = [record for record in measured if record.settings["sampling"] == "T=1"]
    for record in measured:
        if record.settings["link"] == "lte" and record not in shown:
            without_joules = {k: v for k, v in record.results.items() if not k.endswith("_j")}
            shown.append(replace(record, results=without_joules))
    return to_page(build(shown))


@pytest.fixture
def browse(page: str, tmp_path: Path) -> Browse:
    """Opens the page as on a screen of that kind; a frame, as no window is as narrow as a phone."""

    def run(screen: str, is_dark: bool, flag: str) -> str:
        width, height = SCREENS[screen]
        frame = (
            '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            f"<style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style><body>"
            f'<iframe width="{width}" height="{height}" srcdoc="{html.escape(page)}"></iframe>'
            f"<script>{MEASURE}</script>"
        )
        (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
        assert BROWSER is not None
        theme = ["--force-dark-mode"] if is_dark else []
        done = subprocess.run(
            [BROWSER, *FLAGS, *theme, f"--user-data-dir={tmp_path / 'profile'}", flag,
             f"--window-size={width},{height}", (tmp_path / "frame.html").as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout

    return run


def each_screen() -> pytest.MarkDecorator:
    cases = [(screen, is_dark) for screen in SCREENS for is_dark in (False, True)]
    ids = [f"{screen}-{'dark' if is_dark else 'light'}" for screen, is_dark in cases]
    return pytest.mark.parametrize(("screen", "is_dark"), cases, ids=ids)


def found_by(browse: Browse, screen: str, *, is_dark: bool) -> dict[str, Any]:
    dom = browse(screen, is_dark, "--dump-dom")
    match = re.search(r'data-found="([^"]*)"', dom)
    assert match, "the measuring script did not run"
    found: dict[str, Any] = json.loads(html.unescape(match.group(1)))
    return found


@each_screen()
def test_nothing_reaches_beyond_the_screen(browse: Browse, screen: str, is_dark: bool) -> None:
    found = found_by(browse, screen, is_dark=is_dark)
    assert found["width"] == SCREENS[screen][0] and found["isDark"] is is_dark
    assert found["scrollWidth"] == found["width"] and found["wide"] == []


@pytest.mark.parametrize("screen", SCREENS)
def test_pictures_are_whole_and_can_be_read(browse: Browse, screen: str) -> None:
    found = found_by(browse, screen, is_dark=False)
    assert found["cut"] == [] and found["covered"] == []
    smallest, largest = found["sizes"]
    assert TEXT_PX[0] <= smallest <= largest <= TEXT_PX[1]


@pytest.mark.parametrize(("screen", "columns"), [("phone", {1}), ("desktop", {1, 2, 3, 4})])
def test_pictures_fill_their_rows(browse: Browse, screen: str, columns: set[int]) -> None:
    found = found_by(browse, screen, is_dark=False)
    assert found["holes"] == [] and set(found["columns"]) == columns


def pixels(browse: Browse, path: Path, screen: str, *, is_dark: bool) -> NDArray[np.float64]:
    browse(screen, is_dark, f"--screenshot={path}")
    shot: NDArray[np.float64] = np.asarray(image.imread(path), np.float64)[..., :3]
    return shot[:, : SCREENS[screen][0]]


@pytest.mark.parametrize("screen", SCREENS)
def test_a_screenshot_shows_the_page_in_its_theme(
    browse: Browse, tmp_path: Path, screen: str
) -> None:
    light = pixels(browse, tmp_path / "light.png", screen, is_dark=False)
    dark = pixels(browse, tmp_path / "dark.png", screen, is_dark=True)
    for shot in (light, dark):
        colours = np.unique((shot * 255).astype(np.uint8).reshape(-1, 3), axis=0)
        assert len(colours) > 50
        assert shot.std() > 0.05
    assert np.median(light) > 0.9 and np.median(dark) < 0.15
