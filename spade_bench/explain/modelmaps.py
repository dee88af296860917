"""Maps of slides by a model that `fit` has made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.console import say, track
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.restriction import cutting
from spade_bench.evaluation.trainedmodel import OpenFeatures, TrainedModel
from spade_bench.explain.casemaps import Model, Subject, case_bag, case_maps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.extraction.patchimages import PatchImages
    from spade_bench.types import Bag

__all__ = ["model_maps"]


def model_maps(
    model: TrainedModel,
    features: Path | Bag | Sequence[Bag],
    *,
    slides: Mapping[str, Path] | None = None,
    cases: Mapping[str, Sequence[str]] | None = None,
    wanted: Sequence[str] | None = None,
    weights: Path | None = None,
    device: str = "auto",
    trained_too: bool = False,
    name: str = "",
    regions: Path | None = None,
    patches: PatchImages | None = None,
    expect: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[SlideMap]:
    """Map the slides of cases by a trained model, one case after another.

    Args:
        model: The model.
        features: A folder of features, or bags.
        slides: Slide -> its file, for pictures.
        cases: Case -> its slides; None takes each slide for a case, except that the slides of a
            training case stay together.
        wanted: Cases, or slides, to map; None for all.
        weights: Weights of an encoder of features that base features are sent through.
        device: Where that encoder runs.
        trained_too: Map cases that trained the model too, and mark them.
        name: What to call the model in the maps.
        regions: Regions of the slides, for a model that was fitted inside regions.
        patches: Images that the features were made of, where they were cut before.
        expect: Told the slides before the first of them is mapped, so that it can refuse them.

    Raises:
        UserError: When the head cannot say what a patch adds, a case that is wanted is unknown or
            trained the model, or there is nothing to map.
        DataError: When the features are of another identity, or a slide is not theirs.
    """
    info, fitted = model.info, model.fitted
    subject = Subject(info.encoder, fitted.info.head, info.task, info.simulated)
    only = wanted[0] if wanted is not None and len(wanted) == 1 and cases is None else None
    if only is not None and model.trained_on(only, [only]):
        only = None  # the case may have other slides, which share its attention
    with contextlib.ExitStack() as stack:
        needed = [s for listed in (cases or {}).values() for s in listed]
        inside = cutting(model.info.regions, regions, needed, stack)
        there = stack.enter_context(
            model.opened(features, weights=weights, device=device, only=only, inside=inside)
        )
        listed = model.cases_of(there.slides) if cases is None else cases
        chosen = _chosen(model, listed, wanted, trained_too)
        if not there.by_patch:
            raise UserError(
                f"The encoder '{info.encoder}' makes one vector per slide: no patch can be shown",
                fix="Explain a model of a patch encoder",
            )
        judge = Model(name or info.task, fitted)
        if expect is not None:
            expect([slide for of_case in chosen.values() for slide in of_case])
        for case, of_case in track(chosen.items(), "Mapping", len(chosen), "cases"):
            rows = _features(there, case, of_case)
            bag = case_bag(case, of_case, there.read, rows, there.files)
            trained = model.trained_on(case, of_case)
            for one in case_maps(
                bag, [judge], subject, trained=trained, slides=slides, patches=patches
            ):
                yield replace(one, about={**one.about, "flags": list(info.flags)})


def _features(there: OpenFeatures, case: str, slides: Sequence[str]) -> NDArray[np.floating]:
    missing = [slide for slide in slides if slide not in there.slides]
    if missing:
        raise DataError(f"no features of slide(s) {name_some(missing)}", where=case)
    return there.make([slides])[0]


def _chosen(
    model: TrainedModel,
    cases: Mapping[str, Sequence[str]],
    wanted: Sequence[str] | None,
    trained_too: bool,
) -> dict[str, Sequence[str]]:
    """The cases to map; those that trained the model only where this was asked for."""
    case_of = {slide: case for case, slides in cases.items() for slide in slides}
    names = list(cases) if wanted is None else [case_of.get(name, name) for name in wanted]
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise UserError(
            f"there is no case or slide {name_some(unknown)} among the features",
            where="--case",
            fix=f"There are {name_some(list(cases))}",
        )
    chosen = {name: cases[name] for name in names}
    trained = [name for name, slides in chosen.items() if model.trained_on(name, slides)]
    if trained and not trained_too:
        if wanted is not None or len(trained) == len(chosen):
            raise UserError(
                f"{name_some(trained)} trained this model: a map would show what was learnt, not "
                "what is found",
                fix="Name other cases, or map them, marked, with --trained-too",
            )
        say(f"{len(trained)} cases trained this model and are left out; --trained-too maps them")
        chosen = {name: slides for name, slides in chosen.items() if name not in set(trained)}
    if not chosen:
        raise UserError("There is no case to map")
    return chosen
