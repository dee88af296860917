"""Where on a slide the programmes are drawn that its labels follow, as QuPath annotations.

This is the truth that attention can be held against. It reads what was grown and draws nothing of
the random stream, so that images and tables are the same with it and without.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.regions.outlines import Region, SlideRegions
from spade_bench.regions.regionfiles import region_features, write_geojson
from spade_bench.simulate.studysettings import NICHES, PROGRAMMES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.simulate.tissuemap import Tissue

__all__ = ["TUMOUR", "planted_masks", "planted_regions", "write_planted"]

TUMOUR = "tumour"
_LEVEL = 0.5  # of cover, tumour share and programme: more than half


def planted_masks(tissue: Tissue) -> dict[str, NDArray[np.bool_]]:
    """Return where there is tumour, and where in it each programme is drawn, (h, w) each."""
    share = tissue.niches[NICHES.index("gland")] + tissue.niches[NICHES.index("solid")]
    tumour = (tissue.cover > _LEVEL) & (share > _LEVEL)  # (h, w)
    drawn = zip(PROGRAMMES, tissue.drawn, strict=True)
    return {TUMOUR: tumour} | {one.name: tumour & (level > _LEVEL) for one, level in drawn}


def planted_regions(tissue: Tissue, slide_id: str, side_px: int) -> SlideRegions:
    """Return one region for the tumour and one per programme; what a slide lacks has none.

    Args:
        tissue: What was grown.
        slide_id: Name of the slide.
        side_px: Side of its square image in level-0 pixels.
    """
    import numpy as np
    import shapely

    regions = []
    for name, mask in planted_masks(tissue).items():
        if not mask.any():
            continue
        # Whole pixels, the same for the edges that two cells share: no slivers between them.
        edges = np.rint(np.arange(len(mask) + 1) * side_px / len(mask))  # (n + 1,)
        row, column = np.nonzero(mask)
        boxes = shapely.box(edges[column], edges[row], edges[column + 1], edges[row + 1])
        regions.append(Region(shapely.union_all(boxes), label=name))
    return SlideRegions(slide_id, tuple(regions))


def write_planted(path: Path, tissue: Tissue, side_px: int) -> None:
    """Write the regions of a slide; one without tumour has no file.

    Args:
        path: File to write, `SLIDE.geojson`.
        tissue: What was grown.
        side_px: Side of its square image in level-0 pixels.
    """
    regions = planted_regions(tissue, path.stem, side_px)
    if regions.regions:
        write_geojson(path, region_features(regions))
