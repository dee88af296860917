"""What `explain` does: maps of slides, by a trained model or by the kept heads of a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.tables import read_table
from spade_bench.console import warn
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.inputs import by_name
from spade_bench.evaluation.resolve import check_names
from spade_bench.evaluation.storedsettings import names_of_runs
from spade_bench.evaluation.trainedmodel import DESCRIPTION, TrainedModel, slides_by_case
from spade_bench.explain.keptmodels import Wanted, choose_models
from spade_bench.explain.maplist import Maps
from spade_bench.explain.modelmaps import model_maps
from spade_bench.explain.runmaps import Place, run_maps
from spade_bench.extraction.patchimages import PatchImages
from spade_bench.features.annotated import bags_in_memory
from spade_bench.results import ResultStore
from spade_bench.slides.opening import find_slides
from spade_bench.types import Bag

if TYPE_CHECKING:
    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.workspace import Workspace

__all__ = ["Question", "explain", "maps_of", "open_subject"]


@dataclass(frozen=True)
class Question:
    """What is to be explained, and where its data lie.

    Attributes:
        wanted: Which models of a run, where there are several.
        against: A second encoder of a run.
        cases: Cases, or slides; None for all.
        features: Features: of a model a folder, bags or an AnnData, of a run a folder or a mapping
            of encoder -> folder; None for those of the run.
        slides: Folder of slides, for pictures.
        patches: Instead, folder of the images that `extract --patches` was given.
        table: Table of the cases; None for that of the run.
        weights: Weights of an encoder of features; of a run also a mapping of encoder -> weights.
        device: Where that encoder runs.
        trained_too: Whether cases that trained the models are mapped too, and marked.
        inside: Region files of the slides, where the models were fitted inside regions; None
            takes those of the run.
        workspace: Names the features of a run that was not given them.
    """

    wanted: Wanted = field(default_factory=Wanted)
    against: str | None = None
    cases: Sequence[str] | None = None
    features: Any = None
    slides: Path | None = None
    patches: Path | None = None
    table: Path | None = None
    weights: Any = None
    device: str = "auto"
    trained_too: bool = False
    inside: Path | None = None
    workspace: Workspace | None = None


def explain(
    subject: Any,
    question: Question,
    slide: str | os.PathLike[str] | None = None,
    slide_id: str | None = None,
    *,
    marked: bool = False,
) -> SlideMap | Maps:
    """Map one slide where one is named, else every slide that is asked for.

    Args:
        subject: See `open_subject`.
        question: What is to be explained.
        slide: One slide, by its file.
        slide_id: One slide, by its name; None takes the name of the file.
        marked: Map a named slide that trained a model, with a warning.

    Raises:
        UserError: See `maps_of`; or when the file is missing, or not that of the features.
        DataError: See `maps_of`.
    """
    subject = open_subject(subject, question.device)
    slide = None if slide is None else Path(slide)
    if slide is not None and not slide.exists():
        raise UserError("There is no such slide", where=str(slide))
    name = slide_id or (None if slide is None else slide.stem)
    bag = _only_bag(question.features) if isinstance(subject, TrainedModel) else None
    if bag is not None:
        if slide is not None and slide_id is None and slide.stem != bag.slide_id:
            raise UserError(
                f"The features are of '{bag.slide_id}', not of '{slide.stem}'",
                where=str(slide),
                fix="Give the slide's own features, or say slide_id= if they are",
            )
        name = bag.slide_id
    if name is None:
        return Maps(maps_of(subject, question))
    marked = marked and isinstance(subject, TrainedModel)
    question = replace(
        question, cases=[name], trained_too=question.trained_too or marked, slides=None
    )
    files = {} if slide is None else {name: slide}
    made = list(maps_of(subject, question, files))
    maps = [one for one in made if one.slide_id == name]
    if not maps:
        there = name_some([one.slide_id for one in made])
        raise UserError(
            f"'{name}' is a case, not a slide; its slides are {there}",
            where="slide_id",
            fix="Name one of them, or give the case as cases=",
        )
    if marked and maps[0].trained:
        warn(f"{name} trained this model: its map shows what was learnt, not what is found")
    return maps[0] if question.against is None else Maps(maps)


def maps_of(
    subject: TrainedModel | Sequence[Path],
    question: Question,
    files: Mapping[str, Path] | None = None,
    expect: Callable[[Sequence[str]], None] | None = None,
) -> Iterator[SlideMap]:
    """Map slides one after another; of a run first by the one encoder, then by the other.

    Args:
        subject: A model, or folders of results.
        question: What is to be explained.
        files: Slide -> its file, for pictures; None looks into the folder of slides.
        expect: Told the slides of each encoder before the first of them is mapped, so that it can
            refuse them.

    Raises:
        UserError: When a choice is missing or does not belong here, the head cannot say what a
            patch adds, or a case is unknown or trained the models.
        DataError: When features or weights are not those of the models, or none was kept.
    """
    patches = None if question.patches is None else PatchImages(question.patches)
    if patches is not None and (files or question.slides is not None):
        raise UserError(
            "images of patches are given, and slides too",
            where="--patches",
            fix="Give --slides for features of whole slides, --patches for those of "
            "`extract --patches`",
        )
    if patches is not None:
        patches.check()
    if files is None:
        files = {} if question.slides is None else find_slides(question.slides)
    if isinstance(subject, TrainedModel):
        return _by_model(subject, question, files, patches, expect)
    return _by_run(subject, question, files, patches, expect)


def open_subject(subject: Any, device: str = "auto") -> TrainedModel | list[Path]:
    """Return the trained model, or the folders of results, that somebody wants explained.

    Args:
        subject: A model, its folder, results, or the folder or folders of results.
        device: Where the head of a model runs.

    Raises:
        DataError: When a folder holds neither.
    """
    if isinstance(subject, TrainedModel):
        return subject
    if hasattr(subject, "folders"):
        return [Path(folder) for folder in subject.folders]
    single = isinstance(subject, (str, os.PathLike))
    paths = [Path(subject)] if single else [Path(path) for path in subject]
    if len(paths) == 1 and (paths[0] / DESCRIPTION).is_file():
        try:
            return TrainedModel.load(paths[0], device)
        except DataError as error:
            fix = error.fix or "Fit the model again with `spade-bench fit`"
            raise DataError(error.what, where=error.where, fix=fix) from error
    for path in paths:
        if not ResultStore(path).path.is_file():
            raise DataError(
                "holds neither a saved model nor the results of a run",
                where=str(path),
                fix="Give the folder of `spade-bench fit --out` or of `spade-bench run --out`",
            )
    return paths


def _by_model(
    model: TrainedModel,
    question: Question,
    files: Mapping[str, Path],
    patches: PatchImages | None,
    expect: Callable[[Sequence[str]], None] | None,
) -> Iterator[SlideMap]:
    for name, value in {**vars(question.wanted), "against": question.against}.items():
        if value is not None:
            raise UserError(
                "chooses among the models of a run, and this is one model",
                where=f"--{name}",
                fix="Leave it out",
            )
    if question.features is None:
        raise UserError("no features are given", where="--features", fix="Name their folder")
    cases = None
    if question.table is not None:
        if not question.table.is_file():
            raise DataError("no such table", where=str(question.table))
        cases = slides_by_case(read_table(question.table), str(question.table))
    return model_maps(
        model,
        _bags_or_path(question.features),
        slides=files,
        cases=cases,
        wanted=question.cases,
        weights=None if question.weights is None else Path(question.weights),
        device=question.device,
        trained_too=question.trained_too,
        regions=question.inside,
        patches=patches,
        expect=expect,
    )


def _by_run(
    folders: Sequence[Path],
    question: Question,
    files: Mapping[str, Path],
    patches: PatchImages | None,
    expect: Callable[[Sequence[str]], None] | None,
) -> Iterator[SlideMap]:
    if hasattr(question.features, "obsm") or isinstance(question.features, (Bag, list, tuple)):
        raise UserError(
            "the cases of a run are explained by files of features, not by bags in memory",
            where="--features",
            fix="Name their folder, or leave it out to take that of the run",
        )
    kept = [choose_models(folders, question.wanted, besides=question.against)]
    if question.against is not None:
        row = kept[0].row
        if question.against == row.encoder:
            raise UserError(f"'{row.encoder}' is explained already", where="--against")
        like = Wanted(question.against, row.task, row.head, row.k_shot, row.protocol)
        kept.append(choose_models(folders, like, beside=row))
    known = names_of_runs(folders) | {one.row.encoder for one in kept}
    for option, paths in (("--features", question.features), ("--weights", question.weights)):
        check_names(option, by_name(paths), known)
    place = Place(
        by_name(question.features),
        by_name(question.weights),
        question.table,
        question.device,
        question.inside,
        question.workspace,
    )
    for one in kept:
        yield from run_maps(
            one,
            place,
            slides=files,
            wanted=question.cases,
            trained_too=question.trained_too,
            patches=patches,
            expect=expect,
        )


def _bags_or_path(features: Any) -> list[Bag] | Path:
    """A folder, or bags in memory."""
    if isinstance(features, (str, os.PathLike)):
        return Path(features)
    if hasattr(features, "obsm") and "slide_id" not in features.obs:
        return [Bag.from_anndata(features)]  # which says what is missing
    return bags_in_memory(features)


def _only_bag(features: Any) -> Bag | None:
    """The bag, where the features of one slide lie in memory."""
    if features is None or isinstance(features, (str, os.PathLike)):
        return None
    bags = _bags_or_path(features)
    return bags[0] if isinstance(bags, list) and len(bags) == 1 else None
