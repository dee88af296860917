"""Cohort tables: what is read, what is refused and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from spade_bench.cohorts.tables import cohort_hash, keep_covered, read_cohort
from spade_bench.errors import DataError

GOOD = """case_id,slide_id,label,site,age
a,a1,IDC,S1,50
a,a2,IDC,S1,50
b,b1,ILC,S2,61
c,c1,IDC,,
"""


def _write(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_cases_with_their_slides(tmp_path: Path) -> None:
    cohort = read_cohort(_write(tmp_path, GOOD))
    assert cohort.classes == ("IDC", "ILC")
    assert [case.case_id for case in cohort.cases] == ["a", "b", "c"]
    assert cohort.cases[0].slide_ids == ("a1", "a2")
    assert cohort.cases[2].site is None
    assert not cohort.simulated
    assert cohort.cases[0].split is None


def test_order_and_extra_columns_do_not_matter(tmp_path: Path) -> None:
    lines = GOOD.strip().split("\n")
    turned = "\n".join([lines[0], *lines[:0:-1]]) + "\n"
    first = read_cohort(_write(tmp_path, GOOD))
    second = read_cohort(_write(tmp_path, turned, "u.csv"))
    assert first.cases == second.cases
    assert cohort_hash(first) == cohort_hash(second)
    tabs = read_cohort(_write(tmp_path, "\ufeff" + GOOD.replace(",", "\t"), "v.tsv"))
    assert tabs.cases == first.cases


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,slide\na,1\n", "missing column.*slide_id, label"),
        (GOOD + "d,a1,IDC,,\n", "more than one row: a1"),
        (GOOD + "a,a3,ILC,S1,50\n", "case a has more than one label: IDC, ILC"),
        (GOOD + "d,d1,,,\n", "1 row.s. without label: d1"),
        (GOOD + "d,d1,NA,,\n", "without label"),
        (GOOD + ",d1,IDC,,\n", "1 row.s. without case_id"),
        (GOOD + "d,,IDC,,\n", "without slide_id"),
        ("case_id,slide_id,label\n", "no rows"),
        ("case_id,slide_id,label\na,1,x\nb,2,x\n", "only one class"),
        ("case_id,slide_id,label,split\na,1,x,train\na,2,x,test\n", "a has more than one split"),
        ("case_id,slide_id,label,split\na,1,x,dev\nb,2,y,test\n", "unknown value.*split: dev"),
        ("case_id,slide_id,label,holdout\na,1,x,0\nb,2,y,maybe\n", "holdout: maybe"),
        ("case_id,slide_id,label,simulated\na,1,x,perhaps\nb,2,y,1\n", "simulated"),
    ],
)
def test_refuses_in_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_cohort(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_cohort(tmp_path / "nothing.csv")


def test_unknown_labels_are_refused_by_name(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD + "d,d1,Mixed,,\n")
    with pytest.raises(DataError, match=r"Mixed.*IDC, ILC"):
        read_cohort(path, classes=("IDC", "ILC"))
    with pytest.raises(DataError, match="no case is labelled DCIS"):
        read_cohort(_write(tmp_path, GOOD), classes=("IDC", "ILC", "DCIS"))


def test_class_order_is_the_cards_or_puts_the_positive_last(tmp_path: Path) -> None:
    text = "case_id,slide_id,label\na,1,mutant\nb,2,wildtype\n"
    assert read_cohort(_write(tmp_path, text)).classes == ("wildtype", "mutant")
    chosen = read_cohort(_write(tmp_path, text), classes=("mutant", "wildtype"))
    assert chosen.classes == ("mutant", "wildtype")


def test_unlabelled_cases_can_be_left_out(tmp_path: Path) -> None:
    path = _write(tmp_path, GOOD + "d,d1,,,\n")
    cohort = read_cohort(path, drop_unlabelled=True)
    assert [case.case_id for case in cohort.cases] == ["a", "b", "c"]


def test_given_split_and_simulated_flag(tmp_path: Path) -> None:
    text = "case_id,slide_id,label,holdout,simulated\na,1,x,0,1\nb,2,y,1,1\n"
    cohort = read_cohort(_write(tmp_path, text))
    assert [case.split for case in cohort.cases] == ["train", "test"]
    assert cohort.simulated


def test_survival_columns(tmp_path: Path) -> None:
    good = "case_id,slide_id,event,duration_days\na,1,1,30\nb,2,0,0.0\n"
    cohort = read_cohort(_write(tmp_path, good), survival=True)
    assert [(c.event, c.duration_days) for c in cohort.cases] == [(True, 30.0), (False, 0.0)]
    for bad in (good.replace("a,1,1", "a,1,2"), good.replace(",30", ",-3")):
        with pytest.raises(DataError, match="case a"):
            read_cohort(_write(tmp_path, bad), survival=True)


def test_coverage_lists_what_is_missing_and_never_substitutes(tmp_path: Path) -> None:
    cohort = read_cohort(_write(tmp_path, GOOD))
    kept, coverage = keep_covered(cohort, ["a1", "b1", "c1", "z9"], {"b1": "NaN"})
    assert [(c.case_id, c.slide_ids) for c in kept.cases] == [("a", ("a1",)), ("c", ("c1",))]
    assert coverage.missing == ("a2",)
    assert coverage.dropped_cases == ("b",)
    assert not coverage.complete
    text = coverage.describe()
    assert "2 of 4 slides" in text
    assert "a2" in text
    assert "b1 (NaN)" in text
    assert "1 feature file(s) not in the table" in text
    whole, full = keep_covered(cohort, ["a1", "a2", "b1", "c1"], {})
    assert full.complete
    assert whole == cohort
