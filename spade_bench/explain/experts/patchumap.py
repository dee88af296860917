"""A UMAP of patches, coloured by expert and by what a table says of their slides.

Source: McInnes et al., "UMAP" (arXiv 1802.03426), the implementation umap-learn.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.colours import category_colours
from spade_bench.report.pictures import new_figure

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["CAUTION", "SAMPLE", "PatchUmap", "patch_umap", "plot_umap"]

SAMPLE = 10_000
CAUTION = "UMAP: neighbours mean something, distances and sizes of clusters hardly anything"
_FEWEST = 10
_NEIGHBOURS = 15
_MOST_COLOURS = 14  # what the legend of a panel can tell apart
_OTHER = "others"
_MM = 1 / 25.4
_LETTER = 1.3  # mm, of 6 points: what one takes in a line, on average


@dataclass(frozen=True)
class PatchUmap:
    """A sample of patches in two dimensions.

    Attributes:
        points: A row per patch: `slide_id`, `patch` (its row in the features), `umap_1`, `umap_2`,
            and what else is known of it, such as `expert`.
        total: Number of patches that the sample was drawn from.
        seed: Seed of the sample and of the UMAP.
    """

    points: pd.DataFrame
    total: int
    seed: int

    @property
    def said(self) -> str:
        """How many patches are shown, in words."""
        shown = len(self.points)
        if shown == self.total:
            return f"all {shown:,} patches"
        return f"{shown:,} of {self.total:,} patches, drawn at random (seed {self.seed})"


def patch_umap(
    counts: Mapping[str, int],
    read: Callable[[str, NDArray[np.int64]], NDArray[np.floating]],
    *,
    most: int = SAMPLE,
    seed: int = 0,
) -> PatchUmap:
    """Lay out a random sample of the patches of several slides.

    Every patch is as likely as any other, so a large slide shows more of them.

    Args:
        counts: Slide id -> number of its patches.
        read: Returns the features (m, P) of some patches of a slide.
        most: Patches to show.
        seed: Seed of the sample and of the UMAP, which runs on one core so that it is the same
            again.

    Raises:
        DataError: When there are fewer than ten patches.
    """
    import numpy as np
    import pandas as pd

    total = sum(counts.values())
    if total < _FEWEST:
        raise DataError(f"{total} patches are too few for a UMAP", fix="Give more slides")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(total, min(most, total), replace=False))
    parts, features, start = [], [], 0
    for slide, n in counts.items():
        rows = chosen[(chosen >= start) & (chosen < start + n)] - start
        start += n
        if len(rows):
            parts.append(pd.DataFrame({"slide_id": slide, "patch": rows}))
            features.append(np.asarray(read(slide, rows), dtype=np.float32))  # (m, P)
    points = pd.concat(parts, ignore_index=True)
    placed = _umap(np.concatenate(features), seed)  # (s, 2)
    points["umap_1"], points["umap_2"] = placed[:, 0], placed[:, 1]
    return PatchUmap(points, total, seed)


def plot_umap(
    found: PatchUmap, columns: Sequence[str], title: str, *, marks: Sequence[str] = ()
) -> Figure:
    """Draw the sample, a panel per column, in the same places.

    Args:
        found: From `patch_umap`.
        columns: Columns of its points that colour them, such as `expert`, `organ` and `site`.
        title: What the picture shows.
        marks: What a reader must know, such as "simulated data".
    """
    import numpy as np

    across = min(3, len(columns))
    down = -(-len(columns) // across)
    panel = {1: 80.0, 2: 86.0}.get(across, 57.0)  # mm
    wide = (panel + 3) * across
    figure = new_figure(wide * _MM, ((panel + 16) * down + 14) * _MM)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    # Shuffled, so that no colour lies on top because its slides come last.
    order = np.random.default_rng(found.seed).permutation(len(found.points))
    points = found.points.iloc[order]
    size = float(np.clip(4_000 / max(1, len(points)), 0.6, 6.0))
    for axes, column in zip(grid, columns, strict=False):
        _panel(axes, points, column, size)
    for axes in grid[len(columns) :]:
        axes.remove()
    said = "; ".join([found.said, *marks])
    figure.suptitle(title, fontsize=8, fontweight="bold", ha="left", x=0.01)
    below = "\n".join(textwrap.fill(f"{text}.", int(wide / _LETTER)) for text in (said, CAUTION))
    figure.supxlabel(below, fontsize=6, ha="left", x=0.01)
    return figure


def _panel(axes: Any, points: pd.DataFrame, column: str, size: float) -> None:
    import numpy as np

    values = points[column].astype(object).where(points[column].notna(), "unknown").astype(str)
    names = sorted(values.unique())
    if len(names) > _MOST_COLOURS:
        kept = values.value_counts().index[: _MOST_COLOURS - 1].tolist()
        values = values.where(values.isin(kept), _OTHER)
        names = [*sorted(kept), _OTHER]
    colours = category_colours(len(names))
    if _OTHER in names:
        colours[-1] = 0.75
    code = values.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.int64)
    axes.scatter(points["umap_1"], points["umap_2"], s=size, c=colours[code], linewidths=0,
                 rasterized=True)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"by {column}", fontsize=7, loc="left")
    axes.set_box_aspect(1)
    for edge in axes.spines.values():
        edge.set_linewidth(0.5)
    shown = [
        axes.scatter([], [], s=16, color=colours[i], linewidths=0, label=name)
        for i, name in enumerate(names)
    ]
    longest = max(map(len, names), default=0)
    ncols = 1 if longest > 22 else 2 if longest > 10 else 3
    axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(-0.03, 0.0), frameon=False,
                fontsize=6, ncols=ncols, handletextpad=0.1, columnspacing=0.8)  # fmt: skip


def _umap(features: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Two dimensions of features (n, P), the same for the same seed, (n, 2)."""
    import numpy as np

    from spade_bench.device import kept_threads

    with kept_threads(), warnings.catch_warnings():
        # It says that a seed means one core, and warns of libraries below it.
        warnings.simplefilter("ignore")
        from umap import UMAP

        neighbours = min(_NEIGHBOURS, len(features) - 1)
        # A spectral start fails on fewer points than its own dimensions need.
        start = "spectral" if len(features) > 4 * neighbours else "random"
        layout = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1, init=start)
        placed: NDArray[np.float32] = np.asarray(layout.fit_transform(features), dtype=np.float32)
    return placed
