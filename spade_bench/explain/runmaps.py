"""Maps of the cases of a run, by the kept heads in which they were held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say, track
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.encoderfeatures import (
    find_features,
    matched,
    source_bags,
    with_test_files,
)
from spade_bench.evaluation.restriction import REGIONS, Restriction
from spade_bench.evaluation.storedsettings import stored_request
from spade_bench.evaluation.taskcohort import load_cases
from spade_bench.explain.casemaps import Subject, case_bag, case_maps
from spade_bench.explain.keptmodels import KeptModels
from spade_bench.features.bags import FeatureFolders, bag_dim, read_bag
from spade_bench.registry import kinds

if TYPE_CHECKING:
    from spade_bench.evaluation.encoderfeatures import EncoderFeatures
    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.extraction.patchimages import PatchImages
    from spade_bench.types import Case
    from spade_bench.workspace import Workspace

__all__ = ["Place", "run_maps"]


@dataclass(frozen=True)
class Place:
    """Where the data of a run lie now, where that is not where the run had them.

    Attributes:
        features: Encoder or label -> features folder, `*` for every one.
        weights: Label -> weights, `*` for every one.
        table: Table of the task.
        device: Device.
        regions: Regions of a run that was restricted to them.
        workspace: Names the features of a run that was not given them.
    """

    features: Mapping[str, Path] | None = None
    weights: Mapping[str, Path] | None = None
    table: Path | None = None
    device: str = "auto"
    regions: Path | None = None
    workspace: Workspace | None = None


def run_maps(
    kept: KeptModels,
    place: Place,
    *,
    slides: Mapping[str, Path] | None = None,
    wanted: Sequence[str] | None = None,
    trained_too: bool = False,
    patches: PatchImages | None = None,
    expect: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[SlideMap]:
    """Map the slides of cases of a run, one case after another.

    A map is the mean over the models in which its case was held out, whose predictions are made
    again and held against the stored ones.

    Args:
        kept: The models.
        place: Where their data lie.
        slides: Slide -> its file, for pictures; None maps all cases that were tested.
        wanted: Cases, or slides; None for all that were tested, of those whose slides are there.
        trained_too: Map cases that only trained models too, and mark them.
        patches: Images that the features were made of, where they were cut before.
        expect: Told the slides before the first of them is mapped, so that it can refuse them.

    Raises:
        UserError: When the head cannot say what a patch adds, or a case is unknown or trained
            every model.
        DataError: When features or weights are not those of the run.
    """
    row = kept.row
    source, slides_of, truths = _source(kept, place)
    chosen = _chosen(kept, slides_of, wanted, slides, trained_too)
    flags = sorted({flag for model in kept.models for flag in model.row.flags})
    subject = Subject(
        row.encoder, row.head, row.task, "simulated" in flags, {"flags": flags, **_in_words(kept)}
    )
    cases = [slides_of[case] for case in chosen]
    missing = [s for listed in cases for s in listed if s not in source.files]
    if missing:
        raise DataError(
            f"no features of {len(missing)} slide(s): {name_some(missing)}",
            where=source.label,
            fix="Give the features that the run used with --features",
        )
    if expect is not None:
        expect([slide for listed in cases for slide in listed])
    width = bag_dim(source.files[cases[0][0]])
    for case, listed in track(
        zip(chosen, cases, strict=True), f"Mapping {row.encoder}", len(chosen), "cases"
    ):
        features = source_bags(source, [listed], width)[0]  # one case at a time is held
        bag = case_bag(
            case, listed, lambda slide: read_bag(source.files[slide]), features, source.files
        )
        models, trained = kept.of(case)
        judges = (model.judge(case, place.device) for model in models)
        of_case = replace(subject, about={**subject.about, "truth": truths.get(case, "")})
        yield from case_maps(bag, judges, of_case, trained=trained, slides=slides, patches=patches)


def _source(
    kept: KeptModels, place: Place
) -> tuple[EncoderFeatures, dict[str, tuple[str, ...]], dict[str, str]]:
    """The features of the encoder as the run found them; slides and truth of the task's cases."""
    row = kept.row
    if row.control and row.control != "base":
        raise UserError(
            f"'{row.encoder}' is the control {row.control}, whose features only the run makes",
            where="--encoder",
            fix="Explain an encoder, or its base",
        )
    inside = REGIONS in row.inputs
    if place.regions is not None and not inside:
        raise UserError(
            "The run was made on whole slides, not inside regions", fix="Leave them out"
        )
    request = stored_request(
        kept.models[0].out,
        row.task,
        [row.encoder],
        table=place.table,
        features=place.features,
        weights=place.weights,
        device=place.device,
        inside=inside,
        regions=place.regions,
        workspace=place.workspace,
    )
    (task,), (encoder,), folders = request.tasks, request.encoders, FeatureFolders()
    cases = load_cases(request, task, kinds.get(task.card.kind).load())
    source = find_features(request, encoder, task.card, folders)
    if cases.tested:
        source = with_test_files(request, source, cases.tested, folders)
    if source.encode_slide is not None:
        raise UserError(
            f"The encoder '{row.encoder}' makes one vector per slide: no patch can be shown",
            fix="Explain an encoder of patches",
        )
    slides_of = {case.case_id: case.slide_ids for case in cases.cohort.cases}
    every = [slide for listed in slides_of.values() for slide in listed]
    files, _ = matched(request, source.files, every, source.label)
    source = Restriction.of(request, every, folders).features(replace(source, files=files))
    made_by = "" if source.made_by is None else source.made_by.digest
    if row.identity and made_by and row.identity != made_by:
        raise DataError(
            f"these features of '{row.encoder}' were made by other weights or options than those "
            "of the run",
            where=str(next(iter(source.files.values())).parent),
            fix="Give the features and weights that the run used",
        )
    return source, slides_of, {case.case_id: _truth(case) for case in cases.cohort.cases}


def _truth(case: Case) -> str:
    """What the table says of a case, in words."""
    if case.label is not None:
        return case.label
    if case.event is None or case.duration_days is None:
        return ""
    what = "event" if case.event else "no event"
    return f"{what} {'after' if case.event else 'in'} {case.duration_days:g} days"


def _chosen(
    kept: KeptModels,
    slides_of: Mapping[str, Sequence[str]],
    wanted: Sequence[str] | None,
    slides: Mapping[str, Path] | None,
    trained_too: bool,
) -> list[str]:
    """The cases to map: those that were tested, and others only where this was asked for."""
    case_of = {slide: case for case, listed in slides_of.items() for slide in listed}
    tested = set(kept.tested)
    if wanted is None:
        names = [case for case in slides_of if trained_too or case in tested]
        if slides:
            names = [case for case in names if not set(slides).isdisjoint(slides_of[case])]
        names = [case for case in names if kept.of(case)[0]]
        if not names:
            raise UserError("no slide that is given is of a case that was held out of a kept model")
        say(f"{len(names)} cases are explained, each by the models in which it was held out")
        return names
    names = list(dict.fromkeys(case_of.get(name, name) for name in wanted))
    unknown = [name for name in names if name not in slides_of]
    if unknown:
        raise UserError(
            f"the run has no case or slide {name_some(unknown)}",
            where="--case",
            fix=f"Cases that were held out: {name_some(sorted(tested))}",
        )
    refused = [name for name in names if name not in tested]
    if refused and not trained_too:
        raise UserError(
            f"{name_some(refused)} was held out of no kept model: a map would show what was "
            "learnt, not what is found",
            fix=f"Name cases such as {name_some(sorted(tested), 3)}, or map it, marked, with "
            "--trained-too",
        )
    unseen = [name for name in names if not kept.of(name)[0]]
    if unseen:
        raise UserError(f"no kept model trained or tested on {name_some(unseen)}", where="--case")
    return names


def _in_words(kept: KeptModels) -> dict[str, Any]:
    """Protocol, shots and which draws or folds, for the file of a map."""
    row = kept.row
    return {"protocol": row.protocol, "k_shot": row.k_shot, "seed": row.seed,
            "features_identity": row.identity}  # fmt: skip
