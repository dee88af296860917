"""Joins one sample's expression and features by barcode, over the gene panel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spade_bench.encoders.spade.genes import panel_matrix
from spade_bench.encoders.spade.pretraining.prepare.gather import Record
from spade_bench.errors import DataError
from spade_bench.features.bags import read_bag
from spade_bench.files import atomic_hdf5, hash_obj, remember, remembered
from spade_bench.spatial.expression import Expression, read_expression
from spade_bench.spatial.findings import Finding

__all__ = ["Part", "align_sample", "read_part"]


@dataclass(frozen=True)
class Part:
    """One aligned sample on disk, without its features.

    Attributes:
        path: HDF5 file with `data`, `indices`, `indptr`, `barcode`, `spatial`, `feature_row`.
        features: The feature file that `feature_row` points into.
        n_spots: Spots kept.
        nnz: Stored expression values.
        dim: Width of the features.
        findings: What was left out, with counts.
    """

    path: Path
    features: Path
    n_spots: int
    nnz: int
    dim: int
    findings: tuple[Finding, ...]


def align_sample(
    record: Record,
    features: Path,
    panel: Sequence[str],
    expression: str,
    folder: Path,
    *,
    partial: bool = False,
) -> Part:
    """Aligns a sample and writes its part, or takes the part of an earlier run.

    Spots are kept when both sides have their barcode, their features are finite, they have any
    counts and they lie on the image. Everything left out is counted.

    Args:
        record: The checked sample.
        features: Its feature file with barcodes.
        panel: Gene names.
        expression: `lognorm` or `raw`.
        folder: Where parts lie.
        partial: Whether the sample may lack genes of the panel.

    Returns:
        The part; one with no spots, or of a file that cannot be read, carries a fatal finding.
    """
    name = record.sample.sample_id
    path, report = folder / f"{name}.h5", folder / f"{name}.json"
    stat = features.stat()
    key = hash_obj(
        {
            "identity": record.identity,
            "features": [stat.st_size, stat.st_mtime_ns],
            "panel": hash_obj(list(panel)),
            "expression": expression,
        }
    )
    stored = remembered(report, key, [path])
    if stored is not None:
        findings = tuple(Finding.from_dict(f) for f in stored["findings"])
        return Part(
            path,
            features,
            stored["n_spots"],
            stored["nnz"],
            stored["dim"],
            findings,
        )
    report.unlink(missing_ok=True)
    try:
        part = _align(record, features, panel, expression, path, partial=partial)
    except DataError as error:  # not kept: the file may be whole again next time
        n, text = record.n_spots, str(error).rstrip(".")
        return Part(path, features, 0, 0, 0, (Finding("unreadable", n, n, text, fatal=True),))
    if path.is_file():  # a sample without spots has none
        stored = {"n_spots": part.n_spots, "nnz": part.nnz, "dim": part.dim}
        remember(
            report,
            key,
            {**stored, "findings": [f.to_dict() for f in part.findings]},
            [path],
        )
    return part


def _align(
    record: Record,
    features: Path,
    panel: Sequence[str],
    expression: str,
    path: Path,
    *,
    partial: bool,
) -> Part:
    data = read_expression(record.sample)
    bag = read_bag(features)
    if bag.barcodes is None:
        text = f"its features ({features.name}) have no barcodes to join on"
        n = len(data.barcodes)
        return Part(path, features, 0, 0, 0, (Finding("no-barcodes", n, n, text, fatal=True),))
    values = np.asarray(bag.features)
    finite = np.isfinite(values).all(axis=1)  # (m,)
    row_of = {b: i for i, b in enumerate(bag.barcodes)}
    findings = []
    if len(row_of) < len(bag.barcodes):
        twice = len(bag.barcodes) - len(row_of)
        text = f"{twice} barcodes are there twice in {features.name}"
        findings.append(Finding("duplicate-barcodes", twice, len(bag.barcodes), text, fatal=True))
    rows = np.array([row_of.get(b, -1) for b in data.barcodes], dtype=np.int64)  # (spots,)
    keep, lost = _keep(record, data, rows, finite)
    findings += lost
    alone = len(row_of) - int((rows >= 0).sum())
    if alone:
        text = f"{alone} of {len(row_of)} barcodes have features but no expression"
        findings.append(Finding("features-only", alone, len(row_of), text))
    if not keep.any():
        text = "no spot has features and expression"
        findings.append(Finding("nothing-left", len(keep), len(keep), text, fatal=True))
        return Part(path, features, 0, 0, values.shape[1], tuple(findings))
    matrix = panel_matrix(data, panel, expression, partial=partial)[keep]  # (n, G)
    with atomic_hdf5(path) as handle:
        handle["data"], handle["indices"] = matrix.data, matrix.indices.astype(np.int32)
        handle["indptr"] = matrix.indptr.astype(np.int64)
        handle["barcode"] = np.array([b.encode() for b in data.barcodes[keep]])
        handle["spatial"] = data.spatial[keep]
        handle["feature_row"] = rows[keep]
    return Part(path, features, int(keep.sum()), matrix.nnz, values.shape[1], tuple(findings))


def _keep(
    record: Record, data: Expression, rows: np.ndarray, finite: np.ndarray
) -> tuple[np.ndarray, list[Finding]]:
    """Which spots (n,) stay; counts what is lost that the checks have not counted before."""
    n = len(rows)
    findings = []
    has = rows >= 0
    if not has.all():
        text = f"{int((~has).sum())} of {n} spots have expression but no features"
        findings.append(Finding("expression-only", int((~has).sum()), n, text))
    sound = np.zeros(n, dtype=bool)
    sound[has] = finite[rows[has]]
    broken = int((has & ~sound).sum())
    if broken:
        text = f"{broken} of {n} spots have NaN or infinite features and are left out"
        findings.append(Finding("nan-features", broken, n, text))
    counted = np.diff(data.values.indptr) > 0
    keep = has & sound & counted
    if record.image_size is not None:
        x, y = data.spatial[:, 0], data.spatial[:, 1]
        width, height = record.image_size
        keep &= (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return keep, findings


def read_part(part: Part) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A part's arrays, and the features (n, D) float32 of its spots."""
    with h5py.File(part.path, "r") as handle:
        arrays = {name: handle[name][:] for name in handle}
    values = np.asarray(read_bag(part.features).features)
    return arrays, np.asarray(values[arrays["feature_row"]], dtype=np.float32)
