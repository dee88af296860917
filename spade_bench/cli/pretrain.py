"""`spade-bench pretrain`: from paired data to a SPADE folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import (
    DeviceOption,
    ExecutorOption,
    GpusOption,
    RayAddressOption,
    RayOption,
    SlurmOption,
    WorkersOption,
    config_help,
)

__all__ = ["pretrain"]


def pretrain(
    hest: Annotated[
        Path | None, typer.Option(help="Samples in HEST-1k layout: HEST_v*.csv, st/, wsis/ ...")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Samples as a csv: sample_id, h5ad, image, pixel_size_um, organ ..."),
    ] = None,
    spaceranger: Annotated[
        list[Path] | None,
        typer.Option(help="A Space Ranger outs/ folder, Visium or Visium HD. May be repeated."),
    ] = None,
    xenium: Annotated[
        list[Path] | None, typer.Option(help="A Xenium output bundle. May be repeated.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help=config_help("hest1k, tangle"))] = None,
    encoder: Annotated[str | None, typer.Option(help="Base patch encoder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the pretrained SPADE.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Precomputed features with barcodes, one file per sample; of slides for tangle."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Bulk expression, cases x genes, for tangle: csv, parquet or h5ad."),
    ] = None,
    exclude_task: Annotated[
        list[str] | None,
        typer.Option(
            help="hest:PATH: leave out the sections of this task of expression, and all others of "
            "their patients, so that the model can be run on it. May be repeated."
        ),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the base encoder: file or folder.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Train only these experts, such as 3,7.")
    ] = None,
    scan_k: Annotated[
        bool, typer.Option("--scan-k", help="Also write the elbow curves of both clusterings.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, key=value, such as training.epochs=30."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a model of other settings or data in --out."),
    ] = False,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
    executor: ExecutorOption = None,
    gpus: GpusOption = None,
    ray_address: RayAddressOption = None,
    ray: RayOption = None,
    slurm: SlurmOption = None,
) -> None:
    """Pretrain SPADE on paired H&E and spatial transcriptomics, or TANGLE on bulk expression.

    Prepares the samples, clusters their spots into data experts, trains the experts and the
    single-expert control, and scores held-out samples. Run the same command again to continue.
    With --executor the experts are shared by workers; features are then better extracted
    beforehand, by `extract --hest DIR --executor ...`, and given with --features.
    What the flags leave out comes from spade-bench.yaml in the current folder.
    """
    from spade_bench import workspace
    from spade_bench.config import named_config, parse_set
    from spade_bench.encoders.spade.pretraining import pipeline
    from spade_bench.encoders.tangle.pretraining import tanglepipeline
    from spade_bench.errors import UserError
    from spade_bench.executors import executor_settings

    where = executor_settings(
        executor,
        # Without an executor these are the readers of this process.
        workers=workers if workers and (executor or gpus) else None,
        gpus=gpus,
        ray_address=ray_address,
        ray=ray,
        slurm=slurm,
    )
    space = workspace.load()
    single = parse_set(settings or [])
    given = None if config is None else str(config)
    if given is not None and named_config("pretrain", given).get("method"):
        only_spade = {"--hest": hest, "--manifest": manifest, "--spaceranger": spaceranger,
                      "--xenium": xenium,
                      "--experts": experts, "--scan-k": scan_k, "--weights": weights,
                      "--exclude-task": exclude_task, "--executor": where}  # fmt: skip
        if refused := [name for name, value in only_spade.items() if value]:
            raise UserError(f"{', '.join(refused)} belongs to SPADE", where=f"--config {config}")
        tanglepipeline.pretrain_tangle(
            config=given,
            features=features,
            table=table,
            encoder=encoder,
            seed=seed,
            settings=single,
            out=out,
            device=device,
            overwrite=overwrite,
            workspace=space,
        )
        return
    if table is not None:
        raise UserError("bulk expression is for TANGLE", where="--table", fix="--config tangle")
    pipeline.pretrain(
        hest=hest,
        manifest=manifest,
        spaceranger=spaceranger or (),
        xenium=xenium or (),
        exclude_task=exclude_task or (),
        features=features,
        encoder=encoder,
        seed=seed,
        config=given,
        settings=single,
        weights=weights,
        out=out,
        device=device,
        workers=workers if where is None else 0,
        executor=where,
        experts=_experts(experts),
        scan=scan_k,
        overwrite=overwrite,
        workspace=space,
    )


def _experts(text: str | None) -> list[int] | None:
    """Reads `3,7`.

    Raises:
        UserError: When it is no list of numbers.
    """
    from spade_bench.errors import UserError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"'{text}' is no list of experts", where="--experts", fix="write 3,7")
    return sorted({int(part) for part in parts})
