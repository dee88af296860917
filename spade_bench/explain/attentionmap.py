"""The attention of a fitted head over the patches of one slide: table, picture, GeoJSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import warn
from spade_bench.errors import DataError, UserError
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.files import write_json
from spade_bench.types import Bag

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spade_bench.evaluation.trainedmodel import TrainedModel

    Floats = NDArray[np.float64]

__all__ = ["AttentionMap", "attention_map"]

_THUMBNAIL_PX = 1500  # of the longer side
_COLOURS = "viridis"


@dataclass(frozen=True)
class AttentionMap:
    """Attention over the patches of one slide.

    Attributes:
        slide_id: Name of the slide.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
        side: Side of a patch in level-0 pixels.
        attention: Weight of each patch, (n,); they sum to one.
        head: Name of the head.
        encoder: Name of the encoder of the features.
        slide: File of the slide, or None.
        simulated: Whether the model was trained on simulated data.
    """

    slide_id: str
    coords: NDArray[np.int64]
    side: int
    attention: Floats
    head: str
    encoder: str
    slide: Path | None = None
    simulated: bool = False

    @property
    def percentile(self) -> Floats:
        """Share of patches with less attention, ties counted half, (n,) in 0..1."""
        from scipy.stats import rankdata

        ranks: Floats = rankdata(self.attention)  # (n,), from 1, ties averaged
        return (ranks - 0.5) / len(ranks)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per patch: `x`, `y` (level-0 pixels), `attention`, `percentile`."""
        import pandas as pd

        return pd.DataFrame(
            {
                "slide_id": self.slide_id,
                "x": self.coords[:, 0],
                "y": self.coords[:, 1],
                "attention": self.attention,
                "percentile": self.percentile,
            }
        )

    def plot(self) -> Figure:
        """Draw the percentile of each patch over the slide, without smoothing.

        Returns:
            A figure; the slide lies below the patches where its file is known.
        """
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        from spade_bench.report.pictures import new_figure

        picture, width, height, mpp = self._background()
        figure = new_figure(8.0, max(3.0, 7.0 * height / width))
        axes = figure.add_subplot()
        if picture is not None:
            axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
        squares = [Rectangle((float(x), float(y)), self.side, self.side) for x, y in self.coords]
        cover = 0.55 if picture is not None else 1.0
        drawn = PatchCollection(squares, cmap=_COLOURS, alpha=cover, linewidths=0)
        drawn.set_array(self.percentile)
        drawn.set_clim(0, 1)
        axes.add_collection(drawn)
        figure.colorbar(drawn, ax=axes, shrink=0.7, label="attention, percentile within the slide")
        axes.set_xlim(0, width)
        axes.set_ylim(height, 0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        if mpp is not None:
            _scale_bar(axes, width, height, mpp)
        mark = " (simulated data)" if self.simulated else ""
        title = f"{self.slide_id}: attention of {self.head} on {self.encoder}{mark}"
        axes.set_title(title, fontsize=9)
        return figure

    def to_geojson(self, path: str | Path) -> Path:
        """Write the patches as QuPath detections with their attention as measurements.

        Args:
            path: File to write.

        Returns:
            The file.
        """
        features = []
        for (x, y), weight, share in zip(
            self.coords.tolist(), self.attention, self.percentile, strict=True
        ):
            right, bottom = x + self.side, y + self.side
            ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [ring]},
                    "properties": {
                        "objectType": "detection",
                        "measurements": {"attention": float(weight), "percentile": float(share)},
                    },
                }
            )
        target = Path(path)
        write_json(target, {"type": "FeatureCollection", "features": features})
        return target

    def _background(self) -> tuple[Any, int, int, float | None]:
        """The slide as a picture, and its width, height and µm per pixel at level 0."""
        if self.slide is None:
            right, bottom = (int(v) + self.side for v in self.coords.max(axis=0))
            return None, right, bottom, None
        from spade_bench.slides.opening import open_slide

        with open_slide(self.slide) as slide:
            longer = max(slide.width, slide.height)
            picture = slide.thumbnail(slide.mpp * max(1.0, longer / _THUMBNAIL_PX))
            return picture, slide.width, slide.height, slide.mpp


def attention_map(
    model: TrainedModel,
    features: Path | Bag,
    *,
    slide: Path | None = None,
    slide_id: str | None = None,
    weights: Path | None = None,
) -> AttentionMap:
    """Compute the attention of a trained model over one slide.

    Args:
        model: The model.
        features: The bag of the slide, or a folder with its features.
        slide: File of the slide, for pictures; its name is the slide's where none is given.
        slide_id: Name of the slide; needed for a folder without a file.
        weights: Weights of an encoder of features that base features are sent through.

    Raises:
        UserError: When the head has no attention, or no slide is named.
        DataError: When its features are of another identity, or do not say where patches lie.
    """
    import numpy as np

    if slide is not None and not slide.exists():
        raise UserError("There is no such slide", where=str(slide))
    if isinstance(features, Bag):
        bag = features
        if slide is not None and slide_id is None and slide.stem != bag.slide_id:
            raise UserError(
                f"The features are of '{bag.slide_id}', not of '{slide.stem}'",
                where=str(slide),
                fix="Give the slide's own features, or say slide_id= if they are",
            )
    else:
        name = slide_id or (None if slide is None else slide.stem)
        if name is None:
            raise UserError("No slide is named", fix="Give slide= or slide_id=")
        upstream = model.info.features.encoder or None
        files = find_bags(features, upstream)
        if name not in files:
            raise DataError(f"There are no features of slide '{name}'", where=str(features))
        bag = read_bag(files[name])
    if bag.coords is None or bag.patch_size_level0 is None:
        raise DataError(
            "The features do not say where their patches lie",
            where=bag.slide_id,
            fix="Extract them with `spade-bench extract`",
        )
    attention = model.attention(features, bag.slide_id, weights=weights)  # (n,)
    if any(bag.slide_id in slides for slides in model.info.trained_on.values()):
        warn(f"{bag.slide_id} trained this model: its map shows what was learnt, not what is found")
    return AttentionMap(
        bag.slide_id,
        np.asarray(bag.coords, dtype=np.int64),
        bag.patch_size_level0,
        attention,
        model.fitted.info.head,
        model.info.encoder,
        slide,
        model.info.simulated,
    )


def _scale_bar(axes: Any, width: int, height: int, mpp: float) -> None:
    """Draw a bar of a round length, about a fifth of the width, at the lower left."""
    import numpy as np

    wanted = width * mpp / 5
    step = 10.0 ** np.floor(np.log10(wanted))
    length = step * max(m for m in (1, 2, 5) if m * step <= wanted)
    y, left = height * 0.97, width * 0.03
    axes.plot([left, left + length / mpp], [y, y], color="black", linewidth=3)
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axes.annotate(text, (left, y), xytext=(0, 4), textcoords="offset points", fontsize=8)
