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

PAGES = (
    *("cifar10", "cifar10-10000", "all-methods-cifar10", "all-methods-shapes", "shapes-tracks"),
    *("layers-cifar10", "profile"),
)
# Wide enough for every table, since axe leaves undecided what lies outside the screen.
UNCUT = "document.body.style.maxWidth = 'none'"
OPENED = "document.querySelectorAll('details').forEach((list) => (list.open = true))"


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


@pytest.mark.parametrize(("width", "dark"), [(400, False), (4000, False), (4000, True)])
@pytest.mark.parametrize("name", [*PAGES, "planted", "claims"])
def test_axe_finds_no_fault(
    browser: Browser, pages: Callable[[str], Path], name: str, width: int, dark: bool
) -> None:
    browser.open(pages(name), width, dark=dark)
    browser.ask(f"{UNCUT}; {OPENED}")
    faults, undecided = browser.axe()
    assert faults == []
    assert width == 400 or undecided == []


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
