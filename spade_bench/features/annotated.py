"""Feature files as AnnData: what scanpy, squidpy and LazySlide work on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, UserError
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.types import Bag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["bags_in_memory", "bags_of", "read_features"]

_PER_SLIDE = ("mpp", "patch_size_level0")


def read_features(
    folder: str | Path, *, encoder: str | None = None, slides: Sequence[str] | None = None
) -> AnnData:
    """Read a folder of features as one AnnData.

    Args:
        folder: Folder or pack of features, in any layout that a run takes; or one file.
        encoder: Encoder whose features to take, where the folder holds those of several.
        slides: Slides to read; None reads all of them, which must fit into memory.

    Returns:
        `X` (patches, dim) float32, a row per patch. `obs` has `slide_id`, and `barcode` for
        spots; `obsm['spatial']` the top-left corner of each patch in level-0 pixels, where every
        file says it. `uns` has `encoder`, and `identity`, `mpp` and `patch_size_level0` where all
        slides agree on them; where the last two differ they are columns of `obs`.

    Raises:
        DataError: When the folder holds no features, those of several encoders, or lacks a slide.
    """
    import anndata
    import numpy as np

    root = Path(folder)
    files = {root.stem: root} if root.is_file() and root.suffix == ".h5" else None
    files = find_bags(root, encoder) if files is None else files
    if isinstance(slides, str):
        slides = [slides]
    wanted = list(files) if slides is None else list(slides)
    absent = [name for name in wanted if name not in files]
    if absent:
        raise DataError(f"no features of slide '{absent[0]}'", where=str(root))
    bags = [read_bag(files[name]) for name in wanted]
    parts = [bag.to_anndata() for bag in bags]
    coords = [bag.coords for bag in bags]
    if any(place is None for place in coords):
        for part in parts:
            part.obsm.clear()
    joined = anndata.concat(parts, join="outer")
    joined.obs["slide_id"] = joined.obs["slide_id"].astype("category")
    for key in ("encoder", "identity", *_PER_SLIDE):
        values = [getattr(bag, key) for bag in bags]
        if len(set(values)) == 1:
            if values[0] is not None:
                joined.uns[key] = values[0]
        elif key in _PER_SLIDE:
            counts = [len(bag.features) for bag in bags]
            joined.obs[key] = np.repeat(np.array(values, dtype=float), counts)
    return joined


def bags_in_memory(features: Any) -> list[Bag]:
    """Return the bags of what lies in memory: a bag, a list of bags, or an AnnData.

    Raises:
        UserError: When it is something else.
        DataError: As `bags_of`.
    """
    if hasattr(features, "obsm"):
        return bags_of(features)
    several = isinstance(features, Iterable) and not isinstance(features, Bag)
    bags = list(features) if several else [features]
    strangers = [type(bag).__name__ for bag in bags if not isinstance(bag, Bag)]
    if strangers:
        raise UserError(f"Features are a folder, bags or an AnnData, not a {strangers[0]}")
    return bags


def bags_of(data: Any) -> list[Bag]:
    """Return the bags of an AnnData with the patches of several slides.

    Raises:
        DataError: When `obs['slide_id']` does not say whose patches they are.
    """
    if "slide_id" not in data.obs:
        raise DataError(
            "an AnnData without obs['slide_id'] does not say whose patches its rows are",
            fix="Add the column slide_id to obs",
        )
    slides = data.obs["slide_id"].astype(str)
    names = dict.fromkeys(slides)
    return [Bag.from_anndata(data[(slides == name).to_numpy()], name) for name in names]
