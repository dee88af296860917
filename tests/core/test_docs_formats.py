"""The page on formats names every schema, file format and field that the code writes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from spade_bench.explain.regionscores import RegionScore
from spade_bench.features.identity import Identity
from spade_bench.report.differences import Difference
from spade_bench.report.leaderboard import COLUMNS
from spade_bench.results.rows import Row

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "FORMATS.md").read_text(encoding="utf-8")
CODE = [
    path for room in ("spade_bench", "encoders", "tasks") for path in (ROOT / room).rglob("*.py")
]


def schemas() -> set[str]:
    """Every schema in the code: written out, or made of the kind that `emit_json` is given."""
    found: set[str] = set()
    for path in CODE:
        text = path.read_text(encoding="utf-8")
        found.update(re.findall(r'"((?:spade-bench/[a-z0-9-]+/\d+|spade/\d+|tangle-\d+))"', text))
        for kind in re.findall(r'\b(?:emit_json|json_text)\(\s*"([a-z-]+)"', text):
            found.add(f"spade-bench/{kind}/1")
    return found


def test_the_schemas_of_the_code_are_found() -> None:
    assert {"spade-bench/results/1", "spade-bench/report/1", "spade/1", "tangle-1"} <= schemas()


@pytest.mark.parametrize("schema", sorted(schemas()))
def test_every_schema_stands_on_the_page(schema: str) -> None:
    assert f"`{schema}`" in PAGE


def test_the_page_names_no_schema_that_is_not_written() -> None:
    named = set(re.findall(r"`(spade-bench/[a-z0-9-]+/\d+|spade/\d+|tangle-\d+)`", PAGE))
    assert named == schemas()


@pytest.mark.parametrize("kind", [Row, Identity, Difference, RegionScore], ids=lambda c: c.__name__)
def test_every_field_stands_on_the_page(kind: type) -> None:
    words = set(re.findall(r"[a-z_0-9]+", PAGE))
    hidden = {"held_out"}  # which `covers` says
    missing = {field.name for field in dataclasses.fields(kind)} - words - hidden
    assert not missing


def test_every_column_of_the_long_table_stands_on_the_page() -> None:
    words = set(re.findall(r"[a-z_0-9]+", PAGE))
    assert set(COLUMNS) <= words
