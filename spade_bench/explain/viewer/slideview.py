"""What the viewer shows of one slide, and what cannot be shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import DataError, UserError
from spade_bench.explain.layers import CATEGORY, SCALES, Layer

if TYPE_CHECKING:
    from spade_bench.explain.outlined.regionclasses import RegionClass

__all__ = ["SlideView", "TopPatch", "check_inside", "checked_views"]


@dataclass(frozen=True)
class TopPatch:
    """A patch worth looking at.

    Attributes:
        layer: Key of the layer that ranks it.
        rank: Its rank, from 1.
        score: Value by which it was ranked.
        x: Level-0 column of its left edge.
        y: Level-0 row of its top edge.
        lowest: Whether it is one of the lowest patches, ranked from the bottom.
    """

    layer: str
    rank: int
    score: float
    x: int
    y: int
    lowest: bool = False


@dataclass(frozen=True)
class SlideView:
    """One slide of the viewer.

    Attributes:
        slide_id: Name of the slide.
        path: Its file.
        layers: What can be drawn on it; each may have patches of its own.
        outlined: Outlined regions by class.
        top: Patches worth looking at.
        marks: What a reader must know, such as "simulated data".
        mpp: Micrometres per pixel at level 0 where known; else what the file says.
        facts: What else is worth saying, such as the case, the task and the prediction.
    """

    slide_id: str
    path: Path
    layers: Sequence[Layer]
    outlined: Sequence[RegionClass] = ()
    top: Sequence[TopPatch] = ()
    marks: tuple[str, ...] = ()
    mpp: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


def checked_views(views: Iterable[SlideView]) -> Iterator[SlideView]:
    """Pass on one view after another, and refuse what cannot be shown.

    Raises:
        UserError: When there is no slide or a slide has no layer.
        DataError: When two slides or layers share a name, or a layer contradicts itself.
    """
    seen: set[str] = set()
    for view in views:
        if view.slide_id in seen:
            raise DataError("Two slides of the viewer share this name", where=view.slide_id)
        seen.add(view.slide_id)
        _check_view(view)
        yield view
    if not seen:
        raise UserError("There is no slide to show", fix="Give at least one slide with a map")


def _check_view(view: SlideView) -> None:
    if not view.layers:
        raise UserError("There is nothing to show", where=view.slide_id,
                        fix="Give at least one layer")  # fmt: skip
    keys = [layer.key for layer in view.layers]
    for layer in view.layers:
        _check_layer(layer, f"{view.slide_id}, {layer.key}")
        if keys.count(layer.key) > 1:
            raise DataError("Two layers share this key", where=f"{view.slide_id}, {layer.key}")
    for patch in view.top:
        if patch.layer not in keys:
            raise DataError(f"A top patch names a layer that is not there ({patch.layer})",
                            where=view.slide_id)  # fmt: skip


def _check_layer(layer: Layer, where: str) -> None:
    n = len(layer.values)
    if layer.scale not in SCALES:
        raise DataError(f"Has the unknown scale '{layer.scale}'", where=where,
                        fix=f"Known are {', '.join(SCALES)}")  # fmt: skip
    if layer.coords.shape != (n, 2):
        raise DataError(f"Has {n} values and {len(layer.coords)} places", where=where)
    if not n:
        raise DataError("Has no patch", where=where)
    if layer.side <= 0:
        raise DataError(f"Has patches of {layer.side} px", where=where)
    if layer.scale == CATEGORY:
        highest = int(layer.values.max())
        if highest >= len(layer.names):
            raise DataError(
                f"Names {len(layer.names)} categories and holds category {highest}", where=where
            )


def check_inside(view: SlideView, width: int, height: int) -> None:
    """Refuse patches that lie outside the slide: they belong to another one.

    Args:
        view: The slide's view.
        width: Level-0 width of the slide.
        height: Level-0 height of the slide.

    Raises:
        DataError: When a patch lies outside by more than half its side.
    """
    import numpy as np

    for layer in view.layers:
        middle = layer.coords + layer.side / 2  # (n, 2)
        inside = (middle >= 0) & (middle <= (width, height))  # (n, 2)
        outside = ~np.asarray(inside.all(axis=1))  # (n,)
        if outside.any():
            x, y = layer.coords[outside][0]
            raise DataError(
                f"{int(outside.sum())} of {len(outside)} patches of {layer.key} lie outside the "
                f"slide of {width} x {height} px, the first at ({x}, {y})",
                where=view.slide_id,
                fix="Give the slide from which the features were extracted",
            )
