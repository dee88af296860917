"""The documentation names commands, flags and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from spade_bench.cli.main import app
from spade_bench.features.cache import ADVICE_BYTES, CACHE_MODES, FREE_SHARE
from spade_bench.registry import encoders

_DOORS = ("README.md", "CONTRIBUTING.md")


def _flags(command: str) -> set[str]:
    group = typer.main.get_command(app)
    found = group.commands[command]  # type: ignore[attr-defined]
    return {flag for option in found.params for flag in (*option.opts, *option.secondary_opts)}


def test_the_page_on_extraction_names_every_flag_of_note(repo: Path) -> None:
    text = (repo / "docs" / "EXTRACT.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--features"}  # of later commands
    known = _flags("extract")
    assert named <= known
    shared = {"--weights", "--device", "--seed", "--preview"}
    assert {flag for flag in known if flag.startswith("--")} - named <= shared


ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
NAVIGATION = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]


def _anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get where Markdown is shown."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        assert file.resolve().is_relative_to(ROOT), target
        if anchor:
            assert anchor in _anchors(file), target


def test_the_site_leads_to_every_page(repo: Path) -> None:
    """Users come from the README, contributors from CONTRIBUTING, and both find the site."""
    for name in _DOORS:
        text = (repo / name).read_text(encoding="utf-8")
        assert "docs/index.md" in text or "(docs/" in text, name
    listed = set(re.findall(r"([\w/]+\.md)", NAVIGATION))
    here = {path.relative_to(repo / "docs").as_posix() for path in (repo / "docs").rglob("*.md")}
    assert listed - {"CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"} == here


def test_paths_that_pages_name_in_backticks_exist(repo: Path) -> None:
    """`spade_bench/...`, `tests/...` and the like are paths of this repository."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # speaks of the past
            continue
        named = re.findall(
            r"`((?:spade_bench|tests|benchmarks|docs|configs)/[\w./-]*)`",
            page.read_text(encoding="utf-8"),
        )
        for name in named:
            assert (repo / name).exists(), f"{page.name}: {name}"


def test_slide_encoders_are_listed_or_excused(repo: Path) -> None:
    text = (repo / "docs" / "ENCODERS.md").read_text(encoding="utf-8")
    here, absent = text.split("## Not here, and why")
    for plugin in encoders:
        if plugin.card.level == "slide":
            assert f"`{plugin.name}`" in here
    for name in ("CHIEF", "GigaPath (slide)", "MADELEINE"):
        assert f"| {name} |" in absent
    assert not {"chief", "gigapath-slide", "madeleine"} & set(encoders.names())


def test_the_page_on_features_says_what_the_cache_does(repo: Path) -> None:
    text = (repo / "docs" / "FEATURES.md").read_text(encoding="utf-8")
    for mode in CACHE_MODES:
        assert f"| `{mode}` |" in text
    assert FREE_SHARE == 4
    assert "a quarter of the disk" in text
    assert f"{ADVICE_BYTES >> 20} MiB" in text
    assert "--cache" in _flags("run")
    assert {"--features", "--out", "--float32"} <= _flags("pack")
