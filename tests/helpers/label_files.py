"""Label files as they are downloaded, and their labels."""

from __future__ import annotations

from pathlib import Path

from spade_bench.cohorts.labels.labelling import label_cases, read_sources
from spade_bench.cohorts.labels.recipes import load_recipe

FOLLOW_UP = """bcr_patient_barcode\tacronym\tbreast_carcinoma_estrogen_receptor_status\t\
lab_proc_her2_neu_immunohistochemistry_receptor_status\t\
lab_procedure_her2_neu_in_situ_hybrid_outcome_type\tplace
TCGA-AA-0001\tBRCA\tPositive\tPositive\tNegative\tM\xfcnchen
TCGA-AA-0002\tBRCA\tNegative\tEquivocal\tPositive\t"x
TCGA-AA-0003\tBRCA\tIndeterminate\tEquivocal\t[Not Available]\ty
TCGA-AA-0004\tBRCA\t[Not Evaluated]\tNegative\tEquivocal\tz
TCGA-AA-0005\tOV\tPositive\tPositive\tPositive\tz
"""
CDR = """bcr_patient_barcode,type,PFI,PFI.time,OS,OS.time,Redaction
TCGA-AA-0001,BRCA,1,30,0,400,
TCGA-AA-0002,BRCA,0,0,1,5,
TCGA-AA-0003,BRCA,0,100,0,100,Redacted
TCGA-AA-0004,BRCA,1,#N/A,1,80,
TCGA-AA-0005,BRCA,0,-3,1,80,
TCGA-AA-0006,LUAD,0,70,1,80,
"""


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


def labels_of(recipe: str, *paths: Path, rule: str | None = None, **options: object) -> object:
    found = load_recipe(recipe)
    return label_cases(read_sources(paths), found, found.rule(rule)[1], **options)  # type: ignore[arg-type]
