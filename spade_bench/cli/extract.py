"""`spade-bench extract`: slides, spots or patch files in, features out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import (
    DeviceOption,
    ExecutorOption,
    GpusOption,
    RayAddressOption,
    RayOption,
    RevisionOption,
    ScriptOption,
    SeedOption,
    SlurmOption,
    TrustOption,
    WorkersOption,
    load_options,
    parse_shard,
)

if TYPE_CHECKING:
    from spade_bench.extraction import PatchGroup

__all__ = ["extract"]

EncoderOption = Annotated[
    str, typer.Option(help="A patch encoder; see `spade-bench list encoders`.")
]
OutOption = Annotated[Path, typer.Option(help="Folder to write, in TRIDENT's layout.")]
SlidesOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of whole slides (SVS, NDPI, MRXS, SCN, TIFF, DICOM, ...; or JPEG and PNG), "
        "or one slide."
    ),
]
HestOption = Annotated[Path | None, typer.Option(help="Folder in HEST-1k layout.")]
ManifestOption = Annotated[
    Path | None, typer.Option(help="Manifest csv of spatial transcriptomics samples.")
]
PatchesOption = Annotated[Path | None, typer.Option(help="Folder of patch images.")]
WeightsOption = Annotated[
    Path | None, typer.Option(help="File or folder of weights. Default: the workspace's.")
]
PrecisionOption = Annotated[
    str | None, typer.Option(help="fp32, bf16 or fp16. Default: the encoder's own.")
]
ShardOption = Annotated[
    str | None, typer.Option(help="i/n: every n-th slide from the i-th on (1-based).")
]
BatchOption = Annotated[int, typer.Option(min=1, help="Patches per batch.")]
MppOption = Annotated[
    list[float] | None,
    typer.Option(
        help="Resolution of patches, µm/px; give it several times for several magnifications, "
        "each in its own folder. Default: the encoder's."
    ),
]
AssumeOption = Annotated[
    float | None, typer.Option(help="Resolution of input whose files do not give one, in µm/px.")
]
OverrideOption = Annotated[
    float | None,
    typer.Option(help="Resolution of all slides, in µm/px, where the one in their files is wrong."),
]
SeriesOption = Annotated[
    int | None,
    typer.Option(
        min=0, help="Which image of slide files that hold several, from 0. Default: the first."
    ),
]
OverlapOption = Annotated[
    int, typer.Option(min=0, help="Overlap of neighbouring patches of a slide, in pixels.")
]
TissueOption = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Least share of tissue in a patch of a slide.")
]
PreviewOption = Annotated[
    bool, typer.Option(help="Write a thumbnail with tissue and grid for each slide.")
]
PenOption = Annotated[
    bool,
    typer.Option(
        "--drop-pen",
        help="Leave out patches of a slide on green, blue or black pen marks (for H&E only).",
    ),
]
BlurOption = Annotated[
    bool, typer.Option("--drop-blur", help="Leave out patches of a slide that are out of focus.")
]
SectionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="With --hest or --manifest: a sample to use although the checks doubt where its "
        "spots lie or its pixel size. May be repeated.",
    ),
]
GroupOption = Annotated[
    str,
    typer.Option(
        help="How patch files make slides: auto, folder, prefix, or a regular expression over "
        "the path with (?P<slide>...), and (?P<case>...) and (?P<label>...) if wanted."
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        help="With --patches in class folders: write case_id, slide_id, label (and split)."
    ),
]


def extract(
    encoder: EncoderOption,
    out: OutOption,
    slides: SlidesOption = None,
    hest: HestOption = None,
    manifest: ManifestOption = None,
    patches: PatchesOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    trust_remote_code: TrustOption = False,
    batch_size: BatchOption = 128,
    workers: WorkersOption = 0,
    shard: ShardOption = None,
    mpp: MppOption = None,
    assume_mpp: AssumeOption = None,
    override_mpp: OverrideOption = None,
    series: SeriesOption = None,
    overlap: OverlapOption = 0,
    min_tissue: TissueOption = 0.25,
    preview: PreviewOption = True,
    drop_pen: PenOption = False,
    drop_blur: BlurOption = False,
    trust: SectionsOption = None,
    group_by: GroupOption = "auto",
    write_table: TableOption = None,
    seed: SeedOption = 0,
    revision: RevisionOption = None,
    executor: ExecutorOption = None,
    gpus: GpusOption = None,
    ray_address: RayAddressOption = None,
    ray: RayOption = None,
    slurm: SlurmOption = None,
    script: ScriptOption = False,
) -> int:
    """Extract patch features: one HDF5 file per slide or sample. Finished files are kept."""
    from spade_bench import api, console
    from spade_bench.executors import executor_settings
    from spade_bench.extraction import EncoderSource

    where = executor_settings(
        executor,
        # Without an executor these are the readers of this process.
        workers=workers if workers and (executor or gpus) else None,
        gpus=gpus,
        ray_address=ray_address,
        ray=ray,
        slurm=slurm,
        script=script,
    )
    sections = hest if manifest is None else manifest
    _check_input(
        [slides, hest, manifest, patches],
        {
            "--write-table": (write_table is not None, patches, "--patches"),
            "--trust": (bool(trust), sections, "--hest and --manifest"),
            "--drop-pen": (drop_pen, slides, "--slides"),
            "--drop-blur": (drop_blur, slides, "--slides"),
            "--override-mpp": (override_mpp is not None, slides, "--slides"),
            "--series": (series is not None, slides, "--slides"),
        },
    )
    options = load_options(
        encoder,
        weights,
        device,
        precision=precision,
        seed=seed,
        revision=revision,
        options={"trust_remote_code": True} if trust_remote_code else {},
    )
    settings: dict[str, Any] = {
        "overlap": overlap,
        "min_tissue": min_tissue,
        "assume_mpp": assume_mpp,
        "override_mpp": override_mpp,
        "series": series,
        "batch_size": batch_size,
        "workers": workers if where is None else 0,
        "shard": parse_shard(shard),
        "preview": preview,
        "drop_pen": drop_pen,
        "drop_blur": drop_blur,
    }
    source = EncoderSource(encoder, options)
    groups: Any = None if patches is None else _groups(patches, group_by, write_table)
    failed = False
    resolutions: list[float | None] = [*dict.fromkeys(mpp or ())] or [None]
    for value in resolutions:
        done = api.extract(
            slides,
            source if where is None else encoder,
            out=out,
            hest=hest,
            manifest=manifest,
            patches=groups if where is None else patches,
            group_by=group_by,
            trust=trust or (),
            load=options,
            executor=where,
            mpp=value,
            **settings,
        )
        if where is not None and where.script:
            continue
        failed |= bool(done.failed)
        console.emit(done.line())
        for line in done.failed.values():
            console.emit(f"  failed: {line}")
    return 2 if failed else 0


def _check_input(
    inputs: list[Path | None], belongs: Mapping[str, tuple[bool, Path | None, str]]
) -> None:
    """Refuse no or several kinds of input, and options that belong to another kind.

    Args:
        inputs: Every kind of input, None where it is not given.
        belongs: Option -> whether it is given, the input it goes with, and the name of that.

    Raises:
        UserError: Saying which.
    """
    from spade_bench.errors import UserError

    given = sum(path is not None for path in inputs)
    if given != 1:
        raise UserError(
            f"{given} kinds of input are given",
            fix="Give one of --slides, --hest, --manifest and --patches",
        )
    for option, (wanted, path, name) in belongs.items():
        if wanted and path is None:
            raise UserError(f"goes with {name} only", where=option)


def _groups(folder: Path, group_by: str, table: Path | None) -> list[PatchGroup]:
    """Group patch files, say how, and write the cohort table when one is asked for."""
    from spade_bench import console
    from spade_bench.extraction import group_patches

    groups, rule = group_patches(folder, group_by)
    files = sum(len(group.files) for group in groups)
    console.say(
        f"{files} patches make {len(groups)} slides by {rule} (first: {groups[0].slide_id}, "
        f"{len(groups[0].files)} patches); --group-by changes this"
    )
    if table is not None:
        _write_table(groups, folder, table)
    return groups


def _write_table(groups: list[PatchGroup], folder: Path, table: Path) -> None:
    import csv

    from spade_bench import console
    from spade_bench.errors import DataError
    from spade_bench.files import atomic_path

    if any(group.label is None for group in groups) or len({g.label for g in groups}) < 2:
        raise DataError("slides do not lie in folders of two or more classes", where=str(folder))
    with atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        splits = all(group.split for group in groups)
        writer.writerow(["case_id", "slide_id", "label", *(["split"] if splits else [])])
        for group in groups:
            row = [group.case_id, group.slide_id, group.label]
            writer.writerow([*row, *([group.split] if splits else [])])
    console.say(f"table of {len(groups)} slides written to {table}")
