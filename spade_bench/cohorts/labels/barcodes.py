"""Slides by their TCGA barcodes: which are diagnostic slides of the wanted sample type."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from spade_bench.cohorts.tables import read_table
from spade_bench.cohorts.tabletext import is_workbook, read_lines
from spade_bench.errors import DataError, name_some

__all__ = ["Barcode", "list_slides", "parse_barcode", "site_of"]

# TCGA-3C-AALI-01Z-00-DX1.UUID: site 3C, participant AALI, sample type 01, vial Z, slide DX1.
_BARCODE = re.compile(
    r"(?P<case>TCGA-(?P<site>[A-Z0-9]{2})-[A-Z0-9]{4})"
    r"-(?P<type>\d{2})(?P<vial>[A-Z])-(?P<portion>\d{2}[A-Z]?)-(?P<kind>[A-Z]{2})[A-Z0-9]*"
)
_IMAGES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm")
_FEATURES = (".h5", ".hdf5", ".pt", ".pth", ".npy", ".npz")
_COLUMNS = ("slide_id", "filename", "file_name", "File Name", "slide", "image", "FILENAME")


@dataclass(frozen=True)
class Barcode:
    """What a TCGA slide barcode says.

    Attributes:
        case_id: Patient, `TCGA-3C-AALI`.
        site: Tissue source site, `3C`.
        sample_type: `01` primary tumour, `02` recurrence, `06` metastasis, `11` normal.
        vial: `Z` for most diagnostic slides.
        kind: `DX` diagnostic (formalin-fixed), `TS`, `MS` and `BS` frozen.
    """

    case_id: str
    site: str
    sample_type: str
    vial: str
    kind: str


def parse_barcode(slide_id: str) -> Barcode | None:
    """Read a slide's barcode; None when the name does not start with one."""
    match = _BARCODE.match(slide_id)
    if match is None:
        return None
    return Barcode(match["case"], match["site"], match["type"], match["vial"], match["kind"])


def site_of(case_id: str) -> str:
    """Tissue source site of a TCGA case: characters 6 and 7 of its barcode."""
    return case_id[5:7]


def list_slides(path: Path, slide_column: str = "") -> list[str]:
    """Slide ids in a folder or in a list.

    Args:
        path: A folder of slides or of features, searched recursively; or a text file with one
            name a line; or a table with a column `slide_id` or `filename`, such as a manifest of
            the GDC portal.
        slide_column: Column of the slide in such a table, where it is none of the known ones.

    Returns:
        Distinct ids, sorted: file names without the suffix of a slide or feature file.

    Raises:
        DataError: When nothing is found.
    """
    if path.is_dir():
        files = [p.name for p in path.rglob("*") if not p.name.startswith(".")]
        names = [name for name in files if name.lower().endswith((*_IMAGES, *_FEATURES))]
        # Coordinate files that lie beside features name the same slides again.
        names = [name for name in names if "_patches." not in name and ".coordinates." not in name]
    elif path.is_file():
        names = _names_in(path, slide_column)
    else:
        raise DataError("no such folder or list of slides", where=str(path))
    if not names:
        raise DataError("no slides found", where=str(path))
    return sorted({_stem(name) for name in names})


def _names_in(path: Path, slide_column: str = "") -> list[str]:
    wanted = (slide_column,) if slide_column else _COLUMNS
    lines = [] if is_workbook(path) else [line for line in read_lines(path) if line.strip()]
    if lines and not re.search(r"[,;\t]", lines[0]):
        named = [line.strip() for line in lines]
        return named[1:] if named[0] in wanted else named
    frame = read_table(path)
    column = next((name for name in wanted if name in frame), None)
    if column is None:
        raise DataError(
            f"no column {name_some(wanted, 2)} (found {name_some(frame.columns, 12)})",
            where=str(path),
            fix="Say which one holds the slides: --slide-column NAME",
        )
    return list(frame[column].dropna())


def _stem(name: str) -> str:
    name = name.strip().rsplit("/", 1)[-1]
    for suffix in (*_IMAGES, *_FEATURES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
