"""Read a Space Ranger `outs/` folder: filtered matrix, spot positions, scale factors.

The files may carry the name of their section; see `outsfiles`.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from spade_bench.cohorts.tabletext import read_lines, read_rows
from spade_bench.errors import DataError
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.genenames import gene_names
from spade_bench.spatial.instruments.outsfiles import find_outs_files, find_positions
from spade_bench.spatial.instruments.spotcounts import SpotCounts
from spade_bench.spatial.instruments.tenxmatrix import read_matrix
from spade_bench.spatial.sample import StSample

__all__ = ["fullres_image", "read_outs", "read_spaceranger"]

VISIUM_PITCH_UM = 100.0
VISIUM_DIAMETER_UM = 55.0
_IMAGES = {".tif", ".tiff", ".btf", ".jpg", ".jpeg", ".png"}
_HEADER = (
    *("barcode", "in_tissue", "array_row", "array_col"),
    *("pxl_row_in_fullres", "pxl_col_in_fullres"),
)
_ALSO = {
    "pxl_row": "pxl_row_in_fullres",
    "pxl_col": "pxl_col_in_fullres",
    "imagerow": "pxl_row_in_fullres",
    "imagecol": "pxl_col_in_fullres",
}


def read_spaceranger(
    outs: Path,
    *,
    sample_id: str | None = None,
    organ: str = "unknown",
    patient: str | None = None,
    image: Path | None = None,
    features: Path | None = None,
) -> list[StSample]:
    """The sample of a Space Ranger run. The pixel size follows from the 100 µm spot lattice.

    `outs/` holds no full-resolution image, so give the one Space Ranger was run on, put it into or
    beside `outs/` as `*image.tif` or `*fullres*`, or give precomputed features.

    Args:
        outs: The `outs/` folder, or the run folder that contains it.
        sample_id: Defaults to the name of the run folder.
        organ: Organ of the sample.
        patient: Patient id, where known.
        image: Full-resolution image; looked for when not given.
        features: Precomputed per-spot features.

    Returns:
        A list of one sample.

    Raises:
        DataError: A needed file is missing.
    """
    outs = Path(outs)
    outs = outs / "outs" if (outs / "outs").is_dir() else outs
    files = find_outs_files(outs)
    resolved = outs.resolve()
    name = resolved.parent.name if resolved.name == "outs" else resolved.name
    try:
        size = _pixel_size(_read_positions(files.positions), _diameter(files.scalefactors))
    except DataError:
        size = None  # the checks of the section meet the same error and drop it by name
    return [
        StSample(
            sample_id=sample_id or name,
            organ=organ,
            patient=patient,
            technology="Visium",
            pixel_size_um=size,
            spaceranger=outs,
            image=image or fullres_image(outs),
            features=features,
            spot_diameter_um=VISIUM_DIAMETER_UM,
            spot_pitch_um=VISIUM_PITCH_UM,
        )
    ]


def read_outs(outs: Path, section: str = "") -> SpotCounts:
    """Read counts and positions, joined by barcode.

    Args:
        outs: The `outs/` folder; see `outsfiles` for others.
        section: Name of the section, for genes without a name.

    Raises:
        DataError: A file is missing or is not what its name says, or no barcode is shared.
    """
    files = find_outs_files(outs)
    counts, var, barcodes = read_matrix(files.matrix)
    genes, named = gene_names(var, str(files.matrix), section)
    positions = _read_positions(files.positions)
    keep = np.array([b in positions for b in barcodes], dtype=bool)
    if not keep.any():
        raise DataError("matrix and positions share no barcode", where=str(outs))
    in_tissue = {b for b, p in positions.items() if p[0]}
    findings = list(named)
    lost = int((~keep).sum())
    if lost:
        text = f"{lost} of {len(barcodes)} barcodes have counts but no position"
        findings.append(Finding("barcodes-no-position", lost, len(barcodes), text))
    alone = len(in_tissue - set(barcodes.tolist()))
    if alone:
        text = f"{alone} of {len(in_tissue)} in-tissue positions have no counts"
        findings.append(Finding("barcodes-no-counts", alone, len(in_tissue), text))
    rows = np.array([positions[b] for b in barcodes[keep]], dtype=np.float64)  # (spots, 5)
    return SpotCounts(
        counts=counts[keep],
        genes=genes,
        barcodes=barcodes[keep],
        spatial=rows[:, [4, 3]],  # the table has row (y) before column (x)
        array=rows[:, [1, 2]],
        spot_diameter_px=_diameter(files.scalefactors),
        findings=tuple(findings),
    )


def fullres_image(outs: Path) -> Path | None:
    """Return the full-resolution image where 10x Genomics puts it; None unless just one."""
    folders = (outs, outs / "spatial", outs.resolve().parent)
    images = [
        path
        for folder in folders
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if path.suffix.lower() in _IMAGES
        and (path.stem.lower().endswith("image") or "fullres" in path.stem.lower())
        and not any(small in path.stem.lower() for small in ("hires", "lowres"))
    ]
    return images[0] if len(images) == 1 else None


def _positions(outs: Path) -> dict[str, tuple[float, ...]]:
    return _read_positions(find_positions(outs))


def _read_positions(path: Path) -> dict[str, tuple[float, ...]]:
    """Barcode -> (in_tissue, array_row, array_col, px_row, px_col); with or without a header.

    Raises:
        DataError: When it cannot be read, lacks a column or names a barcode twice.
    """
    rows = read_rows(path)
    first, at = 1, tuple(range(6))  # the order of files without a header
    if rows and not _is_row(rows[0]):
        at = _columns(rows[0], path)
        first, rows = 2, rows[1:]
    table: dict[str, tuple[float, ...]] = {}
    for line, row in enumerate(rows, start=first):
        if len(row) <= max(at):
            raise DataError("expected 6 columns", where=f"{path} line {line}")
        barcode = row[at[0]].strip()
        if barcode in table:
            raise DataError(f"barcode {barcode} occurs twice", where=f"{path} line {line}")
        try:
            table[barcode] = tuple(_number(row[place]) for place in at[1:])
        except ValueError as error:
            raise DataError(
                f"not a number ({error})",
                where=f"{path} line {line}",
                fix="Write numbers with a point",
            ) from error
    if not table:
        raise DataError("no positions", where=str(path))
    return table


def _number(cell: str) -> float:
    number = float(cell)
    if not math.isfinite(number):
        raise ValueError(cell)
    return number


def _is_row(cells: list[str]) -> bool:
    """Whether a first line holds numbers behind a barcode, and is no header."""
    try:
        [float(cell) for cell in cells[1:6]]
    except ValueError:
        return False
    return len(cells) > 1


def _columns(header: list[str], path: Path) -> tuple[int, ...]:
    """Places of barcode, in_tissue, array row and column, pixel row and column.

    Raises:
        DataError: When the header lacks one of them.
    """
    names = [_ALSO.get(name.strip().lower(), name.strip().lower()) for name in header]
    missing = [name for name in _HEADER if name not in names]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}", where=str(path), fix="Correct the header"
        )
    return tuple(names.index(name) for name in _HEADER)


def _diameter(path: Path | None) -> float | None:
    """Spot diameter in full-resolution px, or None where the scale factors do not say it.

    Raises:
        DataError: When the file does not hold such JSON.
    """
    if path is None:
        return None
    try:
        diameter = json.loads("\n".join(read_lines(path))).get("spot_diameter_fullres")
        return None if diameter is None else float(diameter)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"not Space Ranger's scale factors ({error})", where=str(path)) from error


def _pixel_size(positions: dict[str, tuple[float, ...]], diameter: float | None) -> float | None:
    """µm per px from the lattice: neighbours in one row of the array are 100 µm apart."""
    by_array = {(p[1], p[2]): np.array(p[3:5]) for p in positions.values()}
    steps = [
        float(np.linalg.norm(by_array[row, col + 2] - centre))
        for (row, col), centre in by_array.items()
        if (row, col + 2) in by_array
    ]
    if steps:
        return VISIUM_PITCH_UM / float(np.median(steps))
    # Space Ranger draws spots 65 µm wide although the printed area is 55 µm
    return 65.0 / diameter if diameter else None
