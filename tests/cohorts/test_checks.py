"""`spade-bench validate`: everything that must be found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from checked_tables import bad, check, rows_of

from spade_bench.cohorts.checks.issues import error


def test_a_clean_table_has_only_notes(tmp_path: Path) -> None:
    found = check(tmp_path, rows_of())
    assert bad(found) == set()
    assert found["note:class-counts"][0].text == "24 cases: a 12, b 12"  # type: ignore[attr-defined]


def _twice(rows: list[dict[str, object]]) -> None:
    rows.append(dict(rows[0]))


def _shared(rows: list[dict[str, object]]) -> None:
    rows.append({**rows[0], "case_id": "c99"})


def _torn(rows: list[dict[str, object]]) -> None:
    rows.append({**rows[0], "slide_id": "s99", "label": "b"})


def _blank_label(rows: list[dict[str, object]]) -> None:
    rows[0]["label"] = ""


def _blank_case(rows: list[dict[str, object]]) -> None:
    rows[0]["case_id"] = None


def _not_sequenced(rows: list[dict[str, object]]) -> None:
    rows[0]["label"] = "NS"


def _one_class(rows: list[dict[str, object]]) -> None:
    for row in rows:
        row["label"] = "a"


def _leaky(rows: list[dict[str, object]]) -> None:
    rows.append({**rows[0], "slide_id": "s99"})
    for i, row in enumerate(rows):
        row["fold_0"] = "train" if i % 2 else "test"
        row["fold_1"] = "train"
    rows[-1]["fold_0"] = "train"


def _wrong_patient(rows: list[dict[str, object]]) -> None:
    rows[0].update(case_id="TCGA-AA-0001", slide_id="TCGA-AA-0002-01Z-00-DX1.x")


@pytest.mark.parametrize(
    ("spoil", "expected", "example"),
    [
        (_twice, "error:duplicates", "s00"),
        (_shared, "error:duplicates", "s00"),
        (_torn, "error:labels", "c00"),
        (_blank_label, "error:labels", "s00"),
        (_blank_case, "error:ids", ""),
        (_not_sequenced, "error:classes", "NS"),
        (_one_class, "error:classes", "a"),
        (_leaky, "error:leakage", "c00 (train and test)"),
        (_wrong_patient, "error:barcodes", "TCGA-AA-0002-01Z-00-DX1.x under TCGA-AA-0001"),
    ],
)
def test_each_fault_is_found_and_named(
    tmp_path: Path,
    spoil: Callable[[list[dict[str, object]]], None],
    expected: str,
    example: str,
) -> None:
    rows = rows_of()
    spoil(rows)
    found = check(tmp_path, rows)
    assert expected in found
    if example:
        assert example in found[expected][0].examples  # type: ignore[attr-defined]
    errors = {name for name in found if name.startswith("error")}
    assert errors == {expected}


def test_missing_columns_and_unknown_classes(tmp_path: Path) -> None:
    found = check(tmp_path, [{"case_id": "a", "label": "x"}])
    assert found["error:columns"][0].examples == ("slide_id",)  # type: ignore[attr-defined]
    found = check(tmp_path, rows_of(), classes=("a", "c"), kind="classification")
    texts = " ".join(issue.text for issue in found["error:classes"])  # type: ignore[attr-defined]
    assert "not a class" in texts
    assert "no case is labelled c" in texts


def test_what_a_sentence_names_is_not_named_again() -> None:
    (one, two) = (
        error("columns", "the table lacks a, b (found x)", ["a", "b"]),
        error("files", "2 slide(s) have no file", ["a", "b"]),
    )
    assert one.sentence == "the table lacks a, b (found x)"
    assert two.sentence == "2 slide(s) have no file: a, b"


@pytest.mark.parametrize("name", ["1", "ave", "e"])
def test_a_name_that_is_part_of_a_sentence_is_named_all_the_same(name: str) -> None:
    one = error("coverage", "1 slide(s) of the table have no features", [name])
    assert one.sentence == f"1 slide(s) of the table have no features: {name}"


def test_several_slides_and_few_cases_are_said(tmp_path: Path) -> None:
    rows = [*rows_of(12), {**rows_of()[0], "slide_id": "s99"}]
    found = check(tmp_path, rows)
    assert "1 of 12 cases have several slides" in found["note:several-slides"][0].text  # type: ignore[attr-defined]
    assert found["warning:class-counts"][0].examples == ("a", "b")  # type: ignore[attr-defined]


def test_other_sample_types_are_said(tmp_path: Path) -> None:
    rows = rows_of()
    rows[0]["slide_id"] = "TCGA-AA-0001-11A-01-TS1"
    assert "warning:sample-types" in check(tmp_path, rows)
