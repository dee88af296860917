"""What the viewer shows of a mixture of experts on one slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.explain.experts.expertmaps import ExpertMap, top_patches
from spade_bench.explain.layers import Layer
from spade_bench.explain.viewer.slideview import SlideView, TopPatch

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["expert_view"]

_LISTED = 10  # top patches of each expert, of which there may be many
_FACTS = {"case_id": "Case", "site": "Site", "organ": "Organ", "label": "Label"}


def expert_view(
    one: ExpertMap,
    layers: Sequence[Layer],
    slide: Path,
    *,
    top: int,
    marks: tuple[str, ...] = (),
    facts: pd.DataFrame | None = None,
) -> SlideView:
    """Return the view of one slide: experts, weights and predicted genes, the experts' own patches.

    Args:
        one: The experts on the slide.
        layers: What can be drawn of it, the layers of the map among them.
        slide: File of the slide.
        top: Patches of each expert that are listed, of which a page takes ten.
        marks: What a reader must know, such as "simulated data".
        facts: What a table says of slides, by `slide_id`.
    """
    weights = [layer for layer in layers if ".weight." in layer.key]  # in the order of experts
    present = sorted(set(one.routing.expert.tolist()))
    listed = [
        TopPatch(layer.key, patch.rank, patch.weight, patch.x, patch.y)
        for layer, expert in zip(weights, present, strict=True)
        for patch in top_patches([one], expert, min(top, _LISTED))
    ]
    said = {}
    if facts is not None and one.slide_id in facts.index:
        row = facts.loc[one.slide_id].dropna()
        said = {words: str(row[name]) for name, words in _FACTS.items() if name in row}
    said |= {
        "Experts": f"{len(present)} of {one.routing.n_experts} have patches here",
        "Patches": f"{len(one.coords):,}",
    }
    return SlideView(one.slide_id, slide, layers, (), listed, marks, one.level0_mpp, said)
