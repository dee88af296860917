"""Folders in the layout of the PathoROB benchmark: one npz file per centre, a csv of patches.

The csv has the columns `slide_id`, `patch_id`, `biological_class` and `medical_center`, and may
have `subset`, of which `OOD` is left out as its authors do. Beside it lies, for each encoder, a
folder with a file `CENTRE.npz` (spaces written as `_`) that holds a vector under each
`SLIDE-PATCH`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.cohorts.tables import read_table
from spade_bench.console import track
from spade_bench.errors import BROKEN_FILE, DataError, name_some
from spade_bench.robustness.sitepoints import Points, PointSet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["COLUMNS", "is_pathorob", "pathorob_points"]

COLUMNS = ("slide_id", "patch_id", "biological_class", "medical_center")
_OUTSIDE = "OOD"


def is_pathorob(table: Path) -> bool:
    """Whether a table lists patches as PathoROB does."""
    return set(COLUMNS) <= set(read_table(table).columns)


def pathorob_points(table: Path, folders: Mapping[str, Path]) -> tuple[PointSet, list[Points]]:
    """Read the points of a data set.

    Args:
        table: Its csv of patches.
        folders: Encoder -> folder of its npz files for this data set.

    Raises:
        DataError: When a file, a patch or a column is missing, or vectors differ in width.
    """
    import numpy as np
    import pandas as pd

    frame = read_table(table)
    if "subset" in frame:
        frame = frame[frame["subset"] != _OUTSIDE].reset_index(drop=True)
    if frame[list(COLUMNS)].isna().any(axis=None):
        raise DataError("rows lack a slide, a patch, a class or a centre", where=str(table))
    names = tuple((frame["slide_id"] + "-" + frame["patch_id"]).tolist())
    if len(set(names)) < len(names):
        raise DataError("a patch is listed twice", where=str(table))
    label, labels = pd.factorize(frame["biological_class"], sort=True)
    centre, centres = pd.factorize(frame["medical_center"], sort=True)
    group, _ = pd.factorize(frame["slide_id"], sort=True)
    points = PointSet(
        "patches",
        names,
        tuple(map(str, labels)),
        tuple(map(str, centres)),
        np.asarray(label, dtype=np.int64),
        np.asarray(centre, dtype=np.int64),
        np.asarray(group, dtype=np.int64),
        "medical_center",
    )
    encoders = [
        Points(name, _read(folder, frame, names))
        for name, folder in track(folders.items(), "Reading features", len(folders), "encoders")
    ]
    return points, encoders


def _read(folder: Path, frame: pd.DataFrame, names: tuple[str, ...]) -> NDArray[np.float64]:
    """Vectors of all patches of an encoder, (n, D)."""
    import numpy as np

    rows: dict[int, NDArray[np.floating]] = {}
    for centre, at in frame.groupby("medical_center").indices.items():
        path = folder / f"{str(centre).replace(' ', '_')}.npz"
        if not path.is_file():
            raise DataError(f"no features of centre '{centre}'", where=str(path),
                            fix="Name the folder with one npz file per centre")  # fmt: skip
        try:
            # np.load leaves a damaged file open that it has opened itself.
            with path.open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
                missing = [names[i] for i in at if names[i] not in stored]
                if missing:
                    raise DataError(
                        f"{len(missing)} patch(es) are not there: {name_some(missing)}",
                        where=str(path),
                    )
                rows.update({int(i): np.asarray(stored[names[i]]).reshape(-1) for i in at})
        except DataError:
            raise
        except (*BROKEN_FILE, zipfile.BadZipFile) as error:
            raise DataError(f"not a readable npz file ({error})", where=str(path)) from error
        bad = [names[i] for i in at if not np.isfinite(rows[int(i)]).all()]
        if bad:
            raise DataError(
                f"{len(bad)} vector(s) hold NaN or infinity: {name_some(bad)}", where=str(path)
            )
    if len({row.shape for row in rows.values()}) > 1:
        raise DataError("vectors differ in width", where=str(folder))
    return np.stack([rows[i] for i in range(len(names))]).astype(np.float64)
