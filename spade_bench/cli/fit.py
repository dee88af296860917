"""`spade-bench fit`: train a head on all cases of a table and keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import (
    AllowMissingOption,
    AsIsOption,
    CaseColumn,
    DaysColumn,
    DeviceOption,
    EventColumn,
    EventValue,
    LabelColumn,
    MatchIds,
    PositiveOption,
    RegionNameOption,
    RegionShareOption,
    RegionsOption,
    SeedOption,
    SetOption,
    SlideColumn,
    TrustOption,
    path_of_encoder,
)

__all__ = ["fit"]


def fit(
    encoder: Annotated[str, typer.Option(help="Encoder, or any name with --features.")],
    task: Annotated[str, typer.Option(help="Named task, task card (.yaml), or any name.")],
    out: Annotated[Path, typer.Option(help="Folder of the model, new or a model to replace.")],
    table: Annotated[
        Path | None, typer.Option(help="Table (csv) of the cases. Default: the workspace's.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Features folder. Default: the workspace's.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="Head. Default: the one of the kind of task.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of an encoder of features, such as spade.")
    ] = None,
    select: Annotated[
        bool, typer.Option("--select", help="Choose from the head's grid, on inner folds.")
    ] = False,
    allow_missing: AllowMissingOption = False,
    positive: PositiveOption = None,
    as_is: AsIsOption = False,
    regions: RegionsOption = None,
    region_name: RegionNameOption = None,
    region_share: RegionShareOption = None,
    case_column: CaseColumn = None,
    slide_column: SlideColumn = None,
    label_column: LabelColumn = None,
    event_column: EventColumn = None,
    days_column: DaysColumn = None,
    event_value: EventValue = None,
    match_ids: MatchIds = None,
    set_: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Train a head on all cases of a table and keep it for `predict` and `explain`."""
    from spade_bench import api, console
    from spade_bench import workspace as ws
    from spade_bench.config import parse_set
    from spade_bench.evaluation.trainedmodel import check_target

    check_target(out)  # before anything is trained
    model = api.fit(
        encoder,
        task,
        table=table,
        features=path_of_encoder(features, "--features", encoder),
        head=head,
        weights=path_of_encoder(weights, "--weights", encoder),
        workspace=ws.load(),
        select=select or None,
        allow_missing=allow_missing or None,
        positive=positive,
        as_is=as_is or None,
        regions=regions,
        region_name=tuple(region_name or ()),
        region_share=region_share,
        case_column=case_column,
        slide_column=slide_column,
        label_column=label_column,
        event_column=event_column,
        days_column=days_column,
        event_value=event_value,
        match_ids=match_ids,
        set=parse_set(set_ or []),
        seed=seed,
        device=device,
        trust_remote_code=trust_remote_code or None,
    )
    model.save(out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    console.emit(
        f"{model.fitted.info.head} fitted on {len(model.info.trained_on)} cases: {out} "
        f"({size / 1e6:.1f} MB)"
    )
