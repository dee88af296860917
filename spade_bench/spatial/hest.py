"""Read the HEST-1k layout: a metadata csv and the folders `st`, `wsis`, `patches`, `metadata`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_bench.cohorts.tabletext import read_dicts
from spade_bench.console import say
from spade_bench.errors import DataError
from spade_bench.files import read_json
from spade_bench.spatial.fields import as_float, as_int, as_text
from spade_bench.spatial.sample import StSample

__all__ = ["read_hest"]

_SIZES = (
    *("pixel_size_um_estimated", "pixel_size_um_embedded", "spot_diameter", "inter_spot_dist"),
)


def read_hest(folder: Path) -> list[StSample]:
    """List the samples of a HEST-1k folder in the order of its metadata csv.

    Partial downloads are normal: rows whose `st/{id}.h5ad` is absent are named and left out,
    and files without a row are taken from `metadata/{id}.json`.

    Args:
        folder: Holds `HEST_v*.csv` and `st/`; `wsis/`, `patches/` and `metadata/` where present.

    Returns:
        One `StSample` for each expression file, nothing loaded.

    Raises:
        DataError: No such folder, no `st/` files, no metadata at all, or an id twice in the csv.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such HEST folder", where=str(folder), fix="Give the folder with st/")
    files = {p.stem: p for p in sorted((folder / "st").glob("*.h5ad"))}
    if not files:
        raise DataError(
            "no expression files", where=str(folder / "st"), fix="Download the st/*.h5ad files"
        )
    rows = _metadata_rows(folder)
    absent = [name for name in rows if name not in files]
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        say(f"{folder}: {len(absent)} of {len(rows)} listed samples have no st/ file and are left "
            f"out: {', '.join(absent[:3])}{more}")  # fmt: skip
    order = [i for i in rows if i in files] + [i for i in files if i not in rows]
    return [_sample(folder, i, files[i], rows.get(i, {})) for i in order]


def _metadata_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of the newest `HEST_v*.csv`, by id; empty where there is no csv."""
    tables = sorted(folder.glob("HEST_v*.csv"), key=_version)
    if not tables:
        if not any((folder / "metadata").glob("*.json")):
            raise DataError(
                "no metadata", where=str(folder), fix="Put HEST_v*.csv or metadata/*.json there"
            )
        return {}
    rows: dict[str, dict[str, Any]] = {}
    columns, listed = read_dicts(tables[-1])
    if "id" not in columns:
        raise DataError("no column 'id'", where=str(tables[-1]), fix="Use HEST's own csv")
    for row in listed:
        sample_id = as_text(row["id"])
        if sample_id is None:
            continue  # Excel leaves blank rows behind
        if sample_id in rows:
            raise DataError(
                f"id {sample_id} occurs twice", where=str(tables[-1]), fix="Remove one row"
            )
        rows[sample_id] = dict(row)
    return rows


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", path.stem))


def _sample(folder: Path, sample_id: str, h5ad: Path, row: Mapping[str, Any]) -> StSample:
    extra = folder / "metadata" / f"{sample_id}.json"
    info, problem = _own_metadata(extra)
    info.update({k: v for k, v in row.items() if as_text(v) is not None})
    image = _existing(
        folder / "wsis" / (as_text(info.get("image_filename")) or f"{sample_id}.tif"),
        folder / "wsis" / f"{sample_id}.tif",
    )
    return StSample(
        sample_id=sample_id,
        organ=as_text(info.get("organ")) or "unknown",
        patient=as_text(info.get("patient")),
        species=as_text(info.get("species")),
        technology=as_text(info.get("st_technology")),
        pixel_size_um=as_float(info.get("pixel_size_um_estimated"))
        or as_float(info.get("pixel_size_um_embedded")),
        h5ad=h5ad,
        image=image,
        patches=_existing(folder / "patches" / f"{sample_id}.h5"),
        spot_diameter_um=as_float(info.get("spot_diameter")),
        spot_pitch_um=as_float(info.get("inter_spot_dist")),
        image_width=as_int(info.get("fullres_px_width")),
        image_height=as_int(info.get("fullres_px_height")),
        nb_genes=as_int(info.get("nb_genes")),
        metadata=info,
        problem=problem or _bad_numbers(info),
    )


def _own_metadata(path: Path) -> tuple[dict[str, Any], str]:
    """The JSON of one sample, or why it cannot be used: that drops this sample, not the cohort."""
    if not path.is_file():
        return {}, ""
    try:
        info = read_json(path)
    except (DataError, OSError) as error:
        return {}, str(error)
    return (dict(info), "") if isinstance(info, dict) else ({}, f"{path}: holds no keys and values")


def _bad_numbers(info: Mapping[str, Any]) -> str:
    """Name a size that is not a number, such as one with a comma: it would be estimated instead."""
    for name in _SIZES:
        value = as_float(info.get(name))
        if as_text(info.get(name)) is not None and (value is None or value < 0):
            return f"{name} is {info[name]!r} in the metadata: give a number, with a point"
    return ""


def _existing(*paths: Path) -> Path | None:
    return next((p for p in paths if p.is_file()), None)
