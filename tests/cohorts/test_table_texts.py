"""Tables as people save them: encodings, separators, workbooks, spellings and names of columns."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import pandas as pd
import pytest

from spade_bench.cohorts.columns import Columns
from spade_bench.cohorts.labels.barcodes import list_slides
from spade_bench.cohorts.labels.downloads import read_source
from spade_bench.cohorts.labels.labelling import read_sources
from spade_bench.cohorts.published.splits import read_patho_bench
from spade_bench.cohorts.spelling import fold, is_missing, read_flag
from spade_bench.cohorts.tables import read_cohort, read_table
from spade_bench.errors import DataError
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.manifest import read_manifest

TEXT = "case_id,slide_id,label,site\nä1,s1,wt,Köln\nb2,s2,mut,Bad Tölz\nc3,s3,wt,Wien …\n"
ENCODINGS = ("utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize(("encoding", "separator"), list(itertools.product(ENCODINGS, ",;\t")))
def test_every_encoding_and_separator_reads_alike(
    tmp_path: Path, encoding: str, separator: str
) -> None:
    text = TEXT.replace(",", separator)
    if encoding == "latin-1":
        text = text.replace(" …", "")
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    frame = read_table(path)
    assert list(frame.columns) == ["case_id", "slide_id", "label", "site"]
    assert list(frame["case_id"]) == ["ä1", "b2", "c3"]
    assert list(frame["site"])[:2] == ["Köln", "Bad Tölz"]


@pytest.mark.parametrize("name", ["t.xlsx", "t.csv"])
def test_a_workbook_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame({"case_id": ["a", "b"], "slide_id": [1, 2], "label": ["wt", "mut"]})
    with pd.ExcelWriter(tmp_path / "t.xlsx") as writer:
        frame.to_excel(writer, index=False)
    (tmp_path / "t.xlsx").rename(tmp_path / name)
    cohort = read_cohort(tmp_path / name)
    assert [case.slide_ids for case in cohort.cases] == [("1",), ("2",)]


def test_a_workbook_without_the_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04 not opened")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(DataError, match=r"spade-bench\[xlsx\]"):
        read_table(tmp_path / "t.xlsx")


def test_a_damaged_workbook_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    (tmp_path / "t.xlsx").write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(DataError, match="cannot read the workbook"):
        read_table(tmp_path / "t.xlsx")


def test_rows_longer_than_the_header_never_shift(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,label\na,s1,wt,x\nb,s2,mut,y\n")
    with pytest.raises(DataError, match="more cells than the header"):
        read_table(path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,label,label\na,s1,wt,mut\nb,s2,mut,wt\n")
    with pytest.raises(DataError, match="two columns are called label"):
        read_table(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_lists_of_slides_and_label_tables_read_the_same_way(
    tmp_path: Path, encoding: str, separator: str
) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(f"slide_id{separator}x\nö1.svs{separator}1\n".encode(encoding))
    assert list_slides(listed) == ["ö1"]
    labels = tmp_path / "labels.txt.gz"
    text = f"# note\nPATIENT_ID{separator}City\nTCGA-AA-0001{separator}Köln\n"
    labels.write_bytes(gzip.compress(text.encode(encoding)))
    assert list(read_source(labels).frame["CITY"]) == ["Köln"]


@pytest.mark.parametrize("one", ["1", "1.0", "TRUE", "true", "True", "1:DECEASED", "1.00"])
@pytest.mark.parametrize("zero", ["0", "0.0", "FALSE", "false", "0:LIVING"])
def test_flags_have_one_rule_wherever_they_stand(tmp_path: Path, one: str, zero: str) -> None:
    assert read_flag(one) is True
    assert read_flag(zero) is False
    path = tmp_path / "t.csv"
    path.write_text(
        f"case_id,slide_id,event,duration_days,holdout,simulated\n"
        f"a,s1,{one},30,{zero},{one}\na,s0,1,30.0,0,1\nb,s2,{zero},40,{one},{one}\n"
    )
    cohort = read_cohort(path, survival=True)
    assert [case.event for case in cohort.cases] == [True, False]
    assert [case.split for case in cohort.cases] == ["train", "test"]
    assert cohort.simulated


@pytest.mark.parametrize("word", ["", "NA", "N/A", "na", "NaN", "None", "null", "NULL", "<NA>"])
def test_what_says_nothing_is_blank_everywhere(tmp_path: Path, word: str) -> None:
    assert is_missing(word)
    path = tmp_path / "t.csv"
    path.write_text(f"case_id,slide_id,label\na,s1,wt\nb,s2,mut\nc,s3,{word}\n")
    with pytest.raises(DataError, match=r"1 row.s. without label: s3.*None or null"):
        read_cohort(path)
    assert len(read_cohort(path, drop_unlabelled=True).cases) == 2


def test_a_declared_class_called_none_stays_a_class(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,label\na,s1,none\nb,s2,mild\n")
    cohort = read_cohort(path, classes=("none", "mild"))
    assert [case.label for case in cohort.cases] == ["none", "mild"]


@pytest.mark.parametrize(
    ("usual", "other"), [("positive", "Positive"), ("1", "1.0"), ("True", "TRUE"), ("2.0", "2")]
)
@pytest.mark.parametrize("declared", [True, False])
def test_spellings_of_one_label_are_one_class_and_both_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], usual: str, other: str, declared: bool
) -> None:
    assert fold(usual) == fold(other)
    path = tmp_path / "t.csv"
    path.write_text(
        f"case_id,slide_id,label\na,s1,{usual}\na,s2,{other}\nb,s3,{usual}\nc,s4,rest\n"
    )
    cohort = read_cohort(path, classes=("rest", usual) if declared else ())
    assert [case.label for case in cohort.cases] == [usual, usual, "rest"]
    assert set(cohort.classes) == {"rest", usual}
    assert f"'{other}' as '{usual}' (1 row(s))" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ("tum\u00f6r", "tumo\u0308r"),  # one letter, or a letter and its dots
        ("tumor", "tum\u200bor"),
        ("tumor", "\ufefftumor"),
        ("tumor", "tu\u00admor"),
        ("not sure", "not\u00a0sure"),
        ("not sure", "not  sure"),
        ("2", "\uff12"),
    ],
)
@pytest.mark.parametrize("declared", [True, False])
def test_spellings_that_look_alike_are_one_class_and_shown_as_code_points(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], usual: str, other: str, declared: bool
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f"case_id,slide_id,label\na,s1,{usual}\nd,s2,{other}\nb,s3,{usual}\nc,s4,rest\n",
        encoding="utf-8",
    )
    cohort = read_cohort(path, classes=("rest", usual) if declared else ())
    assert set(cohort.classes) == {"rest", usual}
    told = capsys.readouterr().err
    assert f"{other!a} as {usual!a} (1 row(s))".replace("\\", "") in told.replace("\\", "")


def test_cases_that_differ_in_spelling_only_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,label\nP1,s1,wt\np1,s2,mut\n")
    assert len(read_cohort(path).cases) == 2
    assert "p1 and P1" in capsys.readouterr().err


COLUMNS = Columns("patient", "wsi", "class", "dead", "os_days")


@pytest.mark.parametrize("survival", [False, True])
def test_columns_may_be_called_otherwise(tmp_path: Path, survival: bool) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "patient,wsi,class,dead,os_days,case_id,event\na,s1,wt,1,30,x,0\nb,s2,mut,0,40,x,0\n"
    )
    cohort = read_cohort(path, survival=survival, columns=COLUMNS)
    assert [(c.case_id, c.slide_ids) for c in cohort.cases] == [("a", ("s1",)), ("b", ("s2",))]
    if survival:
        assert [(c.event, c.duration_days) for c in cohort.cases] == [(True, 30.0), (False, 40.0)]
    else:
        assert [c.label for c in cohort.cases] == ["wt", "mut"]


def test_missing_columns_say_which_flag_names_them(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("Patient,slide,label\na,s1,wt\nb,s2,mut\n")
    with pytest.raises(DataError, match=r"--case-column Patient --slide-column slide"):
        read_cohort(path)
    path.write_text("case_id,slide_id,Labl,lab\na,s1,wt,x\nb,s2,mut,x\n")  # a slip of the pen
    with pytest.raises(DataError, match=r"--label-column Labl"):
        read_cohort(path)
    path.write_text("slide_id,label\ns1,wt\ns2,mut\n")  # a column that is needed itself is none
    with pytest.raises(DataError, match=r"--case-column NAME"):
        read_cohort(path)
    path.write_text("case_id,slide_id,OS,OS.time\na,s1,1,3\nb,s2,0,4\n")
    with pytest.raises(DataError, match=r"--event-column OS --days-column OS\.time"):
        read_cohort(path, survival=True)


def test_the_value_that_means_an_event_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,event,duration_days\na,s1,dead,30\nb,s2,alive,40\n")
    with pytest.raises(DataError, match="--event-value"):
        read_cohort(path, survival=True)
    cohort = read_cohort(path, survival=True, event_value="Dead")
    assert [case.event for case in cohort.cases] == [True, False]


def test_a_cohort_to_test_on_may_lack_a_class(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,slide_id,label\na,s1,wt\nb,s2,wt\n")
    with pytest.raises(DataError, match="no case is labelled mut"):
        read_cohort(path, classes=("wt", "mut"))
    assert read_cohort(path, classes=("wt", "mut"), partial=True).classes == ("wt", "mut")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("kind", ["manifest", "hest"])
def test_lists_of_sections_read_the_same_way(
    tmp_path: Path, encoding: str, separator: str, kind: str
) -> None:
    name = "sample_id" if kind == "manifest" else "id"
    text = f"{name},h5ad,organ\nA,a.h5ad,Darm Größe\n".replace(",", separator)
    path = tmp_path / ("m.csv" if kind == "manifest" else "HEST_v1_1_0.csv")
    path.write_bytes(text.encode(encoding))
    (tmp_path / "st").mkdir()
    (tmp_path / "st" / "A.h5ad").touch()
    (tmp_path / "a.h5ad").touch()
    samples = read_manifest(path) if kind == "manifest" else read_hest(tmp_path)
    assert [(sample.sample_id, sample.organ) for sample in samples] == [("A", "Darm Größe")]


def sections(kind: str, folder: Path, text: str) -> list[tuple[str, str, str | None]]:
    """Id, organ and patient of the samples of a list of sections; the id is called SID."""
    (folder / "st").mkdir(exist_ok=True)
    (folder / "st" / "A.h5ad").touch()
    (folder / "a.h5ad").touch()
    path = folder / ("m.csv" if kind == "manifest" else "HEST_v1_1_0.csv")
    path.write_text(text.replace("SID", "sample_id" if kind == "manifest" else "id"))
    samples = read_manifest(path) if kind == "manifest" else read_hest(folder)
    return [(sample.sample_id, sample.organ, sample.patient) for sample in samples]


@pytest.mark.parametrize("kind", ["manifest", "hest"])
@pytest.mark.parametrize(
    ("above", "below"),
    [
        ("sep=;\n", ""),
        ("\n\n", ""),
        ("", ";;;\n"),
        ("", "\n\n"),
        ("", " ; ;\n"),
        ("sep=;\n\n", ";\n"),
    ],
)
def test_what_spreadsheets_leave_around_a_list_is_no_row(
    kind: str, above: str, below: str, tmp_path: Path
) -> None:
    text = f"{above}SID;h5ad;organ;patient\nA;a.h5ad;Lung;P1\n{below}"
    assert sections(kind, tmp_path, text) == [("A", "Lung", "P1")]


@pytest.mark.parametrize("kind", ["manifest", "hest"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_of_a_list_never_shift(kind: str, separator: str, tmp_path: Path) -> None:
    text = "SID,h5ad,organ,patient\nA,a.h5ad,Lung,left,P1\n".replace(",", separator)
    with pytest.raises(DataError, match=r"line 2: 5 cells for 4 columns\. Put cells"):
        sections(kind, tmp_path, text)
    quoted = text.replace(f"Lung{separator}left", f'"Lung{separator}left"')
    assert sections(kind, tmp_path, quoted) == [("A", f"Lung{separator}left", "P1")]
    twice = "SID,h5ad,organ,organ\nA,a.h5ad,Lung,Skin\n".replace(",", separator)
    with pytest.raises(DataError, match="the column organ occurs twice"):
        sections(kind, tmp_path, twice)


def test_a_line_that_names_the_separator_is_no_header(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("sep=;\ncase_id;slide_id;label\na;s,1;wt\nb;s,2;mut\n")
    assert list(read_table(tmp_path / "t.csv")["slide_id"]) == ["s,1", "s,2"]


def test_cohort_reads_columns_by_any_name(tmp_path: Path) -> None:
    labels, slides = tmp_path / "labels.csv", tmp_path / "slides.csv"
    labels.write_text("Pat;er_status_by_ihc\nTCGA-AA-0001;Positive\nTCGA-AA-0002;Negative\n")
    rows = [f"TCGA-AA-000{i}-01Z-00-DX1.svs;x" for i in (1, 2)]
    slides.write_text("\n".join(["Bild;y", *rows]) + "\n")
    assert list(read_source(labels, "Pat").frame["_CASE"]) == ["TCGA-AA-0001", "TCGA-AA-0002"]
    with pytest.raises(DataError, match="--case-column"):
        read_source(labels)
    assert list_slides(slides, "Bild") == [f"TCGA-AA-000{i}-01Z-00-DX1" for i in (1, 2)]
    with pytest.raises(DataError, match="--slide-column"):
        list_slides(slides)


def test_patho_bench_tables_read_the_same_way(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "task"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        "task_col: status\nsample_col: case_id\nlabel_dict: {0: wt, 1: mut}\n"
    )
    rows = [f"c{i};s{i};{i % 2}.0;{'Test' if i < 4 else 'train'}" for i in range(12)]
    text = "\n".join(["patient;wsi;status;fold_0", *rows]) + "\n"
    (folder / "k=all.tsv").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="--case-column patient --slide-column wsi"):
        read_patho_bench(folder)
    found = read_patho_bench(folder, columns=Columns(case_id="patient", slide_id="wsi"))
    assert found.cohort.classes == ("wt", "mut")
    assert len(found.episodes[0].test) == 4


def test_a_case_column_that_no_table_has_is_refused(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("PATIENT_ID,er\nTCGA-AA-0001,Positive\n")
    with pytest.raises(DataError, match="no given table has a column 'Pat'"):
        read_sources([labels], "Pat")
