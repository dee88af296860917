"""What `explain` does: which slides of which model, as maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import warn
from spade_bench.errors import UserError
from spade_bench.explain.maplist import Maps
from spade_bench.explain.modelmaps import model_maps
from spade_bench.slides.opening import find_slides
from spade_bench.types import Bag

if TYPE_CHECKING:
    from spade_bench.evaluation.trainedmodel import TrainedModel
    from spade_bench.explain.slidemap import SlideMap

__all__ = ["map_slide", "map_slides"]


def map_slide(
    model: TrainedModel,
    features: Path | Bag | Sequence[Bag],
    *,
    slide: Path | None = None,
    slide_id: str | None = None,
    weights: Path | None = None,
    device: str = "auto",
    trained_too: bool | None = None,
) -> SlideMap:
    """Map one slide by a trained model.

    Args:
        model: The model.
        features: The bag of the slide, or a folder or bags that hold it.
        slide: File of the slide, for pictures; its name is the slide's where none is given.
        slide_id: Name of the slide.
        weights: See `model_maps`.
        device: See `model_maps`.
        trained_too: Whether a slide that trained the model is mapped; None warns and maps it.

    Raises:
        UserError: See `model_maps`; or when the file is missing or no slide is named.
        DataError: See `model_maps`.
    """
    if slide is not None and not slide.exists():
        raise UserError("There is no such slide", where=str(slide))
    if isinstance(features, Bag):
        if slide is not None and slide_id is None and slide.stem != features.slide_id:
            raise UserError(
                f"The features are of '{features.slide_id}', not of '{slide.stem}'",
                where=str(slide),
                fix="Give the slide's own features, or say slide_id= if they are",
            )
        name = features.slide_id
    else:
        name = slide_id or (slide.stem if slide is not None else "")
    if not name:
        raise UserError("No slide is named", fix="Give slide= or slide_id=")
    found = model_maps(
        model,
        features,
        slides={} if slide is None else {name: slide},
        wanted=[name],
        weights=weights,
        device=device,
        trained_too=trained_too is not False,
    )
    shown = Maps(found)[name]
    if shown.trained and trained_too is None:
        warn(f"{name} trained this model: its map shows what was learnt, not what is found")
    return shown


def map_slides(
    model: TrainedModel,
    features: Path | Bag | Sequence[Bag],
    *,
    slides: Path | None = None,
    cases: Mapping[str, Sequence[str]] | None = None,
    wanted: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "auto",
    trained_too: bool = False,
) -> Maps:
    """Map the slides of cases by a trained model; see `model_maps`.

    Args:
        model: The model.
        features: A folder of features, or bags.
        slides: Folder of slides, for pictures.
        cases: See `model_maps`; likewise the next four.
        wanted: Cases to map.
        weights: Weights.
        device: Device.
        trained_too: Whether cases that trained the model are mapped.
    """
    return Maps(
        model_maps(
            model,
            features,
            slides={} if slides is None else find_slides(slides),
            cases=cases,
            wanted=wanted,
            weights=weights,
            device=device,
            trained_too=trained_too,
        )
    )
