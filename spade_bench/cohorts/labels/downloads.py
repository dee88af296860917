"""Read the label tables that people download, whatever they call their columns.

Recognised by content: TCGA-CDR (xlsx or text), the PanCanAtlas follow-up table, cBioPortal's
clinical and sample tables (study files with ``#`` headers, or downloads of the web page), its
wide mutation table, and a MAF with the list of sequenced samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.tabletext import read_frame
from spade_bench.errors import DataError, name_some

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "CASE",
    "SAMPLE_TYPE",
    "STUDY",
    "SourceTable",
    "column_key",
    "expand_study",
    "read_source",
]

CASE, SAMPLE_TYPE, STUDY = "_CASE", "_SAMPLE_TYPE", "_STUDY"
_SAMPLE_COLUMNS = ("SAMPLE_ID", "SAMPLE", "TUMOR_SAMPLE_BARCODE")
_CASE_COLUMNS = (
    "BCR_PATIENT_BARCODE",
    "PATIENT_ID",
    "PATIENT",
    "CASE_ID",
    "TCGA_PARTICIPANT_BARCODE",
    "PATIENT_BARCODE",
)
_TYPE_COLUMNS = (
    "CANCER_TYPE_ACRONYM",
    "TCGA_PANCANATLAS_CANCER_TYPE_ACRONYM",
    "ACRONYM",
    "TYPE",
)
_BARCODE = re.compile(r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})(?:-(\d{2}))?")
_BLANK = re.compile(r"|NA|N/A|NaN|nan|None|\[.*\]|#N/A")
_GLEASON = (
    ("PRIMARY_PATTERN", "SECONDARY_PATTERN"),
    ("GLEASON_PATTERN_PRIMARY", "GLEASON_PATTERN_SECONDARY"),
)
# Studies of cBioPortal that hold more than one cancer type of TCGA.
_STUDY_TYPES = {"COADREAD": ("COAD", "READ"), "KIPAN": ("KIRC", "KIRP", "KICH")}


@dataclass(frozen=True)
class SourceTable:
    """One downloaded table.

    Attributes:
        path: Where it lies.
        frame: Text columns under keys (`column_key`); blank is None. `_CASE` holds the case,
            `_SAMPLE_TYPE` the two digits of the sample type or None, `_STUDY` the cancer type.
        columns: Key -> the column's name in the file.
        n_foreign: Rows left out because they name no TCGA case.
    """

    path: Path
    frame: pd.DataFrame
    columns: dict[str, str]
    n_foreign: int

    def find(self, names: Iterable[str]) -> str | None:
        """Key of the first of these columns that the table has."""
        return next((key for name in names if (key := column_key(name)) in self.columns), None)


def column_key(name: str) -> str:
    """Spell a column name one way: `ER Status By IHC` and `er_status_by_ihc` are the same."""
    return re.sub(r"[^A-Z0-9]+", "_", str(name).upper()).strip("_")


def read_source(path: Path, case_column: str = "") -> SourceTable:
    """Read one table.

    Args:
        path: csv, tsv or txt, also compressed, or xlsx.
        case_column: Column that holds the TCGA barcode, where it is none of the known ones.

    Raises:
        DataError: When it cannot be read or no column names TCGA cases.
    """
    raw = _raw(path, case_column)
    keys = [column_key(column) for column in raw.columns]
    columns = {key: str(name) for key, name in zip(keys, raw.columns, strict=True)}
    frame = raw.set_axis(keys, axis=1)
    frame = frame.loc[:, ~frame.columns.duplicated()].apply(lambda column: column.str.strip())
    frame = frame.mask(frame.apply(lambda column: column.str.fullmatch(_BLANK)), None)
    frame, columns = _with_gleason(frame, columns)
    sample = next((key for key in _SAMPLE_COLUMNS if key in columns), None)
    case = next((key for key in _CASE_COLUMNS if key in columns), None)
    if case_column and column_key(case_column) in columns:
        sample, case = None, column_key(case_column)
    named = sample or case
    if named is None:
        raise DataError(
            f"no column names cases (found {name_some(raw.columns, 8)})",
            where=str(path),
            fix="TCGA barcodes are expected in bcr_patient_barcode, PATIENT_ID or SAMPLE_ID; name "
            "another column with --case-column",
        )
    parts = frame[named].fillna("").str.extract(_BARCODE)
    known = parts[0].notna()
    if not known.any():
        raise DataError(f"column {columns[named]} holds no TCGA barcode", where=str(path))
    frame = frame.assign(
        **{CASE: parts[0], SAMPLE_TYPE: parts[1] if sample else None, STUDY: _types(frame)}
    )[known]
    frame = frame.reset_index(drop=True).astype(object)
    return SourceTable(path, frame.where(frame.notna(), None), columns, int((~known).sum()))


def expand_study(name: object) -> tuple[str, ...]:
    """Cancer types of a study: `COADREAD` is COAD and READ."""
    return _STUDY_TYPES.get(str(name), (str(name),))


def _with_gleason(
    frame: pd.DataFrame, columns: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Join primary and secondary Gleason pattern as `3+4`, where a table has them."""
    for first, second in _GLEASON:
        if first in columns and second in columns:
            pair = frame[first] + "+" + frame[second]
            name = f"{columns[first]} + {columns[second]}"
            return frame.assign(GLEASON_PATTERNS=pair), columns | {"GLEASON_PATTERNS": name}
    return frame, columns


def _types(frame: pd.DataFrame) -> Any:
    """Cancer type of each row; None where the table does not say."""
    column = next((key for key in _TYPE_COLUMNS if key in frame), None)
    if column is not None:
        return frame[column].str.upper()
    if "STUDY_ID" in frame:
        return frame["STUDY_ID"].str.split("_").str[0].str.upper()
    return None


def _raw(path: Path, case_column: str = "") -> pd.DataFrame:
    """The table as text, whatever its separator and encoding; of a workbook, the fitting sheet."""
    names = {*_CASE_COLUMNS, *_SAMPLE_COLUMNS, column_key(case_column)}
    return read_frame(
        path,
        wanted=lambda header: bool({column_key(column) for column in header} & names),
        comments=True,
        stray_quotes=True,
    )
