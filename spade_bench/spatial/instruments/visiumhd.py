"""Read the bins of Visium HD and pool them into pseudo-spots.

Source: 10x Genomics, "Space Ranger: binned outputs". Below `outs/binned_outputs` each
`square_002um`, `_008um`, `_016um` holds a matrix of its bins, their positions (parquet, csv in
early versions) and scale factors with `microns_per_pixel` and `bin_size_um`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from spade_bench.cohorts.tabletext import read_frame
from spade_bench.errors import BROKEN_FILE, DataError, UserError
from spade_bench.files import read_json
from spade_bench.spatial.fields import as_float
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.instruments.pseudospots import Pooling, SpotGrid, sum_bins
from spade_bench.spatial.instruments.spaceranger import fullres_image
from spade_bench.spatial.instruments.spotcounts import SpotCounts
from spade_bench.spatial.instruments.tenxmatrix import TenxFeatures, read_tenx_features, sum_matrix
from spade_bench.spatial.sample import StSample

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SPOT_UM", "find_bins", "read_bins", "read_visium_hd"]

SPOT_UM = 112.0
"""Width of a pseudo-spot unless another is asked for: a patch of 224 px of 0.5 µm, and a multiple
of every size of bins."""

_NAME = re.compile(r"square_(\d+)um")
_MATRIX = "filtered_feature_bc_matrix.h5"
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_SCALE = "scalefactors_json.json"
_COLUMNS = (
    *("barcode", "in_tissue", "array_row", "array_col"),
    *("pxl_row_in_fullres", "pxl_col_in_fullres"),
)
_USUAL = 8.0  # bins that are taken where none divide the spot: what 10x Genomics recommends


@dataclass(frozen=True)
class _Bins:
    """Files and scale of the bins of one size."""

    folder: Path
    bin_um: float
    microns_per_pixel: float

    @property
    def matrix(self) -> Path:
        return self.folder / _MATRIX


def find_bins(path: Path) -> dict[float, Path]:
    """Find the folders of bins of a section by their size in µm; empty where there are none.

    Args:
        path: The `outs` folder, the run folder that holds it, `binned_outputs`, or one
            `square_...um`.
    """
    for folder in (path, path / "binned_outputs", path / "outs" / "binned_outputs"):
        if found := _NAME.fullmatch(folder.name):
            return {float(found[1]): folder} if folder.is_dir() else {}
        inner = [
            (float(match[1]), one)
            for one in (sorted(folder.iterdir()) if folder.is_dir() else [])
            if one.is_dir() and (match := _NAME.fullmatch(one.name))
        ]
        if inner:
            return dict(inner)
    return {}


def read_visium_hd(
    outs: Path,
    *,
    sample_id: str | None = None,
    organ: str = "unknown",
    patient: str | None = None,
    image: Path | None = None,
    features: Path | None = None,
    pooling: Pooling | None = None,
) -> list[StSample]:
    """The sample of a Visium HD run; nothing is pooled yet.

    Args:
        outs: The `outs` folder or one around or in it; see `find_bins`.
        sample_id: Defaults to the name of the run folder.
        organ: Organ of the sample.
        patient: Patient id, where known.
        image: Full-resolution image; looked for as for Visium when not given.
        features: Precomputed per-spot features.
        pooling: Size and lattice of the pseudo-spots, and which bins.

    Returns:
        A list of one sample.

    Raises:
        DataError: A needed file is missing.
    """
    outs, pooling = Path(outs), pooling or Pooling()
    grid = pooling.grid(SPOT_UM)
    bins = _chosen(outs, pooling, grid)
    top = _top(bins.folder)
    resolved = top.resolve()
    name = resolved.parent.name if resolved.name == "outs" else resolved.name
    return [
        StSample(
            sample_id=sample_id or name,
            organ=organ,
            patient=patient,
            technology="Visium HD",
            pixel_size_um=bins.microns_per_pixel,
            visium_hd=outs,
            image=image or fullres_image(top),
            features=features,
            spot_diameter_um=grid.spot_um,
            spot_pitch_um=grid.pitch,
            pooling=pooling,
        )
    ]


def read_bins(sample: StSample) -> SpotCounts:
    """Pool the bins of a section.

    A bin belongs to the spot that holds its centre, and every bin counts once: the sums over spots
    are the sums over bins. Spots without a bin under tissue are left out.

    Raises:
        DataError: A file is missing or damaged, or matrix and positions share no barcode.
    """
    import pandas as pd

    assert sample.visium_hd is not None
    pooling = sample.pooling or Pooling()
    grid = pooling.grid(SPOT_UM)
    bins = _chosen(sample.visium_hd, pooling, grid)
    table = _positions(bins.folder)
    barcodes = read_tenx_features(bins.matrix).barcodes
    place = table.index.get_indexer(
        pd.Index(barcodes)
    )  # (bins,) row of the table, -1 where it has none
    known = place >= 0
    if not known.any():
        raise DataError("matrix and positions share no barcode", where=str(bins.folder))
    array = table[["array_col", "array_row"]].to_numpy(dtype=np.float64)  # (table, 2)
    pixels = table[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=np.float64)
    um = (array[place] + 0.5) * bins.bin_um  # (bins, 2) centres in the frame of the section
    cells = grid.cells(um[:, 0], um[:, 1])
    usable = known if cells.inside is None else known & cells.inside
    keys = np.stack([cells.row, cells.column], axis=1)[usable]  # (used, 2)
    spots, of_bin = np.unique(keys, axis=0, return_inverse=True)
    spot = np.full(len(barcodes), -1, dtype=np.int64)
    spot[usable] = of_bin.reshape(-1)
    counts, names = _pooled(bins.matrix, spot, len(spots))
    placing = _to_pixels(array, pixels, bins)
    centres = grid.centres(spots[:, 0], spots[:, 1]) / bins.bin_um - 0.5  # (spots, 2) in bins
    return SpotCounts(
        counts=counts,
        genes=names,
        barcodes=grid.names(spots[:, 0], spots[:, 1]),
        spatial=np.column_stack([centres, np.ones(len(centres))]) @ placing,
        array=spots.astype(np.float64),
        spot_diameter_px=grid.spot_um / bins.microns_per_pixel,
        findings=tuple(_findings(bins, grid, spot, known, len(spots))),
    )


def _findings(
    bins: _Bins, grid: SpotGrid, spot: np.ndarray, known: np.ndarray, n_spots: int
) -> list[Finding]:
    n, used = len(spot), int((spot >= 0).sum())
    text = (
        f"{used:,} of {n:,} bins of {bins.bin_um:g} µm pooled into {n_spots:,} pseudo-spots of "
        f"{grid.spot_um:g} µm"
    )
    found = [Finding("pseudo-spots", n - used, n, text)]
    lost = int((~known).sum())
    if lost:
        text = f"{lost:,} of {n:,} barcodes have counts but no position"
        found.append(Finding("barcodes-no-position", lost, n, text))
    return found


def _pooled(matrix: Path, spot: np.ndarray, n_spots: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """Sum the bins block by block: the matrix of the smallest bins does not fit into memory."""
    total: list[sp.csr_matrix] = []

    def add(rows: slice, counts: sp.csr_matrix, _: TenxFeatures) -> None:
        part = sum_bins(counts, spot[rows], n_spots)
        total[:] = [total[0] + part] if total else [part]

    features = sum_matrix(matrix, add)
    if not total:
        raise DataError("no bin has counts", where=str(matrix))
    return total[0], features.var.index.to_numpy(dtype=str)


def _to_pixels(array: np.ndarray, pixels: np.ndarray, bins: _Bins) -> np.ndarray:
    """Affine map (3, 2) from (column, row, 1) of the array to (x, y) px, by least squares.

    Raises:
        DataError: When positions and scale factors contradict each other.
    """
    table = np.column_stack([array, np.ones(len(array))])
    placing = np.linalg.lstsq(table, pixels, rcond=None)[0]
    side = float(np.sqrt(abs(np.linalg.det(placing[:2])))) * bins.microns_per_pixel
    if not abs(side / bins.bin_um - 1) < 0.1:
        raise DataError(
            f"bins lie {side:.3g} µm apart by their positions and microns_per_pixel "
            f"{bins.microns_per_pixel:.4g}, but are {bins.bin_um:g} µm wide",
            where=str(bins.folder),
            fix="Take positions and scale factors of the same run",
        )
    return np.asarray(placing)


def _chosen(outs: Path, pooling: Pooling, grid: SpotGrid) -> _Bins:
    """The bins to pool: those asked for, else the coarsest that divide a spot, else 8 µm.

    Raises:
        DataError: When there are none, or none of the size asked for.
    """
    found = find_bins(outs)
    if not found:
        raise DataError(
            "no binned_outputs/square_...um",
            where=str(outs),
            fix="Give Space Ranger's outs/ folder",
        )
    if pooling.bin_um is not None:
        if pooling.bin_um not in found:
            raise UserError(
                f"there are no bins of {pooling.bin_um:g} µm in {outs}",
                where="bin_um",
                fix=f"There are {', '.join(f'{size:g}' for size in found)}",
            )
        size = pooling.bin_um
    else:
        whole = [size for size in found if grid.spot_um % size == 0 and grid.pitch % size == 0]
        size = max(whole) if whole else min(found, key=lambda one: (abs(one - _USUAL), one))
    if size > grid.spot_um:
        raise UserError(
            f"bins of {size:g} µm are wider than spots of {grid.spot_um:g} µm",
            where="spot_um",
            fix="Give a larger spot",
        )
    scale = found[size] / "spatial" / _SCALE
    content: Any = read_json(scale) if scale.is_file() else {}
    mpp = as_float(content.get("microns_per_pixel")) if isinstance(content, dict) else None
    if mpp is None or mpp <= 0:
        raise DataError(
            "no microns_per_pixel", where=str(scale), fix="Put Space Ranger's file there"
        )
    if not (found[size] / _MATRIX).is_file():
        raise DataError(f"no {_MATRIX}", where=str(found[size]), fix="Put Space Ranger's there")
    return _Bins(found[size], as_float(content.get("bin_size_um")) or size, mpp)


def _positions(folder: Path) -> pd.DataFrame:
    """Positions of bins by barcode.

    Raises:
        DataError: When there are none, or they lack a column.
    """
    import pandas as pd

    places = [folder / "spatial" / name for name in _POSITIONS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DataError(
            f"no {_POSITIONS[0]}", where=str(folder / "spatial"), fix="Put Space Ranger's there"
        )
    try:
        parquet = path.suffix == ".parquet"
        table = pd.read_parquet(path) if parquet else read_frame(path)
        if missing := [name for name in _COLUMNS if name not in table.columns]:
            raise DataError(f"no column {', '.join(missing)}", where=str(path))
        for name in _COLUMNS[1:]:
            table[name] = pd.to_numeric(table[name])
        names = [b.decode() if isinstance(b, bytes) else str(b) for b in table["barcode"]]
        table = table.set_index(pd.Index(names))
    except DataError:
        raise
    except BROKEN_FILE as error:
        raise DataError(f"positions cannot be read ({error})", where=str(path)) from error
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise DataError(f"barcode {twice} occurs twice", where=str(path))
    if not np.isfinite(table[list(_COLUMNS[1:])].to_numpy(dtype=np.float64)).all():
        raise DataError("a position is no number", where=str(path))
    return table


def _top(folder: Path) -> Path:
    """The `outs` folder around a folder of bins, beside whose images they lie."""
    return folder.parent.parent if folder.parent.name == "binned_outputs" else folder.parent
