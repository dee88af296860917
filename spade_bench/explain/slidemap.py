"""The map of one slide by one encoder and head: attention, contributions, their dispersion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.explain.layers import SHARE, SIGNED, Layer, percentiles
from spade_bench.files import write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["SlideMap"]


@dataclass(frozen=True)
class SlideMap:
    """What each patch of a slide did to the prediction.

    Attributes:
        slide_id: Name of the slide.
        case_id: Case that it belongs to.
        encoder: Encoder of the features.
        head: Name of the head.
        task: Name of the task.
        classes: What the columns of ``contribution`` speak of: class names, or `risk` alone.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
        side: Side of a patch in level-0 pixels.
        attention: Mean weight of each patch over the models, (n,), which sums to one over all
            slides of the case; None where a head has none.
        contribution: Mean signed share of each patch in each class's logit or the risk of the
            case, (n, C).
        sd: Standard deviation over the models of the percentile of what is shown, (n,); None
            where there is one model.
        method: How the contribution was computed, in words, such as "gradient x input".
        predicted: Mean prediction of the models for the case, (C,).
        models: Number of models.
        trained: Whether the case trained a model that drew this map.
        simulated: Whether the data are simulated.
        mpp: Micrometres per pixel at level 0; None where unknown.
        slide: File of the slide, or None.
        about: What else is worth storing: run ids, draws, folds.
    """

    slide_id: str
    case_id: str
    encoder: str
    head: str
    task: str
    classes: tuple[str, ...]
    coords: NDArray[np.int64]
    side: int
    attention: Floats | None
    contribution: Floats
    sd: Floats | None = None
    method: str = ""
    predicted: tuple[float, ...] = ()
    models: int = 1
    trained: bool = False
    simulated: bool = False
    mpp: float | None = None
    slide: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> Floats:
        """What is drawn and ranked, (n,).

        Attention where the head has it; else the contribution to the last class or to the risk.
        """
        return self.contribution[:, -1] if self.attention is None else self.attention

    @property
    def percentile(self) -> Floats:
        """Share of patches of which less is shown, ties counted half, (n,) in 0..1."""
        return percentiles(self.shown)

    def layers(self) -> list[Layer]:
        """Return what can be drawn: what is shown, each contribution, the dispersion."""
        what = "attention" if self.attention is not None else f"towards {self.classes[-1]}"
        place = (self.coords, self.side)
        legend = f"{what}, percentile within the slide"
        layers = [
            Layer(f"{self.encoder}.{self.head}.shown", f"{self.encoder}: {what} ({self.head})",
                  legend, *place, self.percentile, SHARE)
        ]  # fmt: skip
        for column, name in enumerate(self.classes):
            layers.append(
                Layer(f"{self.encoder}.{self.head}.{name}", f"{self.encoder}: towards {name}",
                      f"contribution, {self.method}", *place, self.contribution[:, column], SIGNED)
            )  # fmt: skip
        if self.sd is not None:
            legend = f"sd of the percentile over {self.models} models"
            layers.append(
                Layer(f"{self.encoder}.{self.head}.sd", f"{self.encoder}: dispersion", legend,
                      *place, self.sd, SHARE)
            )  # fmt: skip
        return layers

    @property
    def marks(self) -> tuple[str, ...]:
        """What must stand beside the map wherever it is shown."""
        marks = ["trained on this case"] if self.trained else []
        return (*marks, *(["simulated data"] if self.simulated else []))

    def plot(self) -> Figure:
        """Draw what is shown over the slide; see `spade_bench.explain.mapplot`.

        Returns:
            A matplotlib figure, ready for `savefig`.
        """
        from spade_bench.explain.mapplot import draw_map

        return draw_map(self)

    def to_geojson(self, path: str | Path) -> Path:
        """Write the patches as QuPath detections with their values as measurements.

        Args:
            path: File to write.

        Returns:
            The file.
        """
        features = []
        columns = self.to_dataframe().drop(columns=["slide_id", "x", "y"]).to_dict("records")
        for (x, y), values in zip(self.coords.tolist(), columns, strict=True):
            right, bottom = x + self.side, y + self.side
            ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [ring]},
                    "properties": {"objectType": "detection", "measurements": values},
                }
            )
        target = Path(path)
        write_json(target, {"type": "FeatureCollection", "features": features})
        return target

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per patch: `slide_id`, `x`, `y` (level-0 pixels), and what is known of it.

        Columns: `attention` where there is one, `percentile`, `contribution_CLASS`, and `sd`.
        """
        import pandas as pd

        columns: dict[str, Any] = {
            "slide_id": self.slide_id,
            "x": self.coords[:, 0],
            "y": self.coords[:, 1],
        }
        if self.attention is not None:
            columns["attention"] = self.attention
        columns["percentile"] = self.percentile
        for column, name in enumerate(self.classes):
            columns[f"contribution_{name}"] = self.contribution[:, column]
        if self.sd is not None:
            columns["sd"] = self.sd
        return pd.DataFrame(columns)
