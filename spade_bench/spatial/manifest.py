"""Read a manifest csv: one row per sample, paths relative to the csv."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from spade_bench.cohorts.tabletext import read_dicts
from spade_bench.errors import DataError, UserError
from spade_bench.spatial.fields import as_float, as_text
from spade_bench.spatial.instruments.pseudospots import Pooling
from spade_bench.spatial.instruments.technologies import read_section, recognise
from spade_bench.spatial.sample import StSample

__all__ = ["MANIFEST_COLUMNS", "read_manifest"]

MANIFEST_COLUMNS: Mapping[str, str] = {
    "sample_id": "name of the sample (required)",
    "h5ad": "expression file, Space Ranger's outs/ folder or a Xenium bundle (required)",
    "image": "full-resolution image",
    "patches": "HEST patch file, in place of the image",
    "features": "precomputed features with barcodes, in place of image and patches",
    "pixel_size_um": "micrometres per pixel of the image",
    "organ": "organ; blank becomes 'unknown'",
    "patient": "patient id; blank makes the sample its own group",
    "species": "for example Homo sapiens",
    "technology": "for example Visium; of a folder visium, visium-hd or xenium, told if blank",
    "spot_diameter_um": "spot diameter in micrometres; of pseudo-spots, the width they are given",
    "spot_pitch_um": "distance between spot centres in micrometres",
    "spot_grid": "lattice of pseudo-spots: square or hexagonal",
    "alignment": "csv of the matrix from pixels of the image to those of Xenium's own image",
}


def read_manifest(path: Path) -> list[StSample]:
    """List the samples of a manifest csv; see `MANIFEST_COLUMNS`.

    Raises:
        DataError: No such file, a missing or unknown column, an id twice, a pixel size that is
            no positive number, or a file that is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such manifest", where=str(path), fix="Give a csv file")
    columns, listed = read_dicts(path)
    _check_columns(path, columns)
    rows = [
        (line, row) for line, row in enumerate(listed, start=2) if any(map(as_text, row.values()))
    ]
    if not rows:
        raise DataError("the manifest has no rows", where=str(path), fix="Add one row per sample")
    samples = [_row(path, line, row) for line, row in rows]
    ids = [s.sample_id for s in samples]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise DataError(
            f"sample_id given twice: {', '.join(twice)}", where=str(path), fix="Make them unique"
        )
    return samples


def _check_columns(path: Path, columns: list[str]) -> None:
    for name in ("sample_id", "h5ad"):
        if name not in columns:
            raise DataError(
                f"no column '{name}'",
                where=str(path),
                fix=f"Columns are {', '.join(MANIFEST_COLUMNS)}",
            )
    for name in columns:
        if name not in MANIFEST_COLUMNS:
            near = difflib.get_close_matches(name, MANIFEST_COLUMNS, n=1)
            if near and near[0] not in columns:
                raise DataError(
                    f"unknown column '{name}'", where=str(path), fix=f"Did you mean '{near[0]}'?"
                )


def _row(path: Path, line: int, row: Mapping[str, str | None]) -> StSample:
    where = f"{path} line {line}"
    sample_id = as_text(row.get("sample_id"))
    if sample_id is None:
        raise DataError("no sample_id", where=where, fix="Fill the cell")
    if any(c in sample_id for c in "/\\"):
        raise DataError(f"sample_id {sample_id} holds a slash", where=where, fix="Rename it")
    named = ("image", "patches", "features", "alignment")
    files = {name: _file(path, where, row.get(name)) for name in named}
    expression = _file(path, where, row.get("h5ad"))
    if expression is None:
        raise DataError("no h5ad", where=where, fix="Give the expression file")
    numbers = {}
    for name in ("pixel_size_um", "spot_diameter_um", "spot_pitch_um"):
        numbers[name] = as_float(row.get(name))
        value = numbers[name]
        if as_text(row.get(name)) and (value is None or value <= 0):
            raise DataError(f"{name} is {row.get(name)!r}", where=where, fix="Give µm above zero")
    if expression.is_dir():
        return _folder(where, row, expression, files, numbers)
    for name in ("spot_grid", "alignment"):
        if as_text(row.get(name)):
            raise DataError(
                f"{name} is for folders of Xenium or Visium HD", where=where, fix="Empty the cell"
            )
    return StSample(
        sample_id=sample_id,
        organ=as_text(row.get("organ")) or "unknown",
        patient=as_text(row.get("patient")),
        species=as_text(row.get("species")),
        technology=as_text(row.get("technology")),
        h5ad=expression,
        metadata={k: v for k, v in row.items() if as_text(v) is not None},
        image=files["image"],
        patches=files["patches"],
        features=files["features"],
        pixel_size_um=numbers["pixel_size_um"],
        spot_diameter_um=numbers["spot_diameter_um"],
        spot_pitch_um=numbers["spot_pitch_um"],
    )


def _folder(
    where: str,
    row: Mapping[str, str | None],
    folder: Path,
    files: Mapping[str, Path | None],
    numbers: Mapping[str, float | None],
) -> StSample:
    """The sample of a row whose expression is a folder that an instrument wrote.

    Raises:
        DataError: With the place, for anything the reader of the folder refuses.
    """
    known = {name: files[name] for name in ("image", "features")}
    try:
        kind = recognise(folder, as_text(row.get("technology")))
        pooled = kind in ("visium-hd", "xenium")
        sample = read_section(
            folder,
            kind,
            pooling=_pooling(row, numbers) if pooled or as_text(row.get("spot_grid")) else None,
            sample_id=as_text(row.get("sample_id")),
            organ=as_text(row.get("organ")) or "unknown",
            patient=as_text(row.get("patient")),
            alignment=files["alignment"],
            **known,
        )
    except UserError as error:
        raise DataError(error.what, where=f"{where}: {error.where}", fix=error.fix) from error
    given = {k: v for k, v in numbers.items() if v is not None}
    if pooled and given.pop("pixel_size_um", None) is not None:
        raise DataError(
            f"a section of {kind} says its pixel size itself", where=where, fix="Empty the cell"
        )
    return replace(
        sample,
        species=as_text(row.get("species")) or sample.species,
        patches=files["patches"],
        metadata={k: v for k, v in row.items() if as_text(v) is not None},
        **given,  # type: ignore[arg-type]
    )


def _pooling(row: Mapping[str, str | None], numbers: Mapping[str, float | None]) -> Pooling:
    shape = (as_text(row.get("spot_grid")) or "square").lower()
    return Pooling(
        spot_um=numbers["spot_diameter_um"],
        shape=shape,  # type: ignore[arg-type]
        pitch_um=numbers["spot_pitch_um"],
    )


def _file(path: Path, where: str, cell: str | None) -> Path | None:
    text = as_text(cell)
    if text is None:
        return None
    file = path.parent / Path(text).expanduser()
    if not file.exists():
        raise DataError(f"no such file: {text}", where=where, fix="Paths are relative to the csv")
    return file
