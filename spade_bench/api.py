"""The front door: what the commands do, callable from Python.

Every verb takes names or objects, `str` or `Path`, a csv or a DataFrame, and leaves the session as
it was: precision of products, random states and working folder. Errors are the classes of
`spade_bench.errors` and speak of keywords; nothing here ends the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from spade_bench.errors import UserError
from spade_bench.featureverbs import as_paths, encode, extract, load_encoder, shared_folder
from spade_bench.keywords import check_keywords, says_keywords
from spade_bench.robustness.verb import robustness
from spade_bench.sharedresults import export, export_leaderboard, import_results, merge, pull, push
from spade_bench.surroundings import left_unchanged
from spade_bench.types import FeatureEncoder, PatchEncoder, SlideEncoder

if TYPE_CHECKING:
    from anndata import AnnData

    from spade_bench.evaluation.trainedmodel import TrainedModel
    from spade_bench.explain.maplist import Maps
    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.report.loadedresults import Results
    from spade_bench.workspace import Workspace

    Encoder = PatchEncoder | FeatureEncoder | SlideEncoder
    Source = str | os.PathLike[str]

__all__ = [
    "encode",
    "evaluate",
    "explain",
    "export",
    "export_leaderboard",
    "extract",
    "fit",
    "import_results",
    "load_encoder",
    "load_results",
    "merge",
    "pretrain",
    "pull",
    "push",
    "read_features",
    "read_spots",
    "robustness",
]

_OF_RUNS = ("protocol", "controls", "permutations", "splits", "keep_heads")


@says_keywords
def evaluate(
    encoders: Any,
    task: Any,
    *,
    table: Any = None,
    features: Any = None,
    weights: Any = None,
    out: Source | None = None,
    workspace: Source | Workspace | None = None,
    executor: Any = None,
    **settings: Any,
) -> Results:
    """Run encoders on tasks, with their controls, as `spade-bench run` does.

    Args:
        encoders: Names or `LABEL=NAME`, loaded encoders, a list of these, or a mapping of label ->
            any of these. An encoder that is registered nowhere runs as it is, on `features`.
        task: Name of a task, a `TaskCard`, a card file, `patho-bench:PATH`, or a list of these.
        table: Cohort table: csv or DataFrame; for several tasks a mapping TASK -> table.
        features: Folder, pack, bags or AnnData of the base features; or a mapping of encoder ->
            any of these.
        weights: File or folder of weights; or a mapping of encoder -> weights.
        out: Folder for results; None keeps them in a temporary folder while the object lives.
        workspace: Workspace file that fills in what is left out here.
        executor: Where to run: `local`, `ray`, `slurm`, or a mapping of `name` and fields of
            `spade_bench.executors.ExecutorSettings`, such as
            `{"name": "local", "gpus": "all"}`; None runs in this process.
        **settings: Fields of `spade_bench.evaluation.EvaluationSettings`, such as
            `protocol="cv"`, `heads=("abmil",)`, `shots=(1, 4)`, `draws=20`, `device="cpu"`; for
            another cohort to test on `test_table=` and `test_features=`.

    Returns:
        The results, those of former runs in the same folder included.

    Raises:
        UserError: When a name is unknown or what is given does not fit together.
        DataError: When tables or features cannot be used.
    """
    from spade_bench import evaluation, spreading
    from spade_bench.evaluation import EvaluationSettings, inputs
    from spade_bench.executors import executor_settings
    from spade_bench.report.loadedresults import Results

    where = executor_settings(executor)
    if where is not None and where.name != "local":
        shared_folder(out)
    kept = tempfile.TemporaryDirectory(prefix="spade-bench-") if out is None else None
    folder = Path(kept.name if kept is not None else cast("Source", out))
    with left_unchanged():
        from_file = _workspace(workspace)
        said = EvaluationSettings.of({"seed": settings.get("seed")}, "keywords")
        named = inputs.choose_encoders(encoders, said.resolved(from_file).seed)
        chosen = inputs.settings_of(
            named, task, folder, settings, table=table, features=features, weights=weights
        )
        if where is None:
            evaluation.run_settings(chosen, from_file, loaded=named.loaded)
        else:
            for encoder in named.loaded.values():
                spreading.check_named(encoder)
            spreading.run_spread(chosen, from_file, where)
    return Results((folder,), keep=kept)


@says_keywords
def fit(
    encoder: Any,
    task: Any,
    *,
    table: Any = None,
    features: Any = None,
    head: str | None = None,
    weights: Any = None,
    workspace: Source | Workspace | None = None,
    **settings: Any,
) -> TrainedModel:
    """Train a head on all cases of a table, to use it on new slides.

    Args:
        encoder: Name of an encoder, or a loaded one.
        task: Name of a task, a `TaskCard`, or a card file.
        table: Cohort table: csv or DataFrame.
        features: Folder, pack, bags or AnnData of the base features.
        head: Name of the head; None takes the one of the kind of task.
        weights: File or folder of weights.
        workspace: Workspace file that fills in what is left out here.
        **settings: Fields of `spade_bench.evaluation.EvaluationSettings` that speak of training,
            such as `select=True`, `seed=1`, `device="cpu"`, `set={"abmil": {"lr": 1e-4}}`.

    Returns:
        A model with `predict`, `attention`, `save` and `load`.

    Raises:
        UserError: When a name is unknown, or the head cannot be fitted and kept.
        DataError: When the table or the features cannot be used.
    """
    from spade_bench.evaluation import EvaluationSettings, inputs, resolve
    from spade_bench.evaluation.modelfitting import fit_model
    from spade_bench.evaluation.settingchecks import PROTOCOLS_OF

    unused = [name for name in (*PROTOCOLS_OF, *_OF_RUNS) if settings.get(name) is not None]
    if unused:
        raise UserError(
            f"{unused[0]}= is an option of evaluate: fit trains on all cases", fix="Leave it out"
        )
    if head is not None:
        settings["heads"] = (head,)
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as temporary, left_unchanged():
        folder = Path(temporary)
        from_file = _workspace(workspace)
        said = EvaluationSettings.of({"seed": settings.get("seed")}, "keywords")
        named = inputs.choose_encoders(encoder, said.resolved(from_file).seed)
        if named.loaded:
            raise UserError(
                f"a model cannot name the encoder '{next(iter(named.loaded))}', so it could not "
                "be loaded to predict: it is not registered, or has a precision or seed of its own",
                fix="Register it and load it with load_encoder, or fit on its own features",
            )
        chosen = inputs.settings_of(
            named, task, folder, settings, table=table, features=features, weights=weights
        )
        return fit_model(resolve(chosen, from_file))


@says_keywords
def explain(
    model: TrainedModel | Results | Source | Sequence[Source],
    slide: Source | None = None,
    *,
    features: Any = None,
    slides: Source | None = None,
    patches: Source | None = None,
    slide_id: str | None = None,
    cases: str | Sequence[str] | None = None,
    encoder: str | None = None,
    task: str | None = None,
    head: str | None = None,
    shots: int | None = None,
    protocol: str | None = None,
    against: str | None = None,
    table: Source | None = None,
    weights: Any = None,
    device: str = "auto",
    trained_too: bool | None = None,
    inside: Source | None = None,
    workspace: Source | Workspace | None = None,
) -> SlideMap | Maps:
    """Map what each patch of a slide did to a prediction: attention and signed contributions.

    Args:
        model: What `fit` returned, or its folder; or results of a run, as an object or as folders,
            whose map of a case is the mean over the kept heads in which it was held out.
        slide: One slide, by its file; its name is that of the features unless `slide_id` says it.
        features: A folder; of a model also bags or an AnnData; of a run also a mapping of encoder
            -> folder, or None for the folders that it had.
        slides: Folder of slides to draw maps on, for several.
        patches: Instead, the folder of patch images that `extract --patches` was given.
        slide_id: One slide by its name; None takes the name of the file.
        cases: Cases, or slides; None maps all, of a run those that were held out.
        encoder: Which encoder of a run, where there are several; likewise the next four.
        task: Which task.
        head: Which head.
        shots: Which number of shots; None takes the largest.
        protocol: Which protocol.
        against: A second encoder of the run to map beside the first.
        table: Cohort table (csv) of a run that has moved; for a model a csv of cases and slides.
        weights: Weights of an encoder of features; of a run also a mapping of encoder -> weights.
        device: Where that encoder runs.
        trained_too: Map cases that trained the model too, and mark them. None does so, with a
            warning, for a slide of a model that is named.
        inside: Folder of region files, for a model that was fitted inside regions; of a run None
            takes those of the run.
        workspace: Names the features of a run that was not given them.

    Returns:
        The map of one slide, with `to_dataframe`, `plot` and `to_geojson`, or a list of maps.

    Raises:
        UserError: When the head cannot say it, a case trained the model, or several models fit.
        DataError: When features or weights are not those of the model, or a run kept no head.
    """
    from spade_bench.explain import explaining
    from spade_bench.explain.keptmodels import Wanted

    question = explaining.Question(
        wanted=Wanted(encoder, task, head, shots, protocol),
        against=against,
        cases=[cases] if isinstance(cases, str) else cases,
        features=features,
        slides=None if slides is None else Path(slides),
        patches=None if patches is None else Path(patches),
        table=None if table is None else Path(table),
        weights=weights,
        device=device,
        trained_too=bool(trained_too),
        inside=None if inside is None else Path(inside),
        workspace=_workspace(workspace),
    )
    with left_unchanged():
        marked = trained_too is None
        return explaining.explain(model, question, slide, slide_id, marked=marked)


@says_keywords
def pretrain(
    *,
    out: Source,
    hest: Source | None = None,
    manifest: Source | None = None,
    spaceranger: Source | Sequence[Source] = (),
    xenium: Source | Sequence[Source] = (),
    encoder: str | None = None,
    config: Any = None,
    settings: Mapping[str, Any] | None = None,
    weights: Source | None = None,
    device: str = "auto",
    **more: Any,
) -> FeatureEncoder | None:
    """Pretrain SPADE on paired slides and spatial transcriptomics; the same call continues.

    Args:
        out: Folder of the model.
        hest: Samples in HEST-1k layout.
        manifest: Instead, samples as a csv.
        spaceranger: Instead, one Space Ranger `outs` folder or several, Visium or Visium HD.
        xenium: Instead, one Xenium output bundle or several.
        encoder: Base patch encoder.
        config: A named config such as `hest1k`, a YAML file, or the settings themselves.
        settings: Single settings; keys may be dotted, such as `training.epochs`.
        weights: Weights of the base encoder.
        device: `auto`, `cpu` or `cuda[:n]`.
        **more: See `pretrain` and `resolve_request` of `spade_bench.encoders.spade.pretraining`.

    Returns:
        The encoder; None where `experts=` trains only some of them.

    Raises:
        UserError: When data or settings cannot be used.
    """
    from spade_bench.encoders.spade.pretraining import pipeline
    from spade_bench.encoders.spade.pretraining.pretrainrequest import resolve_request

    check_keywords(more, pipeline.pretrain, resolve_request)
    with left_unchanged():
        folder = pipeline.pretrain(
            out=Path(out),
            hest=None if hest is None else Path(hest),
            manifest=None if manifest is None else Path(manifest),
            spaceranger=as_paths(spaceranger),
            xenium=as_paths(xenium),
            encoder=encoder,
            config=config,
            settings=settings,
            weights=None if weights is None else Path(weights),
            device=device,
            **more,
        )
    if more.get("experts") is not None:
        return None
    loaded: FeatureEncoder = load_encoder("spade", weights=folder, device=device)
    return loaded


@says_keywords
def load_results(folders: Source | Sequence[Source]) -> Results:
    """Open the results that `run` or `evaluate` stored.

    Args:
        folders: One folder, or several that are read as one.

    Raises:
        DataError: When a folder holds no results.
    """
    from spade_bench.report.loadedresults import Results

    return Results(as_paths(folders))


@says_keywords
def read_features(
    folder: Source, *, encoder: str | None = None, slides: Sequence[str] | None = None
) -> AnnData:
    """Read a folder of features as one AnnData; see `spade_bench.features.annotated`."""
    from spade_bench.features import annotated

    return annotated.read_features(Path(folder), encoder=encoder, slides=slides)


@says_keywords
def read_spots(
    path: Source,
    *,
    technology: str | None = None,
    sample: str | None = None,
    spot_um: float | None = None,
    image: Source | None = None,
    alignment: Source | None = None,
    **more: Any,
) -> AnnData:
    """Read the expression of spots as AnnData; see `spade_bench.spatial.spotdata`.

    Args:
        path: `outs` of Space Ranger (Visium, Visium HD), a Xenium bundle or a HEST folder.
        technology: `visium`, `visium-hd`, `xenium` or `hest`; None recognises it.
        sample: Which sample of a HEST folder.
        spot_um: Width of the pseudo-spots of Visium HD and Xenium in µm.
        image: H&E image of Visium HD or Xenium, where it is not found by itself.
        alignment: csv of the matrix from its pixels to those of Xenium's own image.
        **more: `spot_grid`, `pitch_um`, `bin_um`, `min_qv`; see `spotdata.read_spots`.
    """
    from spade_bench.spatial import spotdata

    check_keywords(more, spotdata.read_spots)
    return spotdata.read_spots(
        Path(path),
        technology=technology,
        sample=sample,
        spot_um=spot_um,
        image=None if image is None else Path(image),
        alignment=None if alignment is None else Path(alignment),
        **more,
    )


def _workspace(workspace: Source | Workspace | None) -> Workspace | None:
    from spade_bench import workspace as workspaces

    if workspace is None or isinstance(workspace, workspaces.Workspace):
        return workspace
    return workspaces.load(Path(workspace))
