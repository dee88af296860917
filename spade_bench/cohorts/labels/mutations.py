"""Mutation calls in the long form (MAF), and the list of samples that were sequenced."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.cohorts.labels.downloads import CASE, SAMPLE_TYPE, STUDY, SourceTable
from spade_bench.cohorts.tabletext import read_lines
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_case_list", "read_case_list", "widen"]

# Variant classes of the MAF format that leave the protein as it is.
_SILENT = {
    "SILENT",
    "INTRON",
    "RNA",
    "IGR",
    "LINCRNA",
    "3'UTR",
    "5'UTR",
    "3'FLANK",
    "5'FLANK",
    "SPLICE_REGION",
    "TARGETED_REGION",
}


def is_case_list(path: Path) -> bool:
    """Whether a file is a case list of cBioPortal, such as `cases_sequenced.txt`."""
    if path.suffix.lower() not in {".txt", ""} or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as handle:
        head = handle.read(4096)
    return "case_list_ids:" in head or head.startswith("cancer_study_identifier:")


def read_case_list(path: Path) -> tuple[str, ...]:
    """Read the sample barcodes of a case list.

    Raises:
        DataError: When it lists none.
    """
    for line in read_lines(path):
        key, _, rest = line.partition(":")
        if key.strip() == "case_list_ids":
            samples = tuple(rest.split())
            if samples:
                return samples
    raise DataError("no case_list_ids", where=str(path))


def widen(maf: SourceTable, gene: str, sequenced: Sequence[str]) -> SourceTable:
    """Turn a MAF into one row a sequenced sample with the calls of one gene.

    Args:
        maf: Table with `Hugo_Symbol` and `Variant_Classification`.
        gene: Gene symbol.
        sequenced: Barcodes of all sequenced samples.

    Returns:
        A table with a column of the gene's name; sequenced samples without a call are `WT`.

    Raises:
        DataError: Without the list of sequenced samples: a MAF names mutated samples only.
    """
    import pandas as pd

    if not sequenced:
        raise DataError(
            "a MAF does not say which samples were sequenced",
            where=str(maf.path),
            fix="Add the study's case_lists/cases_sequenced.txt with --labels",
        )
    frame = maf.frame
    of_gene = frame[frame["HUGO_SYMBOL"].str.upper() == gene.upper()]
    silent = of_gene["VARIANT_CLASSIFICATION"].fillna("").str.upper().isin(_SILENT)
    calls: dict[str, list[str]] = {}
    for _, row in of_gene[~silent].iterrows():
        change = row.get("HGVSP_SHORT") or row["VARIANT_CLASSIFICATION"] or "altered"
        calls.setdefault(_sample(row), []).append(str(change))
    samples = sorted({sample[:15] for sample in sequenced} | set(calls))
    wide = pd.DataFrame(
        {
            CASE: [sample[:12] for sample in samples],
            SAMPLE_TYPE: [sample[13:15] or None for sample in samples],
            STUDY: None,
            gene: [" ".join(calls.get(sample, ["WT"])) for sample in samples],
        }
    )
    return SourceTable(maf.path, wide, {gene: gene}, maf.n_foreign)


def _sample(row: pd.Series) -> str:
    return str(row["TUMOR_SAMPLE_BARCODE"])[:15]
