"""What the viewer shows of maps: the layers of every encoder and head on one page per slide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from spade_bench.errors import UserError
from spade_bench.explain.layers import Layer
from spade_bench.explain.places import APART, highest, with_highest
from spade_bench.explain.slidemap import SlideMap
from spade_bench.explain.topsheet import TOP
from spade_bench.explain.viewer.slideview import SlideView, TopPatch
from spade_bench.report.naming import encoder_title, head_title, task_title

if TYPE_CHECKING:
    from spade_bench.explain.outlined.regionclasses import RegionClass

__all__ = ["map_views", "slide_view"]


def map_views(
    maps: Iterable[SlideMap],
    *,
    top: int = TOP,
    outlined: Mapping[str, Sequence[RegionClass]] | None = None,
) -> list[SlideView]:
    """Return a view per slide of some maps, in their order.

    Args:
        maps: The maps; those of one slide share a page.
        top: How many of the highest, and of the lowest, patches of each map are listed.
        outlined: Slide id -> what was outlined on it, by class.

    Raises:
        UserError: When the file of a slide is not known.
    """
    of_slide: dict[str, list[SlideMap]] = {}
    for one in maps:
        of_slide.setdefault(one.slide_id, []).append(one)
    return [
        slide_view(same, top=top, outlined=(outlined or {}).get(slide, ()))
        for slide, same in of_slide.items()
    ]


def slide_view(
    maps: Sequence[SlideMap],
    *,
    top: int = TOP,
    outlined: Sequence[RegionClass] = (),
) -> SlideView:
    """Return the view of one slide.

    Args:
        maps: Its maps.
        top: As in `map_views`.
        outlined: What was outlined on it, by class.

    Raises:
        UserError: When the file of the slide is not known.
    """
    path = next((one.slide for one in maps if one.slide is not None), None)
    if path is None:
        raise UserError(
            "the viewer needs the slide, and its file is not known",
            where=maps[0].slide_id,
            fix="Give the folder of slides with --slides",
        )
    drawn = [one.layers() for one in maps]
    return SlideView(
        maps[0].slide_id,
        path,
        [layer for layers in drawn for layer in layers],
        outlined,
        [patch for layers in drawn for patch in _top(layers[0], top)],
        tuple(dict.fromkeys(mark for one in maps for mark in one.marks)),
        next((one.mpp for one in maps if one.mpp is not None), None),
        _facts(maps),
    )


def _top(layer: Layer, most: int) -> list[TopPatch]:
    """The highest patches of the upper half of a layer, and the lowest of the lower half."""
    listed = []
    scores = layer.values if layer.ranked is None else layer.ranked  # (n,)
    for lowest in (False, True):
        of_end = with_highest(layer, 0.5, lowest=lowest)  # so that no patch is on both lists
        rows = highest(of_end, most, APART * layer.side, lowest=lowest)
        for rank, row in enumerate(rows, start=1):
            x, y = (int(v) for v in layer.coords[row])
            listed.append(TopPatch(layer.key, rank, float(scores[row]), x, y, lowest))
    return listed


def _facts(maps: Sequence[SlideMap]) -> dict[str, str]:
    """Case, task, and what each encoder and head predicted."""
    first = maps[0]
    facts = {"Case": first.case_id, "Task": task_title(first.task)}
    for one in maps:
        said = zip(one.classes, one.predicted, strict=False)
        words = ", ".join(f"{name} {value:.3g}" for name, value in said)
        if words:
            facts[f"{encoder_title(one.encoder)}, {head_title(one.head)}"] = words
    return {name: value for name, value in facts.items() if value}
