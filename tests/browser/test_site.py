"""The documentation site is read from disk, without a network: its search and formulas too."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly; tutorials are shown as they are written."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        env={**os.environ, "SPADE_BENCH_TUTORIALS": "off", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_nothing_is_taken_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]+src=[\"']?([^\"' >]+)", text)
        loaded += re.findall(r"<link[^>]+rel=[\"']?stylesheet[^>]+href=[\"']?([^\"' >]+)", text)
        assert not [name for name in loaded if "://" in name or name.startswith("//")], page.name


def test_the_search_finds_a_page(site: Path, open_page: Any) -> None:
    page = open_page(site / "index.html")
    box = page.locator("input.md-search__input")
    box.focus()  # which loads the index; what is typed before it is there may be lost
    page.wait_for_function(
        "!document.querySelector('.md-search-result__meta').textContent.includes('Initializing')",
        timeout=90_000,
    )
    box.press_sequentially("Nadeau")
    found = page.locator(".md-search-result__link").first
    found.wait_for(timeout=90_000)
    assert "STATISTICS.html" in str(found.get_attribute("href"))


def test_formulas_are_drawn_and_the_reference_is_there(site: Path, open_page: Any) -> None:
    page = open_page(site / "STATISTICS.html")
    assert page.locator("math").count() > 20
    assert "\\frac" not in page.inner_text("article")
    page = open_page(site / "API.html")
    for name in ("evaluate", "extract", "explain", "Bag"):
        assert page.locator(f"[id='spade_bench.{name}']").count() == 1
