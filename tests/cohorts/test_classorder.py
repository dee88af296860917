"""Classes that nobody declared stand in one order, whichever reader found them."""

from __future__ import annotations

from pathlib import Path

import pytest

from spade_bench.cohorts.classorder import order_classes, with_positive
from spade_bench.cohorts.tables import read_cohort
from spade_bench.errors import UserError


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["0", "1", "2", "3", "4", "5"], ("0", "1", "2", "3", "4", "5")),
        (["10", "9", "2"], ("2", "9", "10")),
        (["1.5", "-1", "0"], ("-1", "0", "1.5")),
        (["G10", "G2", "G1"], ("G1", "G2", "G10")),
        (["positive", "equivocal", "negative"], ("equivocal", "negative", "positive")),
        (["yes", "no", "zero"], ("no", "yes", "zero")),
        (["mut", "wt"], ("wt", "mut")),
        (["MSI", "MSS"], ("MSS", "MSI")),
        (["high", "low"], ("low", "high")),
        (["+", "-"], ("-", "+")),
        (["Positive", "Negative"], ("Negative", "Positive")),
        (["tumor", "adjacent"], ("adjacent", "tumor")),
        (["wt", "other"], ("wt", "other")),
        (["dMMR", "pMMR"], ("pMMR", "dMMR")),
    ],
)
def test_order_whatever_comes_first(labels: list[str], expected: tuple[str, ...]) -> None:
    assert order_classes(labels) == expected
    assert order_classes(labels[::-1]) == expected


def test_a_table_of_grades_keeps_them_in_order(tmp_path: Path) -> None:
    rows = [f"c{i},s{i},{i % 6}" for i in range(12)]
    (tmp_path / "t.csv").write_text("case_id,slide_id,label\n" + "\n".join(rows) + "\n")
    assert read_cohort(tmp_path / "t.csv", name="t").classes == ("0", "1", "2", "3", "4", "5")


def test_the_positive_class_that_is_asked_for_goes_last() -> None:
    assert with_positive(("a", "b"), "a", "task t") == ("b", "a")
    with pytest.raises(UserError, match="no class is called 'c'"):
        with_positive(("a", "b"), "c", "task t")
    with pytest.raises(UserError, match="needs two classes"):
        with_positive(("a", "b", "c"), "c", "task t")
