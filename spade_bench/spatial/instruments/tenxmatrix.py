"""The HDF5 matrix of 10x Genomics, version 3, whole or in blocks of barcodes.

Its columns are barcodes and it is compressed by column, so its arrays are those of a CSR matrix of
(barcodes, features), and the barcodes of a block lie side by side in the file.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import h5py
import numpy as np
import scipy.sparse as sp

from spade_bench.errors import BROKEN_FILE, DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TenxFeatures", "read_matrix", "read_tenx_features", "sum_matrix"]

_BLOCK = 16_000_000  # counts that are read at once
_GENE = "Gene Expression"
_T = TypeVar("_T")


@dataclass(frozen=True)
class TenxFeatures:
    """The margins of a matrix.

    Attributes:
        barcodes: (barcodes,).
        var: A row per gene, as in AnnData: names in the index, `gene_ids` where the file has ids.
        genes: (features,) bool, which features are genes; the others are controls or antibodies.
    """

    barcodes: np.ndarray
    var: pd.DataFrame
    genes: np.ndarray


def read_matrix(path: Path) -> tuple[sp.csr_matrix, pd.DataFrame, np.ndarray]:
    """Read the whole matrix.

    Args:
        path: 10x HDF5, version 3, plain or compressed with gzip.

    Returns:
        (barcodes, genes) counts, a table of genes as in AnnData, and barcodes.

    Raises:
        DataError: When it is not such a file or is damaged.
    """

    def read(group: h5py.Group) -> tuple[sp.csr_matrix, TenxFeatures]:
        features = _features(group, path)
        return _rows(group, group["indptr"][:], features, slice(None)), features

    counts, features = _open(path, read)
    genes = features.genes
    return counts[:, genes] if not genes.all() else counts, features.var, features.barcodes


def read_tenx_features(path: Path) -> TenxFeatures:
    """Read the names of barcodes and genes without the counts.

    Raises:
        DataError: When it is not such a file or is damaged.
    """
    return _open(path, lambda group: _features(group, path))


def sum_matrix(
    path: Path, blocks: Callable[[slice, sp.csr_matrix, TenxFeatures], None], block: int = _BLOCK
) -> TenxFeatures:
    """Hand the matrix over in blocks of barcodes, for sums of more counts than memory holds.

    Args:
        path: 10x HDF5, version 3, plain or compressed with gzip.
        blocks: Called with the range of barcodes of a block and its (barcodes, genes) counts.
        block: Counts in a block, where no barcode has more by itself.

    Returns:
        Names of barcodes and genes.

    Raises:
        DataError: When it is not such a file or is damaged.
    """

    def read(group: h5py.Group) -> TenxFeatures:
        features, starts = _features(group, path), group["indptr"][:]
        first, n = 0, len(features.barcodes)
        while first < n:
            stop = int(np.searchsorted(starts, starts[first] + block, side="right")) - 1
            rows = slice(first, min(n, max(first + 1, stop)))
            counts = _rows(group, starts, features, rows)
            blocks(
                rows, counts[:, features.genes] if not features.genes.all() else counts, features
            )
            first = rows.stop
        return features

    return _open(path, read)


def _open(path: Path, read: Callable[[h5py.Group], _T]) -> _T:
    try:
        with _plain(path) as source, h5py.File(source, "r") as handle:
            return read(handle["matrix"])
    except DataError:
        raise
    except BROKEN_FILE as error:
        raise DataError(f"not a 10x matrix of version 3 ({error})", where=str(path)) from error


def _features(group: h5py.Group, path: Path) -> TenxFeatures:
    import pandas as pd

    n_features, n_barcodes = (int(n) for n in group["shape"][:])
    barcodes = np.array([b.decode() for b in group["barcodes"][:]])
    names = np.array([b.decode() for b in group["features/name"][:]])
    types = np.array([b.decode() for b in group["features/feature_type"][:]])
    ids = [b.decode() for b in group["features/id"][:]] if "id" in group["features"] else []
    if not (
        len(barcodes) == n_barcodes
        and len(names) == len(types) == n_features
        and len(ids) in (0, n_features)
    ):
        raise DataError(
            f"{n_barcodes} x {n_features} counts for {len(barcodes)} barcodes and {len(names)} "
            "genes",
            where=str(path),
            fix="Download it again",
        )
    genes = types == _GENE
    var = pd.DataFrame({"gene_ids": ids} if ids else {}, index=names)[genes]
    return TenxFeatures(barcodes, var, genes)


def _rows(
    group: h5py.Group, starts: np.ndarray, features: TenxFeatures, rows: slice
) -> sp.csr_matrix:
    """Some barcodes as (barcodes, features) CSR float32, checked."""
    bounds = starts[rows.start : None if rows.stop is None else rows.stop + 1]
    if len(bounds) == 0:
        raise ValueError("no barcodes")
    part = slice(int(bounds[0]), int(bounds[-1]))
    data, indices = group["data"][part], group["indices"][part]
    shape = (len(bounds) - 1, len(features.genes))
    counts = sp.csr_matrix((data.astype(np.float32), indices, bounds - bounds[0]), shape=shape)
    counts.check_format(full_check=True)  # places beyond the matrix would crash later
    return counts


@contextmanager
def _plain(path: Path) -> Iterator[BinaryIO]:
    """The file opened to be read, inflated where it is compressed with gzip."""
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
        handle.seek(0)
        yield io.BytesIO(gzip.decompress(handle.read())) if packed else handle
