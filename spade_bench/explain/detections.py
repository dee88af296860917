"""Layers of a slide as QuPath detections: a square per patch, its class and its measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say
from spade_bench.errors import DataError, UserError
from spade_bench.explain.colours import layer_colours
from spade_bench.explain.layers import CATEGORY, SHARE, SIGNED, Layer
from spade_bench.regions.regionfiles import write_geojson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MAX_DETECTIONS", "Detections", "write_detections"]

MAX_DETECTIONS = 50_000
"""How many squares QuPath still shows fluently."""

_STEPS = 10
_NONE = -1


@dataclass(frozen=True)
class Detections:
    """What was written.

    Attributes:
        path: The file.
        written: Patches in it.
        patches: Patches of the slide.
    """

    path: Path
    written: int
    patches: int


def write_detections(
    path: str | Path,
    layers: Sequence[Layer],
    *,
    by: str | None = None,
    measurements: Mapping[str, NDArray[np.float64]] | None = None,
    offset: tuple[int, int] = (0, 0),
    max_detections: int = MAX_DETECTIONS,
) -> Detections:
    """Write the patches of a slide as locked QuPath detections.

    Each patch has the value of every layer as a measurement, and is classified by one of them: a
    category by its name, other values in ten steps between the ends of the layer's colours, which
    are deciles of what is a percentile.

    Args:
        path: The file, `.geojson` or `.geojson.gz`, which QuPath opens too.
        layers: Layers over the same patches.
        by: Key of the layer that classifies; None takes the first.
        measurements: Name -> value of each patch, (n,), instead of the values of the layers.
        offset: Level-0 pixel that QuPath calls (0, 0); see `spade_bench.slides.opening.Slide`.
        max_detections: Most patches to write. Of more, those with the highest value are kept, of a
            signed layer those furthest from zero, and of a category as many as fit, evenly spread.

    Returns:
        The file, and how many of how many patches are in it.

    Raises:
        UserError: When no patch would be written, or no layer has that key.
        DataError: When there is no layer, or layers lie on different patches.
    """
    import numpy as np

    if max_detections < 1:
        raise UserError(f"--max-detections is {max_detections}", fix="Use 1 or more")
    leading = _leading(layers, by)
    n = len(leading.values)
    kept = _kept(layers, leading, max_detections)  # (m,), in the order of the patches
    if len(kept) < n:
        say(f"{Path(path).name}: {_what_is_kept(leading)}, {len(kept)} of {n} patches "
            f"({len(kept) / n:.1%}); --max-detections N writes more")  # fmt: skip
    classes, which = _classes(leading)  # (n,)
    corners = np.asarray(leading.coords, dtype=np.int64) - np.array(offset)  # (n, 2)
    if measurements is None:
        measurements = {layer.title: layer.values for layer in layers}
    columns = [(name, np.asarray(v, dtype=np.float64)) for name, v in measurements.items()]
    features = (
        _detection(
            corners[i].tolist(),
            leading.side,
            None if which[i] == _NONE else classes[which[i]],
            {title: float(values[i]) for title, values in columns if _is_stated(values[i])},
        )
        for i in kept.tolist()
    )
    return Detections(write_geojson(path, list(features)), len(kept), n)


def _leading(layers: Sequence[Layer], by: str | None) -> Layer:
    """The layer that classifies, once all of them lie on the same patches."""
    import numpy as np

    if not layers or not len(layers[0].values):
        raise DataError("There is no patch to write as a detection")
    first = layers[0]
    for other in layers[1:]:
        if other.side != first.side or not np.array_equal(other.coords, first.coords):
            raise DataError(
                f"'{other.key}' lies on other patches than '{first.key}'",
                fix="Write each to a file of its own",
            )
    if by is None:
        return first
    named = {layer.key: layer for layer in layers}
    if by not in named:
        raise UserError(f"There is no layer '{by}'", fix=f"Use {', '.join(named)}")
    return named[by]


def _kept(layers: Sequence[Layer], leading: Layer, most: int) -> NDArray[np.int64]:
    """Positions of the patches that are written, ascending."""
    import numpy as np

    n = len(leading.values)
    if n <= most:
        return np.arange(n)
    if leading.scale == CATEGORY:
        return np.linspace(0, n - 1, most).round().astype(np.int64)
    values = np.abs(leading.values) if leading.scale == SIGNED else leading.values
    order = np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable")
    return np.sort(order[:most])


def _what_is_kept(leading: Layer) -> str:
    if leading.scale == CATEGORY:
        return "an even choice of patches is written"
    if leading.scale == SIGNED:
        return f"what is furthest from zero in '{leading.title}' is written"
    return f"the top of '{leading.title}' is written"


def _classes(layer: Layer) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
    """Classes of QuPath with names and colours, and which one each patch has, -1 for none."""
    import numpy as np

    values = np.asarray(layer.values, dtype=np.float64)  # (n,)
    known = np.isfinite(values)
    if layer.scale == CATEGORY:
        which = np.where(known, values, _NONE).astype(np.int64)
        return [
            {"name": _plain(name), "color": colour}
            for name, colour in zip(layer.names, _colours(layer, len(layer.names)), strict=True)
        ], np.where(which < len(layer.names), which, _NONE)
    low, high = layer.limits()
    place = (np.where(known, values, low) - low) / (high - low)  # (n,)
    which = np.clip((place * _STEPS).astype(np.int64), 0, _STEPS - 1)
    edges = np.linspace(low, high, _STEPS + 1)
    names = [
        f"{a:.0%} to {b:.0%}" if layer.scale == SHARE else f"{a:.3g} to {b:.3g}"
        for a, b in pairwise(edges)
    ]
    classes = [
        {"name": f"{_plain(layer.title)}, {name}", "color": colour}
        for name, colour in zip(names, _colours(layer, _STEPS), strict=True)
    ]
    return classes, np.where(known, which, _NONE)


def _colours(layer: Layer, n: int) -> list[list[int]]:
    """Red, green and blue of each class, 0 to 255, as pictures of the layer have them."""
    import numpy as np

    low, high = layer.limits()
    middle = low + (np.arange(n) + 0.5) / n * (high - low)  # (n,)
    places = np.arange(n) if layer.scale == CATEGORY else middle
    rgb = np.rint(255 * layer_colours(layer, places.astype(np.float64)))  # (n, 3)
    return [[int(channel) for channel in row] for row in rgb]


def _plain(name: str) -> str:
    """A name without colons, by which QuPath would take it for a class of a class."""
    return name.replace(": ", " ").replace(":", " ")


def _is_stated(value: float) -> bool:
    """JSON has no NaN: a patch without a value lacks the measurement."""
    import math

    return math.isfinite(value)


def _detection(
    corner: Sequence[int],
    side: int,
    of_class: dict[str, Any] | None,
    measurements: dict[str, float],
) -> dict[str, Any]:
    (x, y), right, bottom = corner, corner[0] + side, corner[1] + side
    ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
    properties: dict[str, Any] = {"objectType": "detection", "isLocked": True}
    if of_class is not None:
        properties["classification"] = of_class
    properties["measurements"] = measurements
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
    }
