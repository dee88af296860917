"""A real browser for the pages that people open by double click.

`open_page(path)` opens a file as a person would, without any network, and returns Playwright's
page. Whatever the tests of a page do, no script may fail and nothing may be asked of a network:
both are looked at when a test ends.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_LOCAL = ("file:", "data:", "blob:", "about:")
PHONE = (390, 844)
DESKTOP = (1280, 800)


class OpenPage(Protocol):
    """See `open_page`."""

    def __call__(
        self, path: Path, size: tuple[int, int] = ..., *, dark: bool = ..., fragment: str = ...
    ) -> Page:
        """Open a file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder, so that it can be chosen or left out."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.browser)


def browser_file() -> str | None:
    """Return the program named in `SPADE_BENCH_BROWSER`, else the first Chromium on the path."""
    named = os.environ.get("SPADE_BENCH_BROWSER")
    if named:
        return named
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; skips where there is none.

    It ends with the module: as long as Playwright runs, no test of this process could start an
    event loop of its own.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    file = browser_file()
    if file is None:
        pytest.skip("no Chromium found: install it, or name its program in SPADE_BENCH_BROWSER")
    # A container runs as root, under which Chromium's own sandbox does not start.
    alone = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    arguments = [*alone, "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run"]
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=file, args=arguments)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Return a function that opens a file: `open_page(path, size=DESKTOP, dark=False)`.

    When the test ends, every page that it opened must be free of script errors, console errors
    and warnings, files that were not found, and requests to a network.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def note(what: str) -> Callable[[Any], None]:
        return lambda error: complaints.append(f"{what}: {error}")

    def console(message: Any) -> None:
        if message.type in {"error", "warning"}:
            complaints.append(f"console {message.type}: {message.text}")

    def request(asked: Any) -> None:
        if not asked.url.startswith(_LOCAL):
            complaints.append(f"asked a network for {asked.url}")

    def dialog(shown: Any) -> None:
        complaints.append(f"dialog: {shown.message}")  # what a script of a stranger would show
        shown.dismiss()

    def open_page(
        path: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False, fragment: str = ""
    ) -> Page:
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            offline=True,
            has_touch=size[0] < 600,
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", console)
        page.on("pageerror", note("script error"))
        page.on("requestfailed", lambda failed: complaints.append(f"not loaded: {failed.url}"))
        page.on("request", request)
        page.on("dialog", dialog)
        page.goto(path.resolve().as_uri() + (f"#{fragment}" if fragment else ""))
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
