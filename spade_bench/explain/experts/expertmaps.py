"""The experts on one slide: layers to draw, and the patches that are most an expert's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.layers import CATEGORY, SHARE, VALUE, Layer
from spade_bench.explain.places import far_apart
from spade_bench.features.bags import read_bag
from spade_bench.features.routinggroup import read_routing
from spade_bench.report.naming import encoder_title
from spade_bench.types import Bag, Routing

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["ExpertMap", "TopPatch", "expert_map", "expert_name", "read_expert_map",
           "routing_marks", "top_patches"]  # fmt: skip

_APART = 2.0  # patches between two that are shown
_NEARLY_ALL = 0.9  # of the patches: a map of one expert is a map of one colour
_FOLLOWED = 0.9  # of the patches: soft routing sends some on a border elsewhere


@dataclass(frozen=True)
class ExpertMap:
    """How the patches of one slide were sent to the experts.

    Attributes:
        slide_id: Name of the slide.
        encoder: The mixture of experts.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
        side: Side of a patch in level-0 pixels.
        routing: Where each patch goes.
        mpp: Resolution at which patches were encoded, in micrometres per pixel, or None.
        level0_mpp: Resolution of level 0 that the patches were cut by, or None.
        offset: Level-0 pixel (x, y) where what was scanned begins, which QuPath calls (0, 0).
    """

    slide_id: str
    encoder: str
    coords: NDArray[np.int64]
    side: int
    routing: Routing
    mpp: float | None = None
    level0_mpp: float | None = None
    offset: tuple[int, int] = (0, 0)

    def layers(self, experts: Sequence[int] | None = None) -> list[Layer]:
        """Return what can be drawn: nearest expert, largest weight, weights, entropy, distance.

        Args:
            experts: Whose weights; None takes the experts that any patch is nearest to.
        """
        import numpy as np

        routing, place = self.routing, (self.coords, self.side)
        names = tuple(expert_name(e, routing.n_experts) for e in range(routing.n_experts))
        chosen = np.unique(routing.expert).tolist() if experts is None else list(experts)
        key, title = self.encoder, encoder_title(self.encoder)
        how = f"weight in {routing.mode} routing" if routing.mode else "routing weight"
        return [
            Layer(f"{key}.expert", f"{title}: nearest expert", "nearest expert", *place,
                  routing.expert.astype(np.float64), CATEGORY, names),
            Layer(f"{key}.largest", f"{title}: largest weight", f"largest {how}", *place,
                  np.asarray(routing.weights, dtype=np.float64).max(axis=1), SHARE),
            *(Layer(f"{key}.weight.{names[e].replace(' ', '_')}", f"{title}: {names[e]}", how,
                    *place, routing.weight_of(e).astype(np.float64), SHARE) for e in chosen),
            Layer(f"{key}.entropy", f"{title}: entropy of routing",
                  f"entropy of routing, share of log {routing.n_experts}", *place,
                  self.relative_entropy(), SHARE),
            Layer(f"{key}.distance", f"{title}: distance to the nearest expert",
                  "distance in the space of the base features", *place,
                  routing.distance.astype(np.float64), VALUE),
        ]  # fmt: skip

    def relative_entropy(self) -> NDArray[np.float64]:
        """Return the entropy of each patch as a share of log K, (n,): 0 one expert, 1 all alike."""
        import numpy as np

        most = np.log(self.routing.n_experts) if self.routing.n_experts > 1 else 1.0
        found: NDArray[np.float64] = np.clip(self.routing.entropy.astype(np.float64) / most, 0, 1)
        return found

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per patch: place, nearest expert, distance, entropy, weights."""
        import pandas as pd

        routing = self.routing
        columns: dict[str, Any] = {
            "slide_id": self.slide_id,
            "x": self.coords[:, 0],
            "y": self.coords[:, 1],
            "expert": routing.expert,
            "distance": routing.distance,
            "entropy": routing.entropy,
        }
        for e in range(routing.n_experts):
            columns[f"weight_{e}"] = routing.weight_of(e)
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class TopPatch:
    """One of the patches that are most an expert's own.

    Attributes:
        expert: The expert.
        rank: 1 for the first.
        slide_id: Its slide.
        x: Level-0 column of its left edge.
        y: Level-0 row of its top edge.
        side: Its side in level-0 pixels.
        weight: Weight of the expert for it.
        distance: Its distance to the expert.
    """

    expert: int
    rank: int
    slide_id: str
    x: int
    y: int
    side: int
    weight: float
    distance: float


def expert_name(expert: int, n_experts: int) -> str:
    """Return what an expert is called, its number padded so that names sort."""
    return f"expert {expert:0{len(str(max(0, n_experts - 1)))}d}"


def routing_marks(maps: Sequence[ExpertMap]) -> tuple[str, ...]:
    """Say what the nearest expert of patches does not show, where that would mislead.

    Args:
        maps: Maps by one encoder.

    Returns:
        That nearly all patches have one expert, and that patches were not sent to the nearest one.
    """
    import numpy as np

    patches = np.array([len(one.routing.expert) for one in maps])  # (s,)
    n_experts = maps[0].routing.n_experts
    if n_experts == 1 or not patches.sum():
        return ()
    marks = []
    shares = np.average([one.routing.shares() for one in maps], axis=0, weights=patches)  # (K,)
    first = int(shares.argmax())
    if shares[first] >= _NEARLY_ALL:
        marks.append(f"{expert_name(first, n_experts)} of {n_experts} is the nearest for "
                     f"{_percent(shares[first])} of the patches")  # fmt: skip
    leads = float(np.average([one.routing.nearest_leads() for one in maps], weights=patches))
    if leads < _FOLLOWED:
        how = f"{maps[0].routing.mode} routing" if maps[0].routing.mode else "this routing"
        marks.append(f"{how} gives the nearest expert the largest weight for {_percent(leads)} of "
                     "the patches: it is not where they were sent")  # fmt: skip
    return tuple(marks)


def _percent(share: float) -> str:
    """A share in words that is 100% only where it is all."""
    return f"{share:.0%}" if share in (0, 1) or 0.005 <= share < 0.995 else f"{share:.2%}"


def expert_map(bag: Bag) -> ExpertMap:
    """Return the map of a bag that carries routing.

    Raises:
        DataError: When it carries none, or does not say where its patches lie.
    """
    import numpy as np

    if bag.routing is None:
        raise DataError(
            "the features carry no routing",
            where=bag.slide_id,
            fix="Encode them with --with-routing, or sb.encode(..., with_routing=True)",
        )
    if bag.coords is None or bag.patch_size_level0 is None:
        raise DataError(
            "the features do not say where their patches lie",
            where=bag.slide_id,
            fix="Extract them with `spade-bench extract`",
        )
    coords = np.asarray(bag.coords, dtype=np.int64)
    encoder = bag.encoder or "experts"
    return ExpertMap(
        bag.slide_id, encoder, coords, bag.patch_size_level0, bag.routing, bag.mpp,
        bag.level0_mpp, bag.offset,
    )  # fmt: skip


def read_expert_map(path: Path) -> ExpertMap:
    """Read the map of a feature file that `encode --with-routing` wrote.

    Raises:
        DataError: As `expert_map`, or when the file is damaged.
    """
    from dataclasses import replace

    return expert_map(replace(read_bag(path), routing=read_routing(path)))


def top_patches(
    maps: Sequence[ExpertMap], expert: int, most: int = 50, *, apart: float = _APART
) -> list[TopPatch]:
    """Return the patches of several slides that are most an expert's own.

    They are ranked by the expert's weight. Where it is the same, as for all patches that one expert
    has alone, the one that lies nearer to the expert comes first.

    Args:
        maps: Maps of the same encoder.
        expert: The expert; only patches that are nearest to it are taken.
        most: How many.
        apart: Distance of two of the same slide, in sides of a patch.
    """
    import numpy as np

    found: list[TopPatch] = []
    for one in maps:
        weight, distance = one.routing.weight_of(expert), one.routing.distance
        order = np.lexsort((distance, -weight))
        order = order[one.routing.expert[order] == expert]
        for row in far_apart(order, one.coords, apart * one.side, most).tolist():
            x, y = one.coords[row].tolist()
            values = float(weight[row]), float(distance[row])
            found.append(TopPatch(expert, 0, one.slide_id, x, y, one.side, *values))
    found.sort(key=lambda patch: (-patch.weight, patch.distance, patch.slide_id))
    return [
        TopPatch(expert, rank, p.slide_id, p.x, p.y, p.side, p.weight, p.distance)
        for rank, p in enumerate(found[:most], start=1)
    ]
