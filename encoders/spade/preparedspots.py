"""Reads `spots.h5ad` without loading it: features and expression stay memory-mapped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import scipy.sparse as sp

from spade_bench.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

__all__ = ["PROVENANCE", "SPLITS", "Spots", "columns_digest", "content_digest", "write_column"]

SPLITS = ("train", "val", "test")
PROVENANCE = "spade_provenance"
"""Entry of `uns` that says where the spots come from."""

_LATER = ("obs/split/codes", "obs/cluster", "obs/expert")  # columns that later stages fill in
_BLOCK = 1 << 24  # bytes hashed at once


@dataclass(frozen=True)
class Spots:
    """The prepared spots of all samples.

    Args:
        path: A `spots.h5ad` written by the preparation.
    """

    path: Path

    def __post_init__(self) -> None:
        """Check that the file is there.

        Raises:
            DataError: When it is not.
        """
        if not self.path.is_file():
            raise DataError("no such file", where=str(self.path), fix="prepare the spots first")

    def __len__(self) -> int:
        """Number of spots N."""
        return int(self.features.shape[0])

    @cached_property
    def features(self) -> np.ndarray:
        """Image features (N, D) float32, memory-mapped."""
        return self._mapped("obsm/features")

    @cached_property
    def spatial(self) -> np.ndarray:
        """Spot centres (N, 2) float64, (x, y) in full-resolution px, memory-mapped."""
        return self._mapped("obsm/spatial")

    @cached_property
    def expression(self) -> sp.csr_matrix:
        """Expression over the panel, (N, G) CSR float32 on memory-mapped arrays."""
        with h5py.File(self.path, "r") as handle:
            shape = tuple(int(n) for n in handle["X"].attrs["shape"])
            indptr = handle["X/indptr"][:]
        matrix = sp.csr_matrix(shape, dtype=np.float32)
        # set directly: the constructor would copy and scan what is mapped
        matrix.indptr = indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)
        matrix.indices, matrix.data = self._mapped("X/indices"), self._mapped("X/data")
        return matrix

    @cached_property
    def genes(self) -> tuple[str, ...]:
        """Gene names of the panel, G of them."""
        with h5py.File(self.path, "r") as handle:
            return tuple(g.decode() for g in handle["var/_index"][:])

    @cached_property
    def panel_group(self) -> np.ndarray | None:
        """Which set of genes each spot measures, as a number, (N,) int64; None if all do alike."""
        obs = self.obs
        return obs["panel_group"].to_numpy(np.int64) if "panel_group" in obs else None

    @cached_property
    def measured(self) -> np.ndarray | None:
        """Which genes of the panel each sample measures, (G, samples) bool; None if all do."""
        with h5py.File(self.path, "r") as handle:
            return handle["varm/measured"][:] if "measured" in handle["varm"] else None

    @cached_property
    def provenance(self) -> Mapping[str, Any]:
        """Where the spots come from: settings, encoder, samples and what was left out."""
        with h5py.File(self.path, "r") as handle:
            return dict(json.loads(handle[f"uns/{PROVENANCE}"][()].decode()))

    @cached_property
    def obs(self) -> pd.DataFrame:
        """One row a spot: sample, organ, patient, split, cluster, expert, barcode.

        A spot beside a held-out block has no split.
        Files of newer versions also have the technology, and `panel_group` where the samples do
        not all measure the same genes of the panel.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        with h5py.File(self.path, "r") as handle:
            obs = handle["obs"]
            index = [b.decode() for b in obs["_index"][:]]
            for name in ("sample", "organ", "patient", "technology", "split"):
                if name not in obs:
                    continue
                names = [c.decode() for c in obs[f"{name}/categories"][:]]
                codes = np.asarray(obs[f"{name}/codes"][:])
                columns[name] = pd.Categorical.from_codes(codes, pd.Index(names))
            for name in ("cluster", "expert"):
                columns[name] = obs[name][:]
            columns["barcode"] = [b.decode() for b in obs["barcode"][:]]
            if "panel_group" in obs:
                columns["panel_group"] = obs["panel_group"][:]
        return pd.DataFrame(columns, index=pd.Index(index))

    def with_split(self, split: Mapping[str, str]) -> Spots:
        """Writes the split of every sample into the file and reads it anew."""
        with h5py.File(self.path, "r") as handle:  # not `obs`: it holds the split of before
            names = [name.decode() for name in handle["obs/sample/categories"][:]]
            sample = handle["obs/sample/codes"][:]
        codes = np.array([SPLITS.index(split[name]) for name in names])[sample]
        write_column(self.path, "split", codes)
        return Spots(self.path)

    def with_spot_split(self, split: np.ndarray) -> Spots:
        """Writes the split of every spot, (N,) names; an empty one belongs to no split."""
        codes = np.array([SPLITS.index(name) if name else -1 for name in split.tolist()])
        write_column(self.path, "split", codes)
        return Spots(self.path)

    def with_experts(self, cluster: np.ndarray, expert: np.ndarray) -> Spots:
        """Writes step-1 cluster and expert of every spot, (N,) each, and reads it anew."""
        write_column(self.path, "cluster", cluster)
        write_column(self.path, "expert", expert)
        return Spots(self.path)

    def _mapped(self, name: str) -> np.ndarray:
        with h5py.File(self.path, "r") as handle:
            data = handle[name]
            offset, shape, dtype = data.id.get_offset(), data.shape, data.dtype
        if offset is None:  # nothing stored, or not one block
            if 0 in shape:
                return np.zeros(shape, dtype)
            raise DataError(f"'{name}' is not contiguous", where=str(self.path), fix="prepare anew")
        return np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)


def write_column(path: Path, name: str, values: np.ndarray) -> None:
    """Sets `split` (codes into `SPLITS`), `cluster` or `expert` in place.

    The blocks are overwritten where they lie, so a kill leaves a file that opens.

    Args:
        path: `spots.h5ad`.
        name: Column of obs.
        values: (n,) integers.
    """
    with h5py.File(path, "r+") as handle:
        column = handle["obs"][name]
        target = column["codes"] if isinstance(column, h5py.Group) else column
        target[:] = np.asarray(values).astype(target.dtype)


def content_digest(path: Path) -> str:
    """Return a digest of all that the preparation wrote, without the columns set later."""
    with h5py.File(path, "r") as handle:
        names: list[str] = []
        handle.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        return _digest(handle, sorted(set(names) - set(_LATER)))


def columns_digest(*columns: str) -> Callable[[Path], str]:
    """Return a function that digests the named columns of a `spots.h5ad`.

    Args:
        columns: Of `split`, `cluster` and `expert`.
    """
    names = [name for name in _LATER if name.split("/")[1] in columns]

    def digest(path: Path) -> str:
        with h5py.File(path, "r") as handle:
            return _digest(handle, names)

    return digest


def _digest(handle: h5py.File, names: list[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        data = handle[name]
        digest.update(f"{name}{data.dtype.str}{data.shape}".encode())
        if data.shape == () or data.dtype.kind == "O":
            values = np.atleast_1d(data[()]).tolist()
            digest.update(
                "\0".join(v.decode() if isinstance(v, bytes) else v for v in values).encode()
            )
            continue
        row = max(1, int(np.prod(data.shape[1:], dtype=np.int64)) * data.dtype.itemsize)
        step = max(1, _BLOCK // row)
        for start in range(0, data.shape[0], step):
            digest.update(np.ascontiguousarray(data[start : start + step]).data)
    return digest.hexdigest()[:16]
