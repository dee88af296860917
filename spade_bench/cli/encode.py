"""`spade-bench encode`: features of a base encoder become those of SPADE or of a slide encoder."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any

import typer

from spade_bench.cli.options import (
    BatchSizeOption,
    DeviceOption,
    ExecutorOption,
    GpusOption,
    RayAddressOption,
    RayOption,
    RevisionOption,
    ScriptOption,
    SlurmOption,
    TrustOption,
    WorkerCount,
    load_options,
)

__all__ = ["encode"]


class Routing(enum.StrEnum):
    """How patches are sent to experts."""

    soft = "soft"
    hard = "hard"
    mean = "mean"
    random = "random"
    concat = "concat"


def encode(
    features: Annotated[Path, typer.Option(help="Folder of base features, one file per slide.")],
    out: Annotated[Path, typer.Option(help="Folder to write, in the same layout.")],
    encoder: Annotated[str, typer.Option(help="An encoder that takes features.")] = "spade",
    weights: Annotated[
        Path | None, typer.Option(help="Its weights. Default: the workspace's.")
    ] = None,
    routing: Annotated[
        Routing | None, typer.Option(help="How patches are routed. Default: the model's own.")
    ] = None,
    tau: Annotated[
        float | None, typer.Option(help="Routing temperature. Default: the model's own.")
    ] = None,
    with_routing: Annotated[
        bool,
        typer.Option("--with-routing", help="Also store to which experts each patch is sent."),
    ] = False,
    device: DeviceOption = None,
    batch_size: BatchSizeOption = 8192,
    trust_remote_code: TrustOption = False,
    revision: RevisionOption = None,
    executor: ExecutorOption = None,
    workers: WorkerCount = None,
    gpus: GpusOption = None,
    ray_address: RayAddressOption = None,
    ray: RayOption = None,
    slurm: SlurmOption = None,
    script: ScriptOption = False,
) -> None:
    """Encode a folder of base features, with SPADE, another encoder of features or a slide encoder.

    A slide encoder, such as mean-pool or tangle, writes slide_features_NAME/SLIDE.h5, one vector
    each.
    """
    from spade_bench import api, console, registry
    from spade_bench.errors import DataError
    from spade_bench.executors import executor_settings

    where = executor_settings(
        executor,
        workers=workers,
        gpus=gpus,
        ray_address=ray_address,
        ray=ray,
        slurm=slurm,
        script=script,
    )
    slide_level = registry.encoders.get(encoder).card.level == "slide"
    given = {
        "routing": None if routing is None else routing.value,
        "tau": tau,
        "trust_remote_code": trust_remote_code or None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    how = load_options(encoder, weights, device, revision=revision, options=options)
    batch: dict[str, Any] = {} if slide_level else {"batch": batch_size}
    done = api.encode(
        features,
        encoder,
        out=out,
        with_routing=with_routing,
        executor=where,
        weights=how.weights,
        device=how.device,
        revision=how.revision,
        **{**batch, **how.options},
    )
    if where is not None and where.script:
        return
    console.emit(
        f"{len(done.written)} {'slides' if slide_level else 'bags'} encoded, "
        f"{len(done.skipped)} already there, {len(done.failed)} failed: {out}"
    )
    if done.failed:
        raise DataError(
            f"{len(done.failed)} feature files could not be encoded",
            where=str(features),
            fix="Their lines stand above; the others are complete",
        )
