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
from typing import TYPE_CHECKING, Any, cast, overload

from spade_bench.errors import UserError
from spade_bench.keywords import check_keywords, says_keywords
from spade_bench.robustness.verb import robustness
from spade_bench.sharedresults import export, import_results, merge
from spade_bench.surroundings import left_unchanged
from spade_bench.types import Bag, FeatureEncoder, LoadOptions, PatchEncoder, SlideEncoder

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from spade_bench.evaluation.trainedmodel import TrainedModel
    from spade_bench.explain.maplist import Maps
    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.extraction import EncoderSource, PatchGroup, Summary
    from spade_bench.report.loadedresults import Results
    from spade_bench.workspace import Workspace

    Encoder = PatchEncoder | FeatureEncoder | SlideEncoder
    Source = str | os.PathLike[str]

__all__ = [
    "encode",
    "evaluate",
    "explain",
    "export",
    "extract",
    "fit",
    "import_results",
    "load_encoder",
    "load_results",
    "merge",
    "pretrain",
    "read_features",
    "read_spots",
    "robustness",
]

_OF_RUNS = ("protocol", "controls", "permutations", "splits", "keep_heads")


@says_keywords
def load_encoder(
    name: str,
    *,
    weights: Source | None = None,
    device: str = "auto",
    precision: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **options: Any,
) -> Any:
    """Load an encoder by its name.

    Args:
        name: A registered name (`spade-bench list encoders`), `timm:NAME` or `hf:NAME`.
        weights: File or folder of weights; None fetches them from the card's source.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: `fp32`, `bf16` or `fp16` instead of the card's.
        seed: Seed of encoders with random weights.
        revision: Commit of the hub repository instead of the one that the card pins.
        trust_remote_code: Agree to run the code that lies beside the weights.
        **options: Options of its own, such as `routing="hard"` of SPADE.

    Returns:
        A `PatchEncoder`, `FeatureEncoder` or `SlideEncoder`.

    Raises:
        PluginError: When there is no such encoder.
        WeightsError: When its weights are missing or do not fit.
    """
    from spade_bench.registry import encoders

    if trust_remote_code:
        options["trust_remote_code"] = True
    with left_unchanged():
        return encoders.get(name).load(
            LoadOptions(
                weights=None if weights is None else Path(weights),
                device=device,
                precision=precision,
                seed=seed,
                options=options,
                revision=revision,
            )
        )


@overload
def extract(
    slides: Source | Sequence[Source] | None = ...,
    encoder: str | PatchEncoder | EncoderSource | None = ...,
    *,
    out: None = ...,
    **settings: Any,
) -> Bag: ...


@overload
def extract(
    slides: Source | Sequence[Source] | None = ...,
    encoder: str | PatchEncoder | EncoderSource | None = ...,
    *,
    out: Source,
    **settings: Any,
) -> Summary: ...


@says_keywords
def extract(
    slides: Source | Sequence[Source] | None = None,
    encoder: str | PatchEncoder | EncoderSource | None = None,
    *,
    out: Source | None = None,
    hest: Source | None = None,
    manifest: Source | None = None,
    patches: Source | Sequence[PatchGroup] | None = None,
    group_by: str = "auto",
    trust: Sequence[str] = (),
    load: LoadOptions | None = None,
    **settings: Any,
) -> Bag | Summary:
    """Extract patch features of slides, of spots or of patch images.

    Args:
        slides: A slide, a folder of slides, or a list of slides.
        encoder: Name of a patch encoder, one that is loaded, or a source that several calls share.
        out: Folder to write; None extracts one slide into memory.
        hest: Instead of slides, a folder in HEST-1k layout, or a task folder of HEST-Bench.
        manifest: Instead of slides, a manifest csv of sections.
        patches: Instead of slides, a folder of patch images, or such images grouped already.
        group_by: How patch images make slides; see `spade-bench extract --help`.
        trust: Sections to use although the checks doubt where their spots lie.
        load: How to load an encoder that is given by name.
        **settings: Fields of `spade_bench.extraction.Settings`, such as `mpp=1.0`.

    Returns:
        The bag of the slide, or with `out` what was done: files written, skipped and failed.

    Raises:
        UserError: When there is nothing to extract, several kinds of input are given, or the
            encoder cannot be loaded.
        DataError: When a slide that is extracted into memory cannot be read.
    """
    from spade_bench import config, extraction
    from spade_bench.extraction import inmemory

    _check_one_input((slides, hest, manifest, patches))
    if encoder is None:
        raise UserError("no encoder is given", fix="Give a name or a loaded patch encoder")
    given_settings = {key: value for key, value in settings.items() if value is not None}
    chosen = config.build(extraction.Settings, given_settings, "extract")
    source = encoder
    if not isinstance(source, extraction.EncoderSource):
        source = extraction.EncoderSource(source, load)
    with left_unchanged():
        if slides is not None and out is None:
            return inmemory.extract_bag(_paths(slides), source, chosen)
        if out is None:
            raise UserError("only a slide can be extracted into memory", fix="Give out=FOLDER")
        folder = Path(out)
        if slides is not None:
            return extraction.extract_slides(_paths(slides), source, folder, settings=chosen)
        if patches is not None:
            groups = patches
            if isinstance(groups, (str, os.PathLike)):
                groups, _ = extraction.group_patches(Path(groups), group_by)
            return extraction.extract_patch_folders(groups, source, folder, settings=chosen)
        samples = _samples(hest, manifest)
        return extraction.extract_hest(samples, source, folder, settings=chosen, trust=trust)


@says_keywords
def encode(
    features: Bag | np.ndarray | AnnData | Source,
    encoder: str | FeatureEncoder | SlideEncoder,
    *,
    out: Source | None = None,
    with_routing: bool = False,
    **load: Any,
) -> Any:
    """Send features through an encoder of features, such as SPADE, or a slide encoder.

    Args:
        features: A bag, an (n, D) array, an AnnData of one slide, or with `out` a folder.
        encoder: Name of the encoder, or one that is loaded.
        out: Folder to write, for a folder of features.
        with_routing: Also say to which experts of a mixture each patch was sent: as `routing` of a
            bag, as columns of an AnnData, in the files of a folder.
        **load: Keywords of `load_encoder`, for an encoder that is given by name.

    Returns:
        The same kind: a bag, an array or an AnnData with the encoder's features; a slide encoder
        makes one row of them. For a folder an `EncodedFolder`: what was written, what was there
        already, and what failed.

    Raises:
        ConfigError: When the encoder takes images, or has no experts and routing is asked for.
        UserError: When routing is asked for a bare array, which has no place for it.
        DataError: When the features are of another encoder than the one it takes.
    """
    from spade_bench.extraction import inmemory

    if load and not isinstance(encoder, str):
        raise UserError(
            f"{next(iter(load))}= belongs to an encoder that is given by name",
            fix="Give it to load_encoder",
        )
    loaded = load_encoder(encoder, **load) if isinstance(encoder, str) else encoder
    inmemory.check_takes_features(loaded.card)
    with left_unchanged():
        if isinstance(features, (str, os.PathLike)):
            if out is None:
                raise UserError("a folder of features is encoded into a folder", fix="Give out=")
            return inmemory.encode_folder(
                Path(features), loaded, Path(out), with_routing=with_routing
            )
        if out is not None:
            raise UserError("out= belongs to a folder of features", fix="Leave it out")
        if isinstance(features, Bag):
            return inmemory.encode_bag(features, loaded, with_routing=with_routing)
        if hasattr(features, "obsm"):
            return inmemory.encode_anndata(features, loaded, with_routing=with_routing)
        if with_routing:
            raise UserError(
                "an array has no place for routing",
                fix="Give a Bag: sb.encode(Bag('slide', features), encoder, with_routing=True)",
            )
        bag = Bag("features", cast("np.ndarray", features))
        return inmemory.encode_bag(bag, loaded).features


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
        **settings: Fields of `spade_bench.evaluation.EvaluationSettings`, such as
            `protocol="cv"`, `heads=("abmil",)`, `shots=(1, 4)`, `draws=20`, `device="cpu"`; for
            another cohort to test on `test_table=` and `test_features=`.

    Returns:
        The results, those of former runs in the same folder included.

    Raises:
        UserError: When a name is unknown or what is given does not fit together.
        DataError: When tables or features cannot be used.
    """
    from spade_bench import evaluation
    from spade_bench.evaluation import EvaluationSettings, inputs
    from spade_bench.report.loadedresults import Results

    kept = tempfile.TemporaryDirectory(prefix="spade-bench-") if out is None else None
    folder = Path(kept.name if kept is not None else cast("Source", out))
    with left_unchanged():
        from_file = _workspace(workspace)
        said = EvaluationSettings.of({"seed": settings.get("seed")}, "keywords")
        named = inputs.choose_encoders(encoders, said.resolved(from_file).seed)
        chosen = inputs.settings_of(
            named, task, folder, settings, table=table, features=features, weights=weights
        )
        evaluation.run_settings(chosen, from_file, loaded=named.loaded)
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
            spaceranger=_paths(spaceranger),
            xenium=_paths(xenium),
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

    return Results(_paths(folders))


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


def _paths(paths: Source | Sequence[Source]) -> list[Path]:
    """One path or several, as a list."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return [Path(path) for path in listed]


def _check_one_input(inputs: Sequence[Any]) -> None:
    given = sum(source is not None for source in inputs)
    if given != 1:
        raise UserError(
            f"{given} kinds of input are given",
            fix="Give one of slides, hest=, manifest= and patches=",
        )


def _samples(hest: Source | None, manifest: Source | None) -> Any:
    from spade_bench.cohorts.published.hestbench import is_bench_task, read_sections
    from spade_bench.spatial import read_hest, read_manifest

    if manifest is not None:
        return read_manifest(Path(manifest))
    folder = Path(hest or ".")
    # A task folder of HEST-Bench has its patches cut already.
    return read_sections(folder).samples if is_bench_task(folder) else read_hest(folder)
