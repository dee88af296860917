"""From the bag of a case and the models that judge it to a map per slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.layers import percentiles
from spade_bench.explain.places import outside
from spade_bench.explain.slidemap import SlideMap
from spade_bench.extraction.patchimages import NO_IMAGES, ImageRows, PatchImages, image_rows
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
        n: Number of patches.
        coords: Level-0 pixel of each patch's top-left corner, (n, 2) as (x, y); (0, 2) where nobody
            knows it, as of images that were cut before.
        side: Side of a patch in level-0 pixels; 0 where nobody knows it.
        identity: Digest of what made the stored features; empty where they do not say.
        offset: Level-0 pixel (x, y) that QuPath calls (0, 0).
        mpp: Micrometres per pixel at level 0 by which the patches were cut; None where unknown.
        size: Level-0 width and height of the slide that they were cut from; None where unknown.
        images: What patches without a place were read from.
    """

    slide_id: str
    n: int
    coords: NDArray[np.int64]
    side: int
    identity: str
    offset: tuple[int, int]
    mpp: float | None
    size: tuple[int, int] | None = None
    images: ImageRows = NO_IMAGES

    @classmethod
    def of(cls, slide: str, bag: Bag, file: Path | None) -> _Patches:
        """Take from a stored bag, and its file, what is known of its patches.

        Raises:
            DataError: When it has no patch, or says where patches lie and not how large they are,
                or two lie in one place or one beyond the slide.
        """
        import numpy as np

        if not len(bag.features):
            raise DataError(
                "has no patch that could be mapped",
                where=slide,
                fix="Leave the slide out, or extract it again",
            )
        if bag.coords is not None and bag.patch_size_level0 is None:
            raise DataError(
                "the features say where their patches lie, but not how large they are",
                where=slide,
                fix="Extract them with `spade-bench extract`",
            )
        identity = read_identity(bag.identity)
        digest = "" if identity is None else identity.digest
        n = len(bag.features)
        if bag.coords is None or bag.patch_size_level0 is None:
            rows = NO_IMAGES if file is None else image_rows(file, n)
            nowhere = np.empty((0, 2), dtype=np.int64)
            return cls(slide, n, nowhere, 0, digest, (0, 0), rows.mpp, images=rows)
        coords = np.asarray(bag.coords, dtype=np.int64)
        _check_places(slide, coords, bag.patch_size_level0, bag.size)
        return cls(
            slide, n, coords, bag.patch_size_level0, digest, bag.offset, bag.level0_mpp, bag.size
        )


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
    files: Mapping[str, Path] | None = None,
) -> CaseBag:
    """Put the features of a case beside the places of its patches.

    Args:
        case_id: The case.
        slides: Its slides, in the order of their features.
        read: Returns the stored bag of a slide.
        features: Features as heads see them, (n, dim).
        files: Slide -> its feature file, which may say what images the patches were read from.

    Raises:
        DataError: When a slide has no patch, or one that is not finite, nobody knows how large its
            patches are, or the numbers of patches differ.
    """
    import numpy as np

    places = [_Patches.of(slide, read(slide), (files or {}).get(slide)) for slide in slides]
    n = sum(place.n for place in places)
    if n != len(features):
        raise DataError(
            f"The encoder makes {len(features)} rows of {n} patches, so that no patch can be shown",
            where=case_id,
            fix="Explain an encoder that makes a vector per patch",
        )
    start = 0
    for place in places:
        bad = int((~np.isfinite(features[start : start + place.n]).all(axis=1)).sum())
        start += place.n
        if bad:
            raise DataError(
                f"{bad} of {place.n} patches have features that are not finite",
                where=str((files or {}).get(place.slide_id, place.slide_id)),
                fix="Extract the slide again",
            )
    return CaseBag(case_id, features, tuple(places))


def case_maps(
    bag: CaseBag,
    models: Iterable[Model],
    subject: Subject,
    *,
    trained: bool = False,
    slides: Mapping[str, Path] | None = None,
    patches: PatchImages | None = None,
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
        patches: Folder of the images that patches without a place were read from.

    Raises:
        DataError: When a prediction made again is not the stored one, or a slide or an image is
            not the one that the features were made of.
        UserError: When the head cannot say what each patch adds.
    """
    mean = _judged(bag, models, subject)
    about = {
        **subject.about,
        "models": mean.names,
        "slides_of_case": [place.slide_id for place in bag.slides],
        "patches_of_case": len(bag.features),
    }
    return [
        SlideMap(
            slide_id=place.slide_id,
            case_id=bag.case_id,
            encoder=subject.encoder,
            head=subject.head,
            task=subject.task,
            classes=mean.classes,
            coords=place.coords,
            side=place.side,
            attention=None if mean.attention is None else mean.attention[rows],
            contribution=mean.contribution[rows],
            sd=sd,
            method=mean.method,
            predicted=tuple(mean.predicted.tolist()),
            models=len(mean.names),
            trained=trained,
            simulated=subject.simulated,
            **_whereabouts(place, (slides or {}).get(place.slide_id), patches),
            about={**about, "identity": place.identity},
        )
        for place, rows, sd in mean.of_slides()
    ]


def _judged(bag: CaseBag, models: Iterable[Model], subject: Subject) -> _Mean:
    """Let each model judge the case, and make sure that it says what it said when evaluated."""
    mean = _Mean(bag)
    again = CaseBags(lambda _: bag.features, 1, bag.features.shape[1])
    for model in models:
        predicted = model.fitted.predict(again)[0]  # (C,)
        _check_prediction(model, predicted, bag.case_id, subject)
        mean.add(model, predicted)
    if not mean.names:
        raise DataError("No model judges the case", where=bag.case_id)
    return mean


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
        self.names: list[str] = []
        self.classes: tuple[str, ...] = ()
        self._rows: list[slice] = []
        start = 0
        for place in bag.slides:
            self._rows.append(slice(start, start + place.n))
            start += place.n

    def add(self, model: Model, predicted: Floats) -> None:
        """Take one more model into account (Welford's update)."""
        import numpy as np

        self.names.append(model.name)
        self.classes = model.fitted.columns
        parts = model.fitted.contributions(self._bag.features)
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


def _check_places(
    slide: str, coords: NDArray[np.int64], side: int, size: tuple[int, int] | None
) -> None:
    """Refuse places that contradict each other or the size that the features state."""
    import numpy as np

    wrong = len(coords) - len(np.unique(coords, axis=0))
    what = f"{wrong} of {len(coords)} patches lie where another one does"
    if not wrong and size is not None:
        wrong = int(outside(coords, side, size).sum())
        what = f"{wrong} of {len(coords)} patches lie outside the {size[0]} x {size[1]} px of the "
        what += "slide that the features name"
    if wrong:
        raise DataError(what, where=slide, fix="The file is damaged: extract the slide again")


def _check_inside(place: _Patches, size: tuple[int, int], slide: Path) -> None:
    """Refuse a slide beyond whose edges patches begin: they were cut from another one."""
    beyond = int(outside(place.coords, place.side, size).sum())
    if beyond:
        raise DataError(
            f"{beyond} of {place.n} patches of '{place.slide_id}' lie outside the slide of "
            f"{size[0]} x {size[1]} px",
            where=str(slide),
            fix="Give the slide that the features were extracted from",
        )


def _whereabouts(
    place: _Patches, slide: Path | None, patches: PatchImages | None
) -> dict[str, Any]:
    """Where a map is drawn: resolution at level 0, None where nobody says it, offset, size, files.

    The resolution is that by which the patches were cut, which `extract --override-mpp` may have
    set against what the file says.

    Raises:
        DataError: When the slide, or an image, is not the one that the features were made of.
    """
    if not place.side:
        names, root = place.images.names, None
        if patches is not None:
            names, root = patches.find(place.slide_id, place.images), patches.root
        return {"mpp": place.mpp, "images": names, "patches": root}
    if patches is not None:
        raise DataError(
            "the features say where on the slide their patches lie, so they are no images that "
            "were cut before",
            where=place.slide_id,
            fix="Give the slides with --slides, not --patches",
        )
    if slide is None:
        return {"mpp": place.mpp, "offset": place.offset, "size": place.size}
    with open_slide(slide, mpp=place.mpp, assume_mpp=1.0) as opened:
        size = (opened.width, opened.height)
        if place.size is not None and place.size != size:
            raise DataError(
                f"is {size[0]} x {size[1]} px, but the features of '{place.slide_id}' were cut "
                f"from a slide of {place.size[0]} x {place.size[1]} px",
                where=str(slide),
                fix="Give the slide that the features were extracted from, or extract this one",
            )
        _check_inside(place, size, slide)
        mpp = None if opened.mpp_source == "assumed" else opened.mpp
        return {"mpp": mpp, "offset": opened.offset, "size": size, "slide": slide}
