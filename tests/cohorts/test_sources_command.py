"""`spade-bench cohort` as a command, its recipes, and the real tables it writes again."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
import yaml
from label_files import CDR, FOLLOW_UP, labels_of, write

from spade_bench.cli.cohort import cohort
from spade_bench.cohorts.labels.followup import follow_cases
from spade_bench.cohorts.labels.labelling import read_sources
from spade_bench.cohorts.labels.recipes import load_recipe, recipe_names
from spade_bench.cohorts.tables import read_cohort
from spade_bench.config import names_of
from spade_bench.errors import ConfigError, UserError
from spade_bench.registry import tasks

SLIDES = """TCGA-AA-0001-01Z-00-DX1.aa.svs
TCGA-AA-0001-01Z-00-DX2.bb.svs
TCGA-AA-0002-01Z-00-DX1.cc.svs
TCGA-AA-0003-01Z-00-DX1.dd.svs
TCGA-AA-0001-01A-01-TS1.ee.svs
TCGA-AA-0002-06A-01-DX1.ff.svs
TCGA-ZZ-0009-01Z-00-DX1.gg.svs
scan_1.svs
"""


def test_command_writes_table_and_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "follow_up.tsv", FOLLOW_UP, "latin-1")
    slides = write(tmp_path / "slides.txt", SLIDES)
    out = tmp_path / "tables" / "brca_er.csv"
    cohort(task="brca_er", labels=[table], slides=slides, out=out, as_json=True)
    account = json.loads(capsys.readouterr().out)
    assert account["schema"] == "spade-bench/cohort/1"
    assert account == json.loads(out.with_suffix(".provenance.json").read_text())
    excluded = {
        c["what"]: c["n"] for c in account["counts"] if c["excluded"] and c["unit"] == "slides"
    }
    assert excluded == {
        "slide type TS, not DX": 1,
        "sample type 06, not 01": 1,
        "case without label (indeterminate)": 1,
        "case not among the labels": 1,
        "no TCGA slide barcode": 1,
    }
    got = read_cohort(out, classes=("negative", "positive"))
    assert [(c.case_id, len(c.slide_ids), c.label, c.site) for c in got.cases] == [
        ("TCGA-AA-0001", 2, "positive", "AA"),
        ("TCGA-AA-0002", 1, "negative", "AA"),
    ]
    n_slides = sum(c["n"] for c in account["counts"] if c["what"] == "slides")
    assert n_slides + sum(excluded.values()) == len(SLIDES.split())


def test_command_refuses_options_that_do_not_fit(tmp_path: Path) -> None:
    table = write(tmp_path / "cdr.csv", CDR)
    with pytest.raises(UserError, match="--rule"):
        cohort(task="tcga_brca_survival", labels=[table], rule="any")
    with pytest.raises(UserError, match="--endpoint"):
        cohort(task="brca_er", labels=[table], endpoint="OS")
    with pytest.raises(UserError, match="mutation"):
        cohort(task="brca_er", labels=[table], variant="V600E")
    with pytest.raises(UserError, match="--slides is missing"):
        cohort(task="brca_er", labels=[table], out=tmp_path / "o.csv")
    with pytest.raises(ConfigError, match="Did you mean 'brca_er'"):
        cohort(task="brca_err", labels=[table])
    with pytest.raises(ConfigError, match="fish-first, ihc-first, ihc-only"):
        cohort(task="brca_her2", labels=[table], rule="fish")


def test_recipes_fit_their_task_cards() -> None:
    assert set(recipe_names()) == set(names_of("cohorts"))
    for name in recipe_names():
        recipe = load_recipe(name)
        if name in tasks:
            card = tasks.get(name).card
            assert recipe.classes == card.classes
            assert recipe.endpoint == card.endpoint
        labels = {one for field in recipe.fields.values() for one in field.labels.values()}
        assert labels <= set(recipe.classes)


def test_own_recipe(tmp_path: Path) -> None:
    recipe = {
        "name": "tp53", "types": ["BRCA"], "source": "x", "classes": ["wildtype", "mutant"],
        "fields": {"calls": {"columns": ["TP53"], "gene": "TP53"}},
        "rules": {"any": {"fields": ["calls"]}},
    }  # fmt: skip
    path = write(tmp_path / "tp53.yaml", yaml.safe_dump(recipe))
    assert load_recipe(str(path)).rule(None)[0] == "any"
    path.write_text(yaml.safe_dump(recipe | {"rules": {"any": {"fields": ["other"]}}}))
    with pytest.raises(ConfigError, match="unknown fields"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("task", "file", "options"),
    [
        ("brca_er", "er_pr_her2.csv", {}),
        ("brca_pr", "er_pr_her2.csv", {}),
        ("brca_her2", "er_pr_her2.csv", {"rule": "ihc-only"}),
        ("tcga_brca_survival", "tcga_cdr.csv.gz", {"endpoint": "OS", "keep_redacted": True}),
        ("tcga_luad_survival", "tcga_cdr.csv.gz", {"endpoint": "OS"}),
        ("tcga_kirc_survival", "tcga_cdr.csv.gz", {"endpoint": "OS"}),
    ],
)
def test_real_tables_come_out_as_they_lie_there(
    shared_data: Path, tmp_path: Path, task: str, file: str, options: dict[str, object]
) -> None:
    out = tmp_path / "out.csv"
    survival = task.endswith("survival")
    cohort(
        task=task,
        labels=[shared_data / "tcga_labels" / file],
        slides=shared_data / "tcga_hipt" / "features_hipt4k",
        out=out,
        keep_zero_times=survival,
        **options,  # type: ignore[arg-type]
    )
    want = (shared_data / "tcga_hipt" / "tables" / f"{task}.csv").read_text()
    assert out.read_text() == want.replace("\r\n", "\n")


def test_real_counts(shared_data: Path) -> None:
    labels = shared_data / "tcga_labels"
    receptors = labels / "er_pr_her2.csv"
    er, pr = labels_of("brca_er", receptors), labels_of("brca_pr", receptors)
    her2 = labels_of("brca_her2", receptors, rule="ihc-only")
    assert _counts(er) == {"positive": 810, "negative": 238}
    assert _counts(pr) == {"positive": 700, "negative": 345}
    assert _counts(her2) == {"positive": 164, "negative": 566}
    assert er.reasons == {"indeterminate": 2, "no value given": 49}
    assert her2.reasons["equivocal"] == 179
    sources = read_sources([labels / "tcga_cdr.csv.gz"])
    recipe = load_recipe("tcga_brca_survival")
    for endpoint, n, events in (
        ("OS", 1096, 151),
        ("PFI", 1096, 145),
        ("DSS", 1077, 83),
        ("DFI", 952, 84),
    ):
        got = follow_cases(sources, recipe, endpoint, keep_zero_times=True, keep_redacted=True)
        assert (len(got.survival), sum(e for e, _ in got.survival.values())) == (n, events)
    assert follow_cases(sources, recipe, "OS").dropped["TCGA-A7-A0DC"] == "redacted by TCGA"
    histology = labels_of("tcga_brca_subtype", labels / "tcga_cdr.csv.gz", keep_redacted=True)
    assert _counts(histology) == {"IDC": 784, "ILC": 203}


def _counts(labelled: object) -> dict[str, int]:
    values = list(labelled.label.values())  # type: ignore[attr-defined]
    return {value: values.count(value) for value in set(values)}


def test_real_mutations_of_breast_cancer(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "tcga_labels" / "tcga_mutations.csv.gz"
    recipe = {
        "name": "brca_pik3ca", "types": ["BRCA"], "source": "x", "classes": ["wildtype", "mutant"],
        "fields": {"calls": {"columns": ["PIK3CA"], "gene": "PIK3CA"}},
        "rules": {"any": {"fields": ["calls"]}},
    }  # fmt: skip
    own = write(tmp_path / "own.yaml", yaml.safe_dump(recipe))
    got = labels_of(str(own), path)
    with gzip.open(path, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["STUDY_ID"].startswith("brca")]
    calls = [row["PIK3CA"] for row in rows]
    assert got.reasons["not sequenced"] == calls.count("NS") > 0
    assert _counts(got)["wildtype"] == calls.count("WT")
    assert len(got.label) + len(got.dropped) == len(rows)
