"""`spade-bench cohort`: tables out of downloaded label files."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from label_files import CDR, FOLLOW_UP, labels_of, write

from spade_bench.cohorts.labels.barcodes import list_slides, parse_barcode
from spade_bench.cohorts.labels.downloads import read_source
from spade_bench.cohorts.labels.followup import follow_cases
from spade_bench.cohorts.labels.labelling import read_sources
from spade_bench.cohorts.labels.recipes import load_recipe
from spade_bench.cohorts.labels.verdicts import judge_calls
from spade_bench.errors import ConfigError, DataError


def test_receptors_from_the_follow_up_table(tmp_path: Path) -> None:
    table = write(tmp_path / "follow_up.tsv", FOLLOW_UP, "latin-1")
    got = labels_of("brca_er", table)
    assert got.label == {"TCGA-AA-0001": "positive", "TCGA-AA-0002": "negative"}
    assert got.dropped == {"TCGA-AA-0003": "indeterminate", "TCGA-AA-0004": "no value given"}
    assert got.filtered == {"rows of other cancer types": 1}


def test_her2_rules_and_their_counts(tmp_path: Path) -> None:
    table = write(tmp_path / "follow_up.tsv", FOLLOW_UP, "latin-1")
    fish = labels_of("brca_her2", table)
    assert fish.label == {
        "TCGA-AA-0001": "negative",  # FISH overrules immunohistochemistry
        "TCGA-AA-0002": "positive",  # FISH resolves equivocal
        "TCGA-AA-0004": "negative",  # equivocal FISH leaves it to immunohistochemistry
    }
    assert fish.dropped == {"TCGA-AA-0003": "equivocal"}
    assert "decided by: fish 2, ihc 1" in fish.notes
    assert "ihc equivocal, decided by fish: 1 case(s)" in fish.notes
    assert any("contradict each other in 1 case(s); fish was taken" in note for note in fish.notes)
    assert labels_of("brca_her2", table, rule="ihc-first").label["TCGA-AA-0001"] == "positive"
    only = labels_of("brca_her2", table, rule="ihc-only")
    assert set(only.dropped) == {"TCGA-AA-0002", "TCGA-AA-0003"}


def test_an_unknown_value_is_refused_by_name(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "PATIENT_ID,ER_STATUS_BY_IHC\nTCGA-AA-0001,Maybe\n")
    with pytest.raises(DataError, match=r"t\.csv, column ER_STATUS_BY_IHC: unknown value 'Maybe'"):
        labels_of("brca_er", table)


def test_cbioportal_study_file_and_web_download_are_the_same(tmp_path: Path) -> None:
    study = "#Patient Identifier\tER\n#STRING\tSTRING\n#1\t1\nPATIENT_ID\tER_STATUS_BY_IHC\n"
    body = "TCGA-AA-0001\tPositive\nTCGA-AA-0002\tNA\n"
    web = "Study ID\tPatient ID\tSample ID\tER Status By IHC\n"
    rows = "brca_tcga\tTCGA-AA-0001\tTCGA-AA-0001-01\tPositive\n"
    rows += "brca_tcga\tTCGA-AA-0001\tTCGA-AA-0001-06\tNegative\n"
    first = labels_of("brca_er", write(tmp_path / "data_clinical_patient.txt", study + body))
    second = labels_of("brca_er", write(tmp_path / "web.tsv", web + rows))
    assert first.label == second.label == {"TCGA-AA-0001": "positive"}
    assert first.dropped == {"TCGA-AA-0002": "no value given"}
    assert second.filtered == {"rows of sample type 06": 1}
    assert any("does not name cancer types" in note for note in first.notes)


@pytest.mark.parametrize(
    ("value", "label", "reason"),
    [
        ("WT", "wildtype", ""),
        ("NS", None, "not sequenced"),
        ("V600E", "mutant", ""),
        ("p.V600E (driver) D594G", "mutant", ""),
        ("X125_splice", "mutant", ""),
        ("T125=", None, "only synonymous calls"),
        ("T125= R175H", "mutant", ""),
    ],
)
def test_calls(value: str, label: str | None, reason: str) -> None:
    got = judge_calls(value, ["wildtype", "mutant"])
    assert (got.label, got.reason) == (label, reason)


def test_one_variant_leaves_other_mutants_out() -> None:
    classes = ["wildtype", "mutant"]
    assert judge_calls("G469A V600E", classes, "V600E").label == "mutant"
    assert judge_calls("G469A", classes, "p.V600E").reason == "mutant, but not p.V600E"
    assert judge_calls("WT", classes, "V600E").label == "wildtype"


def test_not_sequenced_is_never_wild_type(tmp_path: Path) -> None:
    table = "STUDY_ID\tSAMPLE_ID\tBRAF\n" + "".join(
        f"coadread_tcga_pan_can_atlas_2018\tTCGA-AA-{i:04d}-{kind}\t{call}\n"
        for i, kind, call in [
            (1, "01", "NS"), (2, "01", "WT"), (3, "01", "V600E"), (4, "06", "V600E"),
            (5, "01", ""), (6, "01", "WT"), (6, "01", "V600E"),
        ]
    )  # fmt: skip
    got = labels_of("crc_braf", write(tmp_path / "mutations.txt", table))
    assert got.label == {"TCGA-AA-0002": "wildtype", "TCGA-AA-0003": "mutant"}
    assert got.dropped == {
        "TCGA-AA-0001": "not sequenced",
        "TCGA-AA-0005": "no value given",
        "TCGA-AA-0006": "samples of the case disagree",
    }
    assert got.filtered == {"rows of sample type 06": 1}


def test_maf_needs_the_list_of_sequenced_samples(tmp_path: Path) -> None:
    maf = write(
        tmp_path / "data_mutations.txt",
        "Hugo_Symbol\tVariant_Classification\tTumor_Sample_Barcode\tHGVSp_Short\n"
        "BRAF\tMissense_Mutation\tTCGA-AA-0001-01\tp.V600E\n"
        "BRAF\tSilent\tTCGA-AA-0002-01\tp.L10=\n"
        "KRAS\tMissense_Mutation\tTCGA-AA-0003-01\tp.G12D\n",
    )
    with pytest.raises(DataError, match="cases_sequenced"):
        labels_of("crc_braf", maf)
    listed = write(
        tmp_path / "cases_sequenced.txt",
        "cancer_study_identifier: coadread\ncase_list_ids: "
        "TCGA-AA-0001-01\tTCGA-AA-0002-01\tTCGA-AA-0004-01\n",
    )
    got = labels_of("crc_braf", maf, listed)
    assert got.label == {
        "TCGA-AA-0001": "mutant",
        "TCGA-AA-0002": "wildtype",
        "TCGA-AA-0004": "wildtype",
    }


def test_msi_rules(tmp_path: Path) -> None:
    scores = "PATIENT_ID,MSI_SCORE_MANTIS,MSI_SENSOR_SCORE\n" + "".join(
        f"TCGA-AA-000{i},{mantis},{sensor}\n"
        for i, (mantis, sensor) in enumerate([(0.7, 20), (0.3, 1), (0.5, 2), (0.4, 10), ("", 20)])
    )
    got = labels_of("crc_msi", write(tmp_path / "s.csv", scores), rule="scores")
    assert got.label == {"TCGA-AA-0000": "MSI-H", "TCGA-AA-0001": "MSS", "TCGA-AA-0003": "MSI-H"}
    assert set(got.dropped.values()) == {"mantis and sensor disagree", "no value given"}
    liu = "TCGA Participant Barcode,MSI Status\nTCGA-AA-0001,MSI-L\nTCGA-AA-0002,MSI-H\n"
    assert labels_of("crc_msi", write(tmp_path / "liu.csv", liu)).label == {
        "TCGA-AA-0001": "MSS",
        "TCGA-AA-0002": "MSI-H",
    }


def test_gleason_groups(tmp_path: Path) -> None:
    table = "bcr_patient_barcode,acronym,primary_pattern,secondary_pattern\n" + "".join(
        f"TCGA-AA-000{i},PRAD,{one},{two}\n"
        for i, (one, two) in enumerate([(3, 3), (3, 4), (4, 3), (3, 5), (4, "[Not Available]")])
    )
    got = labels_of("tcga_prad_grade", write(tmp_path / "t.csv", table))
    assert list(got.label.values()) == ["<=6", "3+4", "4+3", ">=8"]
    assert got.dropped == {"TCGA-AA-0004": "no value given"}


def test_survival_from_tcga_cdr(tmp_path: Path) -> None:
    sources = read_sources([write(tmp_path / "cdr.csv", CDR)])
    recipe = load_recipe("tcga_brca_survival")
    got = follow_cases(sources, recipe, "PFI")
    assert got.survival == {"TCGA-AA-0001": (True, 30.0)}
    assert got.dropped == {
        "TCGA-AA-0002": "PFI time of zero",
        "TCGA-AA-0003": "redacted by TCGA",
        "TCGA-AA-0004": "no PFI time given",
        "TCGA-AA-0005": "PFI time below zero",
    }
    kept = follow_cases(sources, recipe, "PFI", keep_zero_times=True, keep_redacted=True)
    assert set(kept.survival) == {"TCGA-AA-0001", "TCGA-AA-0002", "TCGA-AA-0003"}
    assert len(follow_cases(sources, recipe, "OS").survival) == 4
    with pytest.raises(ConfigError, match="OS, DSS, DFI, PFI"):
        follow_cases(sources, recipe, "PFS")
    with pytest.raises(DataError, match=r"DSS and DSS\.time"):
        follow_cases(sources, recipe, "DSS")


def test_survival_from_cbioportal_counts_months(tmp_path: Path) -> None:
    table = "PATIENT_ID,PFS_STATUS,PFS_MONTHS\n"
    table += "TCGA-AA-0001,1:PROGRESSION,12\nTCGA-AA-0002,0:CENSORED,24\n"
    recipe = load_recipe("tcga_brca_survival")
    got = follow_cases(read_sources([write(tmp_path / "t.csv", table)]), recipe, "PFI").survival
    assert got["TCGA-AA-0001"] == (True, pytest.approx(365.25))
    assert got["TCGA-AA-0002"] == (False, pytest.approx(730.5))


def test_workbook(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="workbooks need the extra 'xlsx'")
    book = openpyxl.Workbook()
    book.active.append(["Notes of the authors"])
    sheet = book.create_sheet("TCGA-CDR")
    for row in csv.reader(CDR.splitlines()):
        sheet.append(row)
    book.save(tmp_path / "cdr.xlsx")
    recipe = load_recipe("tcga_brca_survival")
    got = follow_cases(read_sources([tmp_path / "cdr.xlsx"]), recipe, "OS")
    assert got.survival["TCGA-AA-0002"] == (True, 5.0)


def test_tables_without_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column names cases"):
        read_source(write(tmp_path / "a.csv", "x,y\n1,2\n"))
    with pytest.raises(DataError, match="no TCGA barcode"):
        read_source(write(tmp_path / "b.csv", "PATIENT_ID,y\nP-0001,2\n"))
    with pytest.raises(DataError, match="no rows"):
        read_source(write(tmp_path / "c.csv", "#only\n#comments\n"))
    with gzip.open(tmp_path / "d.csv.gz", "wt") as file:
        file.write("PATIENT_ID,y\nTCGA-AA-0001,2\nother,3\n")
    assert read_source(tmp_path / "d.csv.gz").n_foreign == 1


def test_barcodes() -> None:
    name = "TCGA-3C-AALI-01Z-00-DX1.F6E9A5DF-D8FB-45CF-B4BD-C6B76294C291"
    got = parse_barcode(name)
    assert got is not None
    assert (got.case_id, got.site, got.sample_type, got.vial, got.kind) == (
        "TCGA-3C-AALI", "3C", "01", "Z", "DX",
    )  # fmt: skip
    frozen = parse_barcode("TCGA-A1-A0SB-01A-01-TSA.uuid")
    assert frozen is not None
    assert frozen.kind == "TS"
    assert parse_barcode("slide_12") is None


def test_lists_of_slides(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    (folder / "patches").mkdir(parents=True)
    for name in ("a.svs", "b.v2.tiff", "notes.txt", ".hidden.svs", "patches/a_patches.h5"):
        (folder / name).touch()
    assert list_slides(folder) == ["a", "b.v2"]
    manifest = "id\tfilename\tmd5\tsize\tstate\n1\tb.svs\tx\t1\tok\n2\ta.svs\tx\t1\tok\n"
    assert list_slides(write(tmp_path / "gdc_manifest.txt", manifest)) == ["a", "b"]
    assert list_slides(write(tmp_path / "list.txt", "x.svs\ny.svs\n")) == ["x", "y"]
    assert list_slides(write(tmp_path / "t.csv", "case_id,slide_id\nc,s1\nc,s2\n")) == ["s1", "s2"]
    with pytest.raises(DataError, match="no column"):
        list_slides(write(tmp_path / "u.csv", "a,b\n1,2\n"))
