"""Writes `spots.h5ad` sample by sample: AnnData's on-disk format, never whole in memory.

Sizes are known before the first row is written, so that every array is one contiguous block that
can be memory-mapped, and its columns can be changed in place later.

Source: the on-disk format specification of AnnData (anndata 0.1.0, csr_matrix 0.1.0, dataframe
0.2.0, categorical 0.2.0, array 0.2.0, string-array 0.2.0, string 0.2.0, dict 0.1.0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from spade_bench import console
from spade_bench.encoders.spade.preparedspots import PROVENANCE, SPLITS
from spade_bench.encoders.spade.pretraining.prepare.align import Part, read_part
from spade_bench.encoders.spade.pretraining.prepare.gather import Record
from spade_bench.files import atomic_path, need_space

__all__ = ["panel_groups", "write_spots"]

_TEXT = h5py.string_dtype("utf-8")


def write_spots(
    path: Path,
    parts: Sequence[tuple[Record, Part]],
    panel: Sequence[str],
    provenance: Mapping[str, Any],
    *,
    measured: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes all parts into one file, which appears when it is complete.

    `obs.split` is missing, `obs.cluster` and `obs.expert` are -1 until `write_column` sets them.

    Args:
        path: The file.
        parts: Samples in order.
        panel: Gene names.
        provenance: Plain JSON values, kept as text in `uns`.
        measured: Which genes of the panel each sample measures, (G,) bool by sample id, where not
            all measure all. `varm['measured']` holds a column per sample, and `obs.panel_group`
            numbers the different sets.
    """
    groups = None if measured is None else panel_groups(measured)
    n = sum(part.n_spots for _, part in parts)
    need_space(path, sum(8 * part.nnz + 4 * part.n_spots * part.dim for _, part in parts))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as handle:
        _tag(handle, "anndata", "0.1.0")
        for name in ("layers", "obsp", "varm", "varp", "obsm", "uns"):
            _tag(handle.create_group(name), "dict", "0.1.0")
        _string(handle["uns"], PROVENANCE, json.dumps(provenance))
        var = _frame(handle, "var", ())
        _tag(var.create_dataset("_index", data=list(panel), dtype=_TEXT), "string-array", "0.2.0")
        nnz = sum(part.nnz for _, part in parts)
        x = handle.create_group("X")
        _tag(x, "csr_matrix", "0.1.0")
        x.attrs["shape"] = np.array([n, len(panel)], dtype=np.int64)
        x.create_dataset("data", (nnz,), np.float32)
        x.create_dataset("indices", (nnz,), np.int32)
        x.create_dataset("indptr", (n + 1,), np.int64)
        _array(handle["obsm"], "features", (n, parts[0][1].dim), np.float32)
        _array(handle["obsm"], "spatial", (n, 2), np.float64)
        _obs(handle, [record for record, _ in parts], n, grouped=groups is not None)
        if measured is not None:
            columns = np.stack([measured[r.sample.sample_id] for r, _ in parts], axis=1)  # (G, S)
            _array(handle["varm"], "measured", columns.shape, np.bool_)[:] = columns
        row = value = 0
        with console.progress("writing spots", n, "spots") as bar:
            for number, (record, part) in enumerate(parts):
                _append(handle, record, part, number=number, row=row, value=value)
                if groups is not None:
                    rows = slice(row, row + part.n_spots)
                    handle["obs/panel_group"][rows] = groups[record.sample.sample_id]
                row, value = row + part.n_spots, value + part.nnz
                bar.advance(part.n_spots, note=record.sample.sample_id)


def _append(
    handle: h5py.File, record: Record, part: Part, *, number: int, row: int, value: int
) -> None:
    arrays, features = read_part(part)
    rows, values = slice(row, row + part.n_spots), slice(value, value + part.nnz)
    handle["X/data"][values] = arrays["data"]
    handle["X/indices"][values] = arrays["indices"]
    handle["X/indptr"][row + 1 : row + part.n_spots + 1] = arrays["indptr"][1:] + value
    handle["obsm/features"][rows] = features
    handle["obsm/spatial"][rows] = arrays["spatial"]
    barcodes = [b.decode() for b in arrays["barcode"]]
    handle["obs/barcode"][rows] = barcodes
    handle["obs/_index"][rows] = [f"{record.sample.sample_id}_{b}" for b in barcodes]
    handle["obs/sample/codes"][rows] = number
    sample = record.sample
    labels = {"organ": sample.organ, "patient": sample.patient, "technology": sample.technology}
    for column, text in labels.items():
        names = [c.decode() for c in handle[f"obs/{column}/categories"][:]]
        handle[f"obs/{column}/codes"][rows] = -1 if text is None else names.index(text)


def panel_groups(measured: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Number the different sets of measured genes, in the order of the samples."""
    numbers: dict[bytes, int] = {}
    return {name: numbers.setdefault(has.tobytes(), len(numbers)) for name, has in measured.items()}


def _obs(handle: h5py.File, records: Sequence[Record], n: int, *, grouped: bool) -> None:
    columns = ("sample", "organ", "patient", "technology", "split", "cluster", "expert", "barcode")
    obs = _frame(handle, "obs", (*columns, "panel_group") if grouped else columns)
    for name in ("_index", "barcode"):
        _tag(obs.create_dataset(name, (n,), _TEXT), "string-array", "0.2.0")
    samples = [r.sample for r in records]
    _categorical(obs, "sample", [s.sample_id for s in samples], n)
    _categorical(obs, "organ", sorted({s.organ for s in samples}), n)
    _categorical(obs, "patient", sorted({s.patient for s in samples if s.patient}), n)
    _categorical(obs, "technology", sorted({s.technology for s in samples if s.technology}), n)
    _categorical(obs, "split", SPLITS, n)
    for name in ("cluster", "expert", *(["panel_group"] if grouped else [])):
        _array(obs, name, (n,), np.int32)[:] = -1


def _frame(parent: h5py.Group, name: str, columns: Sequence[str]) -> h5py.Group:
    group = parent.create_group(name)
    _tag(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", np.array(list(columns), dtype=object), dtype=_TEXT)
    return group


def _categorical(obs: h5py.Group, name: str, categories: Sequence[str], n: int) -> None:
    group = obs.create_group(name)
    _tag(group, "categorical", "0.2.0")
    group.attrs["ordered"] = False
    _array(group, "codes", (n,), np.int32)[:] = -1
    names = group.create_dataset("categories", data=list(categories), dtype=_TEXT)
    _tag(names, "string-array", "0.2.0")


def _array(parent: h5py.Group, name: str, shape: tuple[int, ...], dtype: Any) -> h5py.Dataset:
    data = parent.create_dataset(name, shape, dtype)
    _tag(data, "array", "0.2.0")
    return data


def _string(parent: h5py.Group, name: str, text: str) -> None:
    _tag(parent.create_dataset(name, data=text, dtype=_TEXT), "string", "0.2.0")


def _tag(item: h5py.HLObject, kind: str, version: str) -> None:
    item.attrs["encoding-type"], item.attrs["encoding-version"] = kind, version
