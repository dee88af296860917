"""The verbs of the front door that make features: load an encoder, extract, encode."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

from spade_bench.errors import UserError
from spade_bench.keywords import says_keywords
from spade_bench.surroundings import left_unchanged
from spade_bench.types import Bag, FeatureEncoder, LoadOptions, PatchEncoder, SlideEncoder

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from spade_bench.extraction import EncoderSource, PatchGroup, Summary

    Source = str | os.PathLike[str]

__all__ = ["as_paths", "encode", "extract", "load_encoder", "shared_folder"]


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
    executor: Any = None,
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
        executor: Where to run, with `out`: `local`, `ray`, `slurm`, or a mapping of `name` and
            fields of `spade_bench.executors.ExecutorSettings`; None runs in this process.
        **settings: Fields of `spade_bench.extraction.Settings`, such as `mpp=1.0`.

    Returns:
        The bag of the slide, or with `out` what was done: files written, skipped and failed.

    Raises:
        UserError: When there is nothing to extract, several kinds of input are given, or the
            encoder cannot be loaded.
        DataError: When a slide that is extracted into memory cannot be read.
    """
    from spade_bench import config, extraction, spreading
    from spade_bench.executors import executor_settings
    from spade_bench.extraction import inmemory

    _check_one_input((slides, hest, manifest, patches))
    if encoder is None:
        raise UserError("no encoder is given", fix="Give a name or a loaded patch encoder")
    given_settings = {key: value for key, value in settings.items() if value is not None}
    chosen = config.build(extraction.Settings, given_settings, "extract")
    if (where := executor_settings(executor)) is not None:
        given = {
            "slides": None if slides is None else [str(path) for path in as_paths(slides)],
            **{"hest": hest, "manifest": manifest, "patches": patches, "group_by": group_by},
            **{"trust": list(trust), "settings": given_settings},
        }
        return spreading.extract_spread(given, encoder, load, shared_folder(out), where)
    source = encoder
    if not isinstance(source, extraction.EncoderSource):
        source = extraction.EncoderSource(source, load)
    with left_unchanged():
        if slides is not None and out is None:
            return inmemory.extract_bag(as_paths(slides), source, chosen)
        if out is None:
            raise UserError("only a slide can be extracted into memory", fix="Give out=FOLDER")
        folder = Path(out)
        if slides is not None:
            return extraction.extract_slides(as_paths(slides), source, folder, settings=chosen)
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
    executor: Any = None,
    **load: Any,
) -> Any:
    """Send features through an encoder of features, such as SPADE, or a slide encoder.

    Args:
        features: A bag, an (n, D) array, an AnnData of one slide, or with `out` a folder.
        encoder: Name of the encoder, or one that is loaded.
        out: Folder to write, for a folder of features.
        with_routing: Also say to which experts of a mixture each patch was sent: as `routing` of a
            bag, as columns of an AnnData, in the files of a folder.
        executor: Where a folder is encoded; see `extract`.
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
    from spade_bench import spreading
    from spade_bench.executors import executor_settings
    from spade_bench.extraction import inmemory

    if (where := executor_settings(executor)) is not None:
        if not isinstance(features, (str, os.PathLike)):
            raise UserError("executor= belongs to a folder of features", fix="Leave it out")
        return spreading.encode_spread(
            Path(features),
            encoder,
            shared_folder(out),
            where,
            with_routing=with_routing,
            load=load,
        )
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


def shared_folder(out: Source | None) -> Path:
    """Return the folder that workers write to.

    Raises:
        UserError: When none is given.
    """
    if out is None:
        raise UserError("workers need a folder to write to, and none is given",
                        fix="Give out=FOLDER, which all of them can see")  # fmt: skip
    return Path(out)


def as_paths(paths: Source | Sequence[Source]) -> list[Path]:
    """Return one path or several, as a list."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    return [Path(path) for path in listed]
