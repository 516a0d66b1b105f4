"""Pages in a browser: silent, as wide as the screen, readable, and reached by keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reports import build
from reports.reproduction.page import RUNS
from tests.reports.pages.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
]

PAGES = ("cifar10", "all-methods-cifar10", "shapes-tracks", "layers-cifar10", "profile")
# WCAG 2.1, 1.4.3: 4.5 for small print, 3 for large.
CONTRAST = """(() => {
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const parts = (c) => c.match(/[0-9.]+/g).map(Number);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) {
      const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
      if (a > 0) layers.push([r, g, b, a]);
      if (a === 1) break;
    }
    let under = [255, 255, 255];
    for (const [r, g, b, a] of layers.reverse())
      under = [r, g, b].map((v, i) => a * v + (1 - a) * under[i]);
    return under;
  };
  const bad = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility() || e.closest("script, style")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parts(style.color).slice(0, 3)), light(behind(e))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24;
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) bad.add(`${node.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return [...bad].slice(0, 10);
})()"""
UNNAMED = """[
  ...[...document.images].filter((i) => !i.alt).map((i) => `image ${i.src.slice(0, 30)}`),
  ...[...document.links].filter((a) => !a.textContent.trim()).map((a) => `link ${a.href}`),
  ...[...document.querySelectorAll("[id]")].map((e) => e.id)
    .filter((id, i, all) => all.indexOf(id) !== i),
  ...[...document.querySelectorAll("h1, h2, h3")].filter((h, i, all) =>
    i > 0 && Number(h.tagName[1]) > Number(all[i - 1].tagName[1]) + 1).map((h) => h.textContent),
]"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Callable[[str], Path]:
    made: dict[str, Path] = {"claims": RUNS / "reproduction" / "report.html"}

    def page(name: str) -> Path:
        if name not in made:
            run = finished_run if name == "planted" else RUNS / name
            made[name] = build(run, tmp_path_factory.mktemp(name))
        return made[name]

    return page


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", [*PAGES, "planted", "claims"])
def test_a_page_is_silent_and_no_wider_than_the_screen(
    browser: Browser, pages: Callable[[str], Path], name: str, width: int
) -> None:
    browser.messages.clear()
    browser.open(pages(name), width)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.messages == []
    assert browser.ask(UNNAMED) == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", [*PAGES, "planted", "claims"])
def test_all_words_stand_out_from_what_is_behind_them(
    browser: Browser, pages: Callable[[str], Path], name: str, dark: bool
) -> None:
    browser.open(pages(name), 1280, dark=dark)
    assert browser.ask(CONTRAST) == []


def test_the_first_key_reaches_the_results(browser: Browser, pages: Callable[[str], Path]) -> None:
    browser.open(pages("planted"), 400)
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
    assert browser.ask("document.activeElement.textContent") == "Skip to the results"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0


def test_the_key_of_the_curves_is_on_a_phone_s_screen(
    browser: Browser, pages: Callable[[str], Path]
) -> None:
    browser.open(pages("planted"), 400)
    ends = browser.ask(
        "[...document.querySelectorAll('.key-list .key')].map("
        "(key) => key.getBoundingClientRect().right)"
    )
    assert len(ends) == 6
    assert max(ends) <= 400
