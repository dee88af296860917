"""From the bag of a case and the models that judge it to a map per slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.layers import percentiles
from spade_bench.explain.slidemap import SlideMap
from spade_bench.features.casebags import CaseBags
from spade_bench.features.identity import read_identity
from spade_bench.slides.opening import open_slide

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.heads import FittedHead
    from spade_bench.types import Bag

    Floats = NDArray[np.float64]

__all__ = ["TOLERANCE", "CaseBag", "Model", "Subject", "case_bag", "case_maps"]

TOLERANCE = 1e-4
"""How far a prediction that is made again may lie from the stored one."""


@dataclass(frozen=True)
class Subject:
    """What the maps of one run of `explain` have in common.

    Attributes:
        encoder: Encoder of the features.
        head: Name of the head.
        task: Name of the task.
        simulated: Whether the data are simulated.
        about: What else is to be stored with each map.
    """

    encoder: str
    head: str
    task: str
    simulated: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A fitted head that judges a case.

    Attributes:
        name: Its run id, or the name of its folder.
        fitted: The head.
        stored: What it predicted for the case when it was fitted, (C,); None where nobody kept it.
    """

    name: str
    fitted: FittedHead
    stored: Floats | None = None


@dataclass(frozen=True)
class _Patches:
    """Where the patches of a slide lie.

    Attributes:
        slide_id: Name of the slide.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y).
        side: Side of a patch in level-0 pixels.
        identity: Digest of what made the stored features; empty where they do not say.
        offset: Level-0 pixel (x, y) that QuPath calls (0, 0).
        mpp: Micrometres per pixel at level 0 by which the patches were cut; None where unknown.
    """

    slide_id: str
    coords: NDArray[np.int64]
    side: int
    identity: str
    offset: tuple[int, int]
    mpp: float | None


@dataclass(frozen=True)
class CaseBag:
    """The patches of all slides of a case.

    Attributes:
        case_id: The case.
        features: Features as heads see them, (n, dim), slide after slide.
        slides: Where the patches of each slide lie.
    """

    case_id: str
    features: NDArray[np.floating]
    slides: tuple[_Patches, ...]


def case_bag(
    case_id: str,
    slides: Sequence[str],
    read: Callable[[str], Bag],
    features: NDArray[np.floating],
) -> CaseBag:
    """Put the features of a case beside the places of its patches.

    Args:
        case_id: The case.
        slides: Its slides, in the order of their features.
        read: Returns the stored bag of a slide.
        features: Features as heads see them, (n, dim).

    Raises:
        DataError: When the files do not say where patches lie, or the numbers of patches differ.
    """
    import numpy as np

    places = []
    for slide in slides:
        bag = read(slide)
        if bag.coords is None or bag.patch_size_level0 is None:
            raise DataError(
                "The features do not say where their patches lie",
                where=slide,
                fix="Extract them with `spade-bench extract`",
            )
        identity = read_identity(bag.identity)
        digest = "" if identity is None else identity.digest
        coords = np.asarray(bag.coords, dtype=np.int64)
        places.append(
            _Patches(slide, coords, bag.patch_size_level0, digest, bag.offset, bag.level0_mpp)
        )
    n = sum(len(place.coords) for place in places)
    if n != len(features):
        raise DataError(
            f"The encoder makes {len(features)} rows of {n} patches, so that no patch can be shown",
            where=case_id,
            fix="Explain an encoder that makes a vector per patch",
        )
    return CaseBag(case_id, features, tuple(places))


def case_maps(
    bag: CaseBag,
    models: Iterable[Model],
    subject: Subject,
    *,
    trained: bool = False,
    slides: Mapping[str, Path] | None = None,
) -> list[SlideMap]:
    """Map each slide of a case: the mean of what the models say, and how far they disagree.

    The bag is that of the case, as in training: attention sums to one over all its slides, and
    contributions add up to the logit or risk of the case. Percentiles are those within a slide.

    Args:
        bag: The patches.
        models: The models that judge the case; one at a time is held.
        subject: What the maps are of.
        trained: Whether the case trained these models.
        slides: Slide -> its file, for pictures.

    Raises:
        DataError: When a prediction made again is not the stored one.
        UserError: When the head cannot say what each patch adds.
    """
    mean, names = _Mean(bag), []
    again = CaseBags(lambda _: bag.features, 1, bag.features.shape[1])
    classes: tuple[str, ...] = ()
    for model in models:
        predicted = model.fitted.predict(again)[0]  # (C,)
        _check_prediction(model, predicted, bag.case_id, subject)
        mean.add(model.fitted, predicted)
        names.append(model.name)
        classes = model.fitted.columns
    if not names:
        raise DataError("No model judges the case", where=bag.case_id)
    about = {
        **subject.about,
        "models": names,
        "slides_of_case": [place.slide_id for place in bag.slides],
        "patches_of_case": len(bag.features),
    }
    maps = []
    for place, rows, sd in mean.of_slides():
        file = (slides or {}).get(place.slide_id)
        attention = None if mean.attention is None else mean.attention[rows]
        maps.append(
            SlideMap(
                slide_id=place.slide_id,
                case_id=bag.case_id,
                encoder=subject.encoder,
                head=subject.head,
                task=subject.task,
                classes=classes,
                coords=place.coords,
                side=place.side,
                attention=attention,
                contribution=mean.contribution[rows],
                sd=sd,
                method=mean.method,
                predicted=tuple(mean.predicted.tolist()),
                models=len(names),
                trained=trained,
                simulated=subject.simulated,
                **_whereabouts(place, file),
                slide=file,
                about={**about, "identity": place.identity},
            )
        )
    return maps


class _Mean:
    """Means over models, and the spread of the percentiles of what is shown.

    Args:
        bag: The patches that all of them see.
    """

    attention: Floats | None
    contribution: Floats
    predicted: Floats

    def __init__(self, bag: CaseBag) -> None:
        self._bag, self._n, self.method = bag, 0, ""
        self._rows: list[slice] = []
        start = 0
        for place in bag.slides:
            self._rows.append(slice(start, start + len(place.coords)))
            start += len(place.coords)

    def add(self, fitted: FittedHead, predicted: Floats) -> None:
        """Take one more model into account (Welford's update)."""
        import numpy as np

        parts = fitted.contributions(self._bag.features)
        shown = parts.values[:, -1] if parts.attention is None else parts.attention  # (n,)
        ranks = np.concatenate([percentiles(shown[rows]) for rows in self._rows])  # (n,)
        self.method, self._n = parts.method, self._n + 1
        if self._n == 1:
            self.attention, self.contribution = parts.attention, parts.values
            self.predicted, self._rank, self._spread = predicted, ranks, np.zeros(len(ranks))
            return
        share = 1 / self._n
        if self.attention is not None and parts.attention is not None:
            self.attention = self.attention + (parts.attention - self.attention) * share
        self.contribution = self.contribution + (parts.values - self.contribution) * share
        self.predicted = self.predicted + (predicted - self.predicted) * share
        before = ranks - self._rank
        self._rank = self._rank + before * share
        self._spread = self._spread + before * (ranks - self._rank)

    def of_slides(self) -> list[tuple[_Patches, slice, Floats | None]]:
        """Each slide with its rows, and the standard deviation of its percentiles, if any."""
        import numpy as np

        sd = np.sqrt(self._spread / (self._n - 1)) if self._n > 1 else None  # (n,)
        return [
            (place, rows, None if sd is None else sd[rows])
            for place, rows in zip(self._bag.slides, self._rows, strict=True)
        ]


def _check_prediction(model: Model, predicted: Floats, case_id: str, subject: Subject) -> None:
    """Refuse to explain a prediction that is not the one that was evaluated."""
    import numpy as np

    if model.stored is None:
        return
    # Risks have a scale of their own; probabilities have 1.
    off = float(np.max(np.abs(predicted - model.stored) / np.maximum(1, np.abs(model.stored))))
    if not off <= TOLERANCE:  # NaN is no agreement
        raise DataError(
            f"{subject.encoder} {subject.head} predicts {_numbers(predicted)} now, but "
            f"{_numbers(model.stored)} is stored with run {model.name}",
            where=case_id,
            fix="Give the features and weights that the run used",
        )


def _numbers(values: Floats) -> str:
    return ", ".join(f"{value:.4f}" for value in values)


def _whereabouts(place: _Patches, slide: Path | None) -> dict[str, Any]:
    """Resolution at level 0, None where nobody says it, and where the scan begins.

    The resolution is that by which the patches were cut, which `extract --override-mpp` may have
    set against what the file says.
    """
    if slide is None:
        return {"mpp": place.mpp, "offset": place.offset}
    with open_slide(slide, mpp=place.mpp, assume_mpp=1.0) as opened:
        mpp = None if opened.mpp_source == "assumed" else opened.mpp
        return {"mpp": mpp, "offset": opened.offset}
