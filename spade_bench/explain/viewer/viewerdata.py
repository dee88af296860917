"""What the page of a slide reads: scripts, because a page opened from disk may not fetch files."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spade_bench.explain.colours import category_colours, colour_map
from spade_bench.explain.layers import CATEGORY, Layer
from spade_bench.explain.viewer.slideview import SlideView
from spade_bench.explain.viewer.tilepyramid import TILE, TileLevel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.regions.outlines import Region

__all__ = ["layer_script", "slide_script"]

_COLOURS = 256  # steps of a colour bar


def slide_script(
    view: SlideView,
    folder: str,
    size: tuple[int, int],
    mpp: float | None,
    levels: Sequence[TileLevel],
) -> str:
    """Return the script that describes a slide: everything but the values of its layers.

    Args:
        view: The slide's view.
        folder: The folder of its files, as the page names it.
        size: Level-0 width and height of the slide.
        mpp: Micrometres per pixel at level 0, or None.
        levels: Its tiles.
    """
    regions = [(at, region) for at, one in enumerate(view.outlined) for region in one.regions]
    # The border that a region shares with one that lies in it is that of the larger one.
    by_area = sorted(regions, key=lambda listed: listed[1].shape.area)
    grids: dict[tuple[int, bytes], int] = {}  # layers of one encoder share their places
    content = {
        "slide": view.slide_id,
        "folder": folder,
        "width": size[0],
        "height": size[1],
        "mpp": mpp,
        "facts": [[name, str(value)] for name, value in view.facts.items()],
        "marks": list(view.marks),
        "tile": TILE,
        "levels": [
            {"folder": one.folder, "downsample": one.downsample, "width": one.width,
             "height": one.height, "tiles": list(one.tiles)}
            for one in levels
        ],
        "layers": [_described(layer, grids) for layer in view.layers],
        "grids": [{"side": side, "coords": _base64(coords)} for side, coords in grids],
        "classes": [
            {"name": one.name, "colour": list(one.colour)} for one in view.outlined
        ],
        "regions": [{**_region(region), "of": number} for number, region in by_area],
        "top": [
            {"layer": patch.layer, "rank": patch.rank, "score": _number(patch.score),
             "x": int(patch.x), "y": int(patch.y), "lowest": patch.lowest}
            for patch in view.top
        ],
    }  # fmt: skip
    return f"viewerSlide({json.dumps(content, allow_nan=False)});\n"


def layer_script(number: int, layer: Layer) -> str:
    """Return the script that brings the values of a layer, as float32; NaN where there is none.

    Where the layer shows percentiles, the values that they rank come along.

    Args:
        number: Place of the layer among those of its slide, from 0.
        layer: The layer.
    """
    shown, ranked = _numbers(layer.values), "null"
    if layer.ranked is not None:
        ranked = f'"{_numbers(layer.ranked)}"'
    return f'viewerLayer({number}, "{shown}", {ranked});\n'


def _described(layer: Layer, grids: dict[tuple[int, bytes], int]) -> dict[str, Any]:
    """Describe a layer; its grid is added to the grids unless it is there."""
    places = layer.coords.astype("<i4").tobytes()  # x, y, x, y, ...
    grid = grids.setdefault((int(layer.side), places), len(grids))
    return {
        "key": layer.key,
        "title": layer.title,
        "legend": layer.legend,
        "scale": layer.scale,
        "names": list(layer.names),
        "limits": [float(limit) for limit in layer.limits()],
        "grid": grid,
        "colours": _base64(_colours(layer).tobytes()),
    }


def _colours(layer: Layer) -> NDArray[np.uint8]:
    """Red, green and blue of each step of the colour bar, or of each category, (n, 3)."""
    import numpy as np

    if layer.scale == CATEGORY:
        colours = category_colours(len(layer.names))
    else:
        colours = colour_map(layer.scale)(np.linspace(0.0, 1.0, _COLOURS))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)


def _region(region: Region) -> dict[str, Any]:
    """Name and closed borders of a region; a hole is a border like any."""
    parts = getattr(region.shape, "geoms", (region.shape,))
    lines = [line for part in parts for line in (part.exterior, *part.interiors)]
    rings = [[[round(x, 1), round(y, 1)] for x, y, *_ in line.coords] for line in lines]
    return {"name": region.label or region.name or "no name", "rings": rings}


def _numbers(values: NDArray[np.float64]) -> str:
    return _base64(values.astype("<f4").tobytes())


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
