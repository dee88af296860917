"""Maps of slides as files: AnnData in HDF5, `maps/SLIDE.h5`, read back strictly.

A row per patch. `obsm['spatial']` holds the top-left corner of each patch and `obsm['centre']` its
centre, in level-0 pixels as (x, y); where nobody knows where patches lie, neither is there, and
`obs['image']` names the image that each was read from. `obs` has `attention` (where the head has
it), `percentile` of what is shown, and `sd` over the models (where there are several); `X` what
each patch adds to each class's logit or to the risk, a column per class of `var`. `uns` says of
what and by what: `format`, `version`, `encoder`, `head`, `task`, `slide_id`, `case_id`, `method`,
`predicted`, `models`, `trained`, `simulated`, `patch_size_level0`, `mpp_level0`, `size_level0`
(width and height of the slide), `offset` (the level-0 pixel that QuPath calls (0, 0)), and in
`about` (JSON) the run ids, what made the features, the truth, flags, protocol and shots.
`anndata.read_h5ad` opens it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spade_bench.errors import BROKEN_FILE, DataError
from spade_bench.explain.slidemap import SlideMap
from spade_bench.files import atomic_hdf5, parse_json

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["FORMAT", "VERSION", "read_map", "write_map"]

FORMAT, VERSION = "spade-bench map", 1
_SPATIAL = "top-left corner of each patch, (x, y) in level-0 pixels"
_TEXTS = ("slide_id", "case_id", "encoder", "head", "task", "method")
_MARKS = ("trained", "simulated")


def write_map(shown: SlideMap, path: str | Path) -> Path:
    """Write a map, whole or not at all.

    Args:
        shown: The map.
        path: File to write, `.h5`.

    Returns:
        The file.
    """
    from anndata.io import write_elem

    target = Path(path)
    with atomic_hdf5(target) as file:
        write_elem(file, "/", to_anndata(shown))
    return target


def to_anndata(shown: SlideMap) -> AnnData:
    """Return a map as an AnnData; see the module."""
    import anndata
    import numpy as np
    import pandas as pd

    n = len(shown.contribution)
    obs = pd.DataFrame(index=pd.Index([f"{shown.slide_id}-{i}" for i in range(n)], dtype=object))
    for name in ("attention", "percentile", "sd"):
        values = getattr(shown, name)
        if values is not None:
            obs[name] = values
    if shown.images:
        obs["image"] = list(shown.images)
    uns: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    uns |= {name: getattr(shown, name) for name in (*_TEXTS, *_MARKS)}
    uns |= {
        "models": shown.models,
        "predicted": np.asarray(shown.predicted, dtype=np.float64),
        "offset": np.asarray(shown.offset, dtype=np.int64),
        "about": json.dumps(dict(shown.about), sort_keys=True),
    }
    if shown.mpp is not None:
        uns["mpp_level0"] = shown.mpp
    places = {}
    if shown.placed:
        uns |= {"spatial_is": _SPATIAL, "patch_size_level0": shown.side}
        places = {"spatial": shown.coords, "centre": shown.coords + shown.side / 2}
    if shown.size is not None:
        uns["size_level0"] = np.asarray(shown.size, dtype=np.int64)
    var = pd.DataFrame(index=pd.Index(list(shown.classes), dtype=object))
    return anndata.AnnData(X=shown.contribution, obs=obs, var=var, obsm=places, uns=uns)


def read_map(path: str | Path, slide: Path | None = None, patches: Path | None = None) -> SlideMap:
    """Read what `write_map` wrote.

    Args:
        path: The file.
        slide: File of the slide, for pictures.
        patches: Folder of its images, of patches that were cut before.

    Raises:
        DataError: When it is missing, damaged, of another format, or contradicts itself.
    """
    import anndata

    file = Path(path)
    where = str(file)
    if not file.is_file():
        raise DataError("no such map", where=where, fix="Make it with `spade-bench explain`")
    try:
        data = anndata.read_h5ad(file)
        version = data.uns.get("version") if data.uns.get("format") == FORMAT else None
    except BROKEN_FILE as error:
        raise DataError(f"cannot be read as a map ({error})", where=where) from error
    if version is None:
        raise DataError("is not the map of a slide", where=where)
    if version != VERSION:
        raise DataError(
            f"is of format version {version}; this version of spade-bench reads {VERSION}",
            where=where,
        )
    try:
        shown = _map_of(data, where)
    except DataError:
        raise
    except BROKEN_FILE as error:
        raise DataError(f"is incomplete or damaged ({error})", where=where) from error
    _check(shown, data, where)
    return replace(shown, slide=slide, patches=patches)


def _map_of(data: AnnData, where: str) -> SlideMap:
    import numpy as np

    uns, obs = data.uns, data.obs
    placed = "spatial_is" in uns
    column = {
        name: np.asarray(obs[name], dtype=np.float64) if name in obs else None
        for name in ("attention", "sd")
    }
    return SlideMap(
        **cast("dict[str, Any]", {name: str(uns[name]) for name in _TEXTS}),
        classes=tuple(map(str, data.var_names)),
        coords=np.asarray(data.obsm["spatial"]) if placed else np.empty((0, 2), dtype=np.int64),
        side=int(uns["patch_size_level0"]) if placed else 0,
        contribution=np.asarray(data.X, dtype=np.float64),
        attention=column["attention"],
        sd=column["sd"],
        predicted=tuple(float(value) for value in np.atleast_1d(uns["predicted"])),
        models=int(uns["models"]),
        **cast("dict[str, Any]", {name: bool(uns[name]) for name in _MARKS}),
        mpp=float(uns["mpp_level0"]) if "mpp_level0" in uns else None,
        offset=(int(uns["offset"][0]), int(uns["offset"][1])),
        size=(int(uns["size_level0"][0]), int(uns["size_level0"][1]))
        if "size_level0" in uns
        else None,
        images=tuple(map(str, obs["image"])) if "image" in obs else (),
        about=parse_json(str(uns["about"]), where),
    )


def _check(shown: SlideMap, data: AnnData, where: str) -> None:
    """Refuse a file whose parts do not belong together.

    Raises:
        DataError: Saying what is wrong.
    """
    import numpy as np

    n, wrong = len(shown.contribution), ""
    placed = "spatial_is" in data.uns
    if placed and (shown.coords.shape != (n, 2) or shown.coords.dtype.kind != "i"):
        wrong = f"coordinates are {shown.coords.dtype} {shown.coords.shape}, not whole ({n}, 2)"
    elif placed and not shown.placed:
        wrong = f"patches are {shown.side} pixels wide"
    elif len(shown.predicted) != len(shown.classes):
        wrong = f"{len(shown.predicted)} predictions of {len(shown.classes)} classes"
    elif not all(
        np.isfinite(x).all()
        for x in (shown.contribution, shown.attention, shown.sd)
        if x is not None
    ):
        wrong = "values are not finite"
    elif shown.attention is not None and (shown.attention < 0).any():
        wrong = "attention is negative"
    elif n and np.abs(np.asarray(data.obs["percentile"]) - shown.percentile).max() > 1e-9:
        wrong = "percentiles are not those of what is shown"
    if wrong:
        raise DataError(wrong, where=where, fix="Make it again with `spade-bench explain`")
