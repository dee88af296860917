"""Published splits: Patho-Bench folders and CLAM files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from spade_bench.cohorts.published.splits import read_clam, read_patho_bench, read_patho_bench_pair
from spade_bench.errors import DataError

ROWS = [  # case, slide, code, fold_0, fold_1
    ("a", "a1", "0", "train", "test"),
    ("a", "a2", "0", "train", "test"),
    ("b", "b1", "1", "val", "train"),
    ("c", "c1", "0", "test", "train"),
    ("d", "d1", "1", "test", "val"),
    ("e", "e1", "1", "train", "test"),
    ("f", "f1", "0", "-1", "train"),
]


def _patho_bench(
    folder: Path, rows: list[tuple[str, ...]] = ROWS, sample_col: str = "case_id", **extra: object
) -> Path:
    folder.mkdir(parents=True)
    lines = ["case_id\tslide_id\tgrade\tfold_0\tfold_1", *("\t".join(row) for row in rows)]
    (folder / "k=all.tsv").write_text("\n".join(lines) + "\n")
    config = {
        "task_col": "grade",
        "sample_col": sample_col,
        "label_dict": {0: "low", 1: "high"},
        "task_type": "classification",
    } | extra
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_patho_bench_folder(tmp_path: Path) -> None:
    got = read_patho_bench(_patho_bench(tmp_path / "hospital" / "grade"))
    assert got.cohort.name == "hospital/grade"
    assert got.cohort.classes == ("low", "high")
    assert {case.case_id: (case.slide_ids, case.label) for case in got.cohort.cases}["a"] == (
        ("a1", "a2"),
        "low",
    )
    first, second = got.episodes
    assert (first.protocol, first.fold) == ("cv", 0)
    assert (first.train, first.tune, first.test) == (("a", "e"), ("b",), ("c", "d"))
    assert (second.train, second.tune, second.test) == (("b", "c", "f"), ("d",), ("a", "e"))
    assert (got.flags, got.leaks, got.unit) == ((), (), "case")


def test_slides_are_units_where_the_folder_says_so(tmp_path: Path) -> None:
    got = read_patho_bench(_patho_bench(tmp_path / "h" / "t", sample_col="slide_id"))
    assert got.unit == "slide"
    assert got.flags == ("unit:slide",)
    assert got.episodes[0].train == ("a1", "a2", "e1")
    assert got.patient_of["a2"] == "a"
    assert all(case.slide_ids == (case.case_id,) for case in got.cohort.cases)


def test_a_leak_is_refused_by_name_and_marked_when_allowed(tmp_path: Path) -> None:
    rows = [("a", "a1", "0", "train", "train"), ("a", "a2", "0", "test", "train"), *ROWS[2:]]
    folder = _patho_bench(tmp_path / "h" / "t", rows)
    with pytest.raises(DataError, match=r"1 case\(s\).*fold_0: 1\): a\b.*--allow-leaky-splits"):
        read_patho_bench(folder)
    got = read_patho_bench(folder, allow_leaky=True)
    assert got.flags == ("leaky-splits", "unit:slide")
    assert got.leaks[0].cases == {"a": ("train", "test")}
    assert got.leaks[0].test_cases == ("a",)
    assert "a1" in got.episodes[0].train
    assert "a2" in got.episodes[0].test


def test_validation_counts_as_a_side(tmp_path: Path) -> None:
    rows = [("a", "a1", "0", "train", "test"), ("a", "a2", "0", "val", "test"), *ROWS[2:]]
    with pytest.raises(DataError, match=r"fold_0: 1"):
        read_patho_bench(_patho_bench(tmp_path / "h" / "t", rows))


def test_published_lung_splits_leak(shared_data: Path) -> None:
    folder = shared_data / "patho_bench" / "tcga_lung" / "subtype"
    with pytest.raises(DataError, match=r"fold_0: 14, fold_1: 19.*TCGA-.*allow-leaky"):
        read_patho_bench(folder)
    got = read_patho_bench(folder, allow_leaky=True)
    assert len(got.episodes) == 10
    assert len(got.cohort.cases) == 958
    assert len(set(got.patient_of.values())) == 862
    assert [len(leak.cases) for leak in got.leaks] == [14, 19, 17, 16, 14, 12, 12, 16, 14, 16]
    assert got.cohort.classes == ("LUAD", "LUSC")


@pytest.mark.parametrize("extra", [{}, {"task_type": "survival"}])
def test_survival_folder_and_few_shot_file(tmp_path: Path, extra: dict[str, str]) -> None:
    folder = tmp_path / "h" / "OS"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"task_col": "OS", "sample_col": "case_id"} | extra)
    )
    (folder / "k=2.tsv").write_text(
        "case_id\tslide_id\tOS_event\tOS_days\tfold_0\na\ta1\t1\t30\ttrain\nb\tb1\t0.0\t900.5\ttest\n"
    )
    got = read_patho_bench(folder, shots="2")
    assert [(c.event, c.duration_days) for c in got.cohort.cases] == [(True, 30.0), (False, 900.5)]
    episode = got.episodes[0]
    assert (episode.protocol, episode.k_shot, episode.draw) == ("few-shot", 2, 0)


def test_pair_of_cohorts(tmp_path: Path) -> None:
    _patho_bench(tmp_path / "one" / "grade", ROWS[:4])
    _patho_bench(tmp_path / "two" / "grade", ROWS[4:])
    got = read_patho_bench_pair(tmp_path, "one==two--grade")
    assert (got.episodes[0].train, got.episodes[0].test) == (("a", "b", "c"), ("d", "e", "f"))
    assert got.episodes[0].protocol == "external"
    with pytest.raises(DataError, match="TRAIN==TEST--TASK"):
        read_patho_bench_pair(tmp_path, "one-two")


def test_pair_that_shares_a_case(tmp_path: Path) -> None:
    _patho_bench(tmp_path / "one" / "grade", [ROWS[0], ROWS[2]])
    _patho_bench(tmp_path / "two" / "grade", [ROWS[1], ROWS[4]])
    with pytest.raises(DataError, match=r"external: 1\): a"):
        read_patho_bench_pair(tmp_path, "one==two--grade")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [("a", "a1", "7", "train", "test"), *ROWS[2:]]}, "label_dict"),
        ({"rows": [("a", "a1", "0", "training", "test"), *ROWS[2:]]}, "fold_0 holds training"),
        ({"rows": [ROWS[0], ROWS[0], *ROWS[2:]]}, "more than one row: a1"),
        ({"rows": [ROWS[0], ("a", "a2", "1", "train", "test"), *ROWS[2:]]}, "more than one label"),
        ({"rows": ROWS[:3]}, "fold_0 has no test"),
        ({"rows": [("a", "a1", "", "train", "test"), *ROWS[2:]]}, "without label"),
        ({"task_col": "stage"}, "no column stage"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    folder = _patho_bench(tmp_path / "h" / "t", **change)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        read_patho_bench(folder)


def _clam(folder: Path, split: str) -> tuple[Path, Path]:
    (folder / "splits").mkdir()
    (folder / "splits" / "splits_0.csv").write_text(split)
    (folder / "splits" / "splits_0_bool.csv").write_text(",train,val,test\n0001,True,False,False\n")
    table = folder / "labels.csv"
    table.write_text("case_id,slide_id,label\np,0001,yes\np,0002,yes\nq,q1,no\nr,r1,no\ns,s1,yes\n")
    return folder / "splits", table


def test_clam_splits_keep_leading_zeros_and_ragged_columns(tmp_path: Path) -> None:
    got = read_clam(*_clam(tmp_path, ",train,val,test\n0,0001,r1,q1\n1,0002,,\n2,s1,,\n"))
    episode = got.episodes[0]
    assert (episode.train, episode.tune, episode.test) == (("p", "s"), ("r",), ("q",))
    assert got.cohort.classes == ("no", "yes")
    slides = read_clam(tmp_path / "splits" / "splits_0.csv", tmp_path / "labels.csv", unit="slide")
    assert slides.episodes[0].train == ("0001", "0002", "s1")


def test_clam_splits_that_leak_or_name_unknown_slides(tmp_path: Path) -> None:
    splits, table = _clam(tmp_path, ",train,val,test\n0,0001,r1,0002\n1,s1,,q1\n")
    with pytest.raises(DataError, match=r"fold_0: 1\): p\b"):
        read_clam(splits, table)
    assert read_clam(splits, table, allow_leaky=True).flags == ("leaky-splits", "unit:slide")
    (splits / "splits_0.csv").write_text(",train,val,test\n0,0001,,zz\n")
    with pytest.raises(DataError, match=r"not in labels\.csv: zz"):
        read_clam(splits, table)
    (splits / "splits_0.csv").write_text(",train,val,test\n0,q1,,q1\n")
    with pytest.raises(DataError, match="two sides: q1"):
        read_clam(splits, table)
    with pytest.raises(DataError, match="no splits_0"):
        read_clam(tmp_path, table)
