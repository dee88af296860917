"""The map of one slide by one encoder and head: attention, contributions, their dispersion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.detections import MAX_DETECTIONS, write_detections
from spade_bench.explain.layers import SHARE, SIGNED, VALUE, Layer, percentiles
from spade_bench.report.naming import encoder_title, head_title, task_title

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spade_bench.explain.overlay import Background

    Floats = NDArray[np.float64]

__all__ = ["SlideMap"]

_NO_CLASSES = {("risk",), ("value",)}


@dataclass(frozen=True)
class SlideMap:
    """What each patch of a slide did to the prediction.

    Attributes:
        slide_id: Name of the slide.
        case_id: Case that it belongs to.
        encoder: Encoder of the features.
        head: Name of the head.
        task: Name of the task.
        classes: What the columns of ``contribution`` speak of: class names, or
            `risk` or `value` alone.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y); (0, 2) where nobody
            knows it, as of images that were cut before.
        side: Side of a patch in level-0 pixels; 0 where nobody knows where patches lie.
        attention: Mean weight of each patch over the models, (n,), which sums to one over all
            slides of the case; None where a head has none.
        contribution: Mean signed share of each patch in each class's logit, the risk or the
            value of the case, (n, C).
        sd: Standard deviation over the models of the percentile of what is shown, (n,); None
            where there is one model.
        method: How the contribution was computed, in words, such as "gradient x input".
        predicted: Mean prediction of the models for the case, (C,).
        models: Number of models.
        trained: Whether the case trained a model that drew this map.
        simulated: Whether the data are simulated.
        mpp: Micrometres per pixel at level 0; None where unknown.
        slide: File of the slide, or None.
        offset: Level-0 pixel (x, y) that QuPath calls (0, 0).
        size: Level-0 width and height of the slide; None where unknown.
        images: The image that each patch without a place was read from, below ``patches`` where
            that is known; empty where nobody knows.
        patches: Folder of these images, or None.
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
    offset: tuple[int, int] = (0, 0)
    size: tuple[int, int] | None = None
    images: tuple[str, ...] = ()
    patches: Path | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def placed(self) -> bool:
        """Whether it is known where on the slide the patches lie."""
        return self.side > 0

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
        title = encoder_title(self.encoder)
        head = head_title(self.head)
        what, shown = "attention", "attention"
        if self.attention is None:
            what = self._towards(self.classes[-1])
            shown = f"rank of what counts {what}"
        place = (self.coords, self.side)
        legend = f"{what}, percentile within the slide"
        layers = [
            Layer(f"{self.encoder}.{self.head}.shown", f"{title}: {shown} ({head})",
                  legend, *place, self.percentile, SHARE, ranked=self.shown)
        ]  # fmt: skip
        for column, name in enumerate(self.classes):
            layers.append(
                Layer(f"{self.encoder}.{self.head}.contribution.{name}",
                      f"{title}: contribution {self._towards(name)} ({head})",
                      f"contribution, {self.method}", *place, self.contribution[:, column], SIGNED)
            )  # fmt: skip
        if self.sd is not None:
            legend = f"sd of the percentile over {self.models} models"
            layers.append(
                Layer(f"{self.encoder}.{self.head}.sd", f"{title}: dispersion ({head})", legend,
                      *place, self.sd, SHARE)
            )  # fmt: skip
        return layers

    def _towards(self, name: str) -> str:
        """A class, or the risk or the value, as what a patch speaks for."""
        return f"to the {name}" if self.classes in _NO_CLASSES else f"towards {name}"

    @property
    def prediction(self) -> str:
        """What the models say of the case, in words: the likeliest class, or the risk."""
        if not self.predicted:
            return ""
        best = max(range(len(self.predicted)), key=self.predicted.__getitem__)
        said = self.predicted[best]
        if self.classes in _NO_CLASSES:
            return f"predicted {self.classes[best]} {said:.3g}"
        # No model is sure, however near to one it comes.
        return f"predicted {self.classes[best]} {'>0.99' if said > 0.995 else f'{said:.2f}'}"

    @property
    def subtitle(self) -> str:
        """Case, task, prediction and, where it is known, the truth."""
        parts = [] if self.case_id == self.slide_id else [f"Case {self.case_id}"]
        parts += [task_title(self.task), self.prediction, self.truth]
        return "; ".join(part for part in parts if part)

    @property
    def truth(self) -> str:
        """What the case is, in words; empty where nobody said it."""
        said = str(self.about.get("truth") or "")
        return f"truth: {said}" if said else ""

    @property
    def marks(self) -> tuple[str, ...]:
        """What must stand beside the map wherever it is shown."""
        marks = ["trained on this case"] if self.trained else []
        return (*marks, *(["simulated data"] if self.simulated else []))

    @property
    def background(self) -> Background:
        """The slide below the map, without its picture where its file is not at hand."""
        from spade_bench.explain.overlay import Background, slide_background

        if self.slide is None:
            return Background.of(self.layers()[0], self.mpp)
        return slide_background(self.slide, mpp=self.mpp)

    def need_places(self, what: str) -> None:
        """Refuse what needs the places of patches where nobody knows them.

        Args:
            what: What needs them.

        Raises:
            DataError: Naming the slide.
        """
        if not self.placed:
            raise DataError(
                f"the features do not say where on the slide their patches lie, which {what} needs",
                where=self.slide_id,
                fix="Extract whole slides with `spade-bench extract --slides`",
            )

    def strength(self) -> Layer:
        """Return what is shown so that patches of several slides can be ranked.

        It is the attention over that of a patch of the same case on average; without attention,
        the contribution that a bag of such patches would have.
        """
        times = float(self.about.get("patches_of_case", len(self.contribution)))
        words = "attention, times the mean of the case"
        if self.attention is None:
            words = f"towards {self.classes[-1]}, contribution times the patches of the case"
        first = self.layers()[0]
        key = f"{self.encoder}.{self.head}.strength"
        return replace(
            first, key=key, legend=words, values=self.shown * times, scale=VALUE, ranked=None
        )

    def plot(self) -> Figure:
        """Draw what is shown over the slide; see `spade_bench.explain.overlay`.

        Returns:
            A matplotlib figure, ready for `savefig`.

        Raises:
            DataError: When nobody knows where the patches lie.
        """
        self.need_places("a picture")
        from spade_bench.explain.overlay import overlay_figure

        return overlay_figure(
            self.layers()[0], self.background, self.slide_id, marks=self.marks,
            subtitle=self.subtitle,
        )  # fmt: skip

    def to_geojson(self, path: str | Path, *, max_detections: int = MAX_DETECTIONS) -> Path:
        """Write the patches as QuPath detections with their values as measurements.

        Args:
            path: File to write, `.geojson` or `.geojson.gz`.
            max_detections: Most patches to write; of more, those of which most is shown.

        Returns:
            The file.

        Raises:
            DataError: When nobody knows where the patches lie.
        """
        self.need_places("a file for QuPath")
        values = self.to_dataframe().drop(columns=["slide_id", "x", "y"])
        measured = {str(name): column.to_numpy(dtype=float) for name, column in values.items()}
        return write_detections(
            path, self.layers(), measurements=measured, offset=self.offset,
            max_detections=max_detections,
        ).path  # fmt: skip

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per patch: `slide_id`, `x`, `y` (level-0 pixels), and what is known of it.

        Columns: `attention` where there is one, `percentile`, `contribution_CLASS`, and `sd`; of
        patches without a place `image` instead of `x` and `y`, where that is known.
        """
        import pandas as pd

        columns: dict[str, Any] = {"slide_id": [self.slide_id] * len(self.contribution)}
        if self.placed:
            columns |= {"x": self.coords[:, 0], "y": self.coords[:, 1]}
        elif self.images:
            columns["image"] = list(self.images)
        if self.attention is not None:
            columns["attention"] = self.attention
        columns["percentile"] = self.percentile
        for column, name in enumerate(self.classes):
            columns[f"contribution_{name}"] = self.contribution[:, column]
        if self.sd is not None:
            columns["sd"] = self.sd
        return pd.DataFrame(columns)
