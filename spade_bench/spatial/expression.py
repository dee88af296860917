"""Load the expression of one sample: values, genes, barcodes and spot positions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spade_bench.errors import BROKEN_FILE, DataError
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.genenames import gene_names
from spade_bench.spatial.instruments.spaceranger import read_outs
from spade_bench.spatial.instruments.spotcounts import SpotCounts
from spade_bench.spatial.instruments.visiumhd import read_bins
from spade_bench.spatial.instruments.xenium import read_bundle
from spade_bench.spatial.scales import ValueKind, natural_logs, value_kind

if TYPE_CHECKING:
    from anndata import AnnData

    from spade_bench.spatial.sample import StSample

__all__ = ["Expression", "as_anndata", "load_expression", "read_expression"]

_PAIRS = (
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("pxl_col", "pxl_row"),
    ("pixel_x", "pixel_y"),
    ("x_pixel", "y_pixel"),
    ("imagecol", "imagerow"),
    ("x", "y"),  # last: beside pixels, x and y number the spots of the array
)
"""Names of the columns of spot centres: horizontal, then vertical."""


@dataclass(frozen=True)
class Expression:
    """Expression of one sample as read, duplicate genes merged.

    Attributes:
        values: (spots, genes) CSR float32, as in the file.
        kind: What the values are; see `value_kind`.
        genes: (genes,) unique names.
        barcodes: (spots,) unique names.
        spatial: (spots, 2) float64, spot centre (x, y) in full-resolution px.
        array: (spots, 2) array row and column of each spot, or None.
        spot_diameter_px: Diameter in full-resolution px where the file gives it.
        findings: What was noticed while reading.
    """

    values: sp.csr_matrix
    kind: ValueKind
    genes: np.ndarray
    barcodes: np.ndarray
    spatial: np.ndarray
    array: np.ndarray | None = None
    spot_diameter_px: float | None = None
    findings: tuple[Finding, ...] = field(default_factory=tuple)


def load_expression(sample: StSample) -> AnnData:
    """The sample as AnnData: X as in the file (CSR), barcodes, genes and `obsm['spatial']`.

    Raises:
        DataError: As `read_expression`.
    """
    return as_anndata(read_expression(sample))


def as_anndata(data: Expression) -> AnnData:
    """Expression as AnnData; see `load_expression`."""
    import anndata
    import pandas as pd

    return anndata.AnnData(
        X=data.values,
        obs=pd.DataFrame(index=pd.Index(data.barcodes.astype(object))),
        var=pd.DataFrame(index=pd.Index(data.genes.astype(object))),
        obsm={"spatial": data.spatial},
    )


def read_expression(sample: StSample) -> Expression:
    """Read the expression of one sample.

    Genes named twice are added up (in linear space) and spots without any count are kept.

    Raises:
        DataError: The file is missing or unreadable, has no positions, holds non-finite values,
            or names a barcode twice.
    """
    outs: SpotCounts | None = None
    if sample.spaceranger is not None:
        outs, where = read_outs(sample.spaceranger, sample.sample_id), str(sample.spaceranger)
    elif sample.visium_hd is not None:
        outs, where = read_bins(sample), str(sample.visium_hd)
    elif sample.xenium is not None:
        outs, where = read_bundle(sample), str(sample.xenium)
    if outs is not None:
        values, genes, barcodes = outs.counts, outs.genes, outs.barcodes
        spatial, array, diameter = outs.spatial, outs.array, outs.spot_diameter_px
        findings = list(outs.findings)
    elif sample.h5ad is not None:
        values, genes, barcodes, spatial, array, diameter, findings = _read_h5ad(
            sample.h5ad, sample.sample_id
        )
        where = str(sample.h5ad)
    else:
        raise DataError("no expression file", where=sample.sample_id, fix="Give its h5ad")
    if not np.isfinite(values.data).all():
        bad = int((~np.isfinite(values.data)).sum())
        raise DataError(f"{bad} expression values are NaN or infinite", where=where)
    twice = len(barcodes) - len(np.unique(barcodes))
    if twice:
        raise DataError(f"{twice} barcodes occur twice", where=where, fix="Make them unique")
    values, doubts = natural_logs(values, where)
    findings += doubts
    kind = value_kind(values)
    values, genes, merged = _merge_duplicates(values, genes, kind)
    if merged:
        text = f"{merged} duplicate gene names added up"
        findings.append(Finding("duplicate-genes", merged, merged + len(genes), text))
    return Expression(values, kind, genes, barcodes, spatial, array, diameter, tuple(findings))


def _merge_duplicates(
    values: sp.csr_matrix, genes: np.ndarray, kind: ValueKind
) -> tuple[sp.csr_matrix, np.ndarray, int]:
    """Add up columns of one name, in linear space, in the order of first appearance."""
    unique, first, inverse = np.unique(genes, return_index=True, return_inverse=True)
    merged = len(genes) - len(unique)
    if not merged:
        return values, genes, 0
    order = np.argsort(np.argsort(first))  # position of each unique name by first appearance
    logged = kind in ("log-normalised", "log-counts")
    linear = values.copy()
    if logged:
        np.expm1(linear.data, out=linear.data)
    ones = np.ones(len(genes), dtype=np.float32)
    shape = (len(genes), len(unique))
    summing = sp.csr_matrix((ones, (np.arange(len(genes)), order[inverse])), shape=shape)
    out = sp.csr_matrix(linear @ summing).astype(np.float32)  # (spots, unique genes)
    if logged:
        np.log1p(out.data, out=out.data)
    return out, genes[np.sort(first)], merged


def _read_h5ad(path: Path, section: str) -> tuple[Any, ...]:
    import anndata

    if not path.is_file():
        raise DataError("no such file", where=str(path), fix="Download or correct the path")
    try:
        with warnings.catch_warnings():
            # old files and duplicate names are this function's business, not the user's screen
            warnings.simplefilter("ignore")
            adata = anndata.read_h5ad(path)
    except MemoryError:
        raise
    except Exception as error:  # anndata and h5py raise many kinds for damaged files
        raise DataError(f"cannot read it as h5ad ({error})", where=str(path)) from error
    try:
        spatial, placed = _centres(adata, path)
        genes, findings = gene_names(adata.var, str(path), section)
        findings = placed + findings
        columns = [c for c in ("array_row", "array_col") if c in adata.obs]
        array = adata.obs[columns].to_numpy(dtype=np.float64) if len(columns) == 2 else None
        values = _values(adata, path)
        barcodes = np.asarray(adata.obs_names, dtype=str)
        diameter = _diameter(adata.uns)
    except BROKEN_FILE as error:
        raise DataError(
            f"holds something else than expected ({type(error).__name__}: {error})", where=str(path)
        ) from error
    return values, genes, barcodes, spatial, array, diameter, findings


def _centres(adata: AnnData, path: Path) -> tuple[np.ndarray, list[Finding]]:
    """Spot centres of obsm['spatial'], or else of the columns of obs that are called so.

    Raises:
        DataError: When neither is there, with what is there instead.
    """
    n = adata.n_obs
    if "spatial" in adata.obsm:
        return _positions(adata.obsm["spatial"], n, path), []
    pair = _pair(adata.obs)
    if pair is not None:
        text = f"positions taken from obs['{pair[0]}'] (x) and obs['{pair[1]}'] (y)"
        spatial = _positions(adata.obs[list(pair)].to_numpy(), n, path)
        return spatial, [Finding("positions-from-obs", n, n, text)]
    what = "no obsm['spatial']"
    others = [str(key) for key, value in adata.obsm.items() if np.ndim(value) == 2]
    others = [key for key in others if adata.obsm[key].shape[1] == 2]
    if {"array_row", "array_col"} <= set(adata.obs):
        what += ", and array_row and array_col count spots, not pixels"
    fix = "Store spot centres (x, y) in px there, or in columns x and y of obs"
    if others:
        fix += f"; if obsm['{others[0]}'] holds them, rename it to spatial"
    raise DataError(what, where=str(path), fix=fix)


def _pair(table: Any) -> tuple[Any, Any] | None:
    """The columns of a table that hold x and y, by their names; None where none do."""
    lower = {str(name).lower(): name for name in table.columns}
    return next(
        ((lower[x], lower[y]) for x, y in _PAIRS if x in lower and y in lower),
        None,
    )


def _positions(stored: Any, n: int, path: Path) -> np.ndarray:
    """Spot centres as (x, y); the columns of a table go by their names, never by their order.

    Raises:
        DataError: When they are not two columns of finite numbers, one row per spot.
    """
    if hasattr(stored, "columns"):
        pair = _pair(stored)
        if pair is None:
            raise DataError(
                f"obsm['spatial'] has the columns {', '.join(map(str, stored.columns))}",
                where=str(path),
                fix="Call them x and y",
            )
        stored = stored[list(pair)].to_numpy()
    spatial = np.asarray(stored, dtype=np.float64)
    if spatial.ndim != 2 or spatial.shape[1] < 2 or len(spatial) != n:
        raise DataError(
            f"obsm['spatial'] has shape {spatial.shape} for {n} spots",
            where=str(path),
            fix="Store one (x, y) per spot",
        )
    if not np.isfinite(spatial[:, :2]).all():
        bad = int((~np.isfinite(spatial[:, :2])).any(axis=1).sum())
        raise DataError(f"{bad} spots have no finite position", where=str(path))
    return spatial[:, :2]


def _values(adata: AnnData, path: Path) -> sp.csr_matrix:
    """X as CSR; where there is none, the message points to counts that lie elsewhere."""
    if adata.X is None:
        raise DataError("X is empty", where=str(path), fix=_elsewhere(adata) or "Put counts there")
    if adata.X.dtype.kind not in "biuf":
        raise DataError(
            f"X holds {adata.X.dtype}, not numbers", where=str(path), fix="Store counts as numbers"
        )
    if sp.issparse(adata.X):
        adata.X.check_format(full_check=True)  # places beyond the matrix would crash later
    values = sp.csr_matrix(adata.X, dtype=np.float32)
    values.sum_duplicates()
    if values.data.size and values.data.min() < 0 and (fix := _elsewhere(adata)):
        raise DataError("X is scaled (negative values)", where=str(path), fix=fix)
    return values


def _elsewhere(adata: AnnData) -> str:
    """Where else in the file counts lie, as a remedy; empty where they do not."""
    places = {f"layers['{name}']": layer for name, layer in adata.layers.items()}
    if adata.raw is not None:
        places["raw.X"] = adata.raw.X
    for name, matrix in places.items():
        data = sp.csr_matrix(matrix[:100]).data
        if data.size and data.min() >= 0 and np.array_equal(data, np.rint(data)):
            return f"The counts are in {name}: write the file with them as X"
    return ""


def _diameter(uns: Any) -> float | None:
    """`spot_diameter_fullres` of the first library in `uns['spatial']`."""
    libraries = uns.get("spatial", {})
    for library in libraries.values() if hasattr(libraries, "values") else []:
        factors = library.get("scalefactors", {}) if hasattr(library, "get") else {}
        if "spot_diameter_fullres" in factors:
            return float(factors["spot_diameter_fullres"])
    return None
