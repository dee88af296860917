"""The documentation names commands, flags and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from spade_bench.cli.main import app
from spade_bench.features.cache import ADVICE_BYTES, CACHE_MODES, FREE_SHARE
from spade_bench.registry import encoders


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


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/ENCODERS.md"])
def test_links_lead_to_files(repo: Path, page: str) -> None:
    text = (repo / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" not in target:
            assert ((repo / page).parent / target.split("#")[0]).exists(), target


def test_the_readme_leads_to_the_pages(repo: Path) -> None:
    text = (repo / "README.md").read_text(encoding="utf-8")
    for page in (repo / "docs").glob("*.md"):
        assert f"(docs/{page.name})" in text, page.name


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
