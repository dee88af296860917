"""`spade-bench predict`: score slides with a model that `fit` has kept."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import DeviceOption, TrustOption

if TYPE_CHECKING:
    from spade_bench.evaluation.trainedmodel import TrainedModel

__all__ = ["predict"]


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of the model.")],
    out: Annotated[Path, typer.Option(help="Predictions (csv), one row per case.")],
    features: Annotated[
        Path | None, typer.Option(help="Features folder of the encoder it was fitted on.")
    ] = None,
    slides: Annotated[
        Path | None, typer.Option(help="Folder of whole slides, or one; features are extracted.")
    ] = None,
    features_out: Annotated[
        Path | None, typer.Option(help="With --slides: keep the extracted features here.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="csv of case_id and slide_id. Default: each slide is a case."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the encoder. Default: the workspace's.")
    ] = None,
    assume_mpp: Annotated[
        float | None, typer.Option(help="Resolution, µm/px, of slides that do not say it.")
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="Folder with SLIDE.geojson, for a model that was fitted with --regions."),
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Predict the cases of a features folder or of slides; cases it was trained on are marked."""
    from spade_bench import console
    from spade_bench import workspace as ws
    from spade_bench.errors import UserError
    from spade_bench.evaluation.trainedmodel import TrainedModel
    from spade_bench.files import atomic_path, check_target

    if (features is None) == (slides is None):
        raise UserError("Give --features DIR or --slides DIR, one of the two")
    for option, given in (("--features-out", features_out), ("--assume-mpp", assume_mpp)):
        if given is not None and slides is None:
            raise UserError("goes with --slides only", where=option)
    check_target(
        out, "--out", "predictions.csv", inputs=[one for one in (model, table, features) if one]
    )
    space = ws.load()
    device = device or (space.device if space is not None else "auto")
    trained = TrainedModel.load(model, device)
    if weights is None and space is not None and trained.info.encoder in space.encoders:
        weights = space.resolve(space.encoders[trained.info.encoder].weights)
    chained = bool(trained.info.features.through)
    cases = None if table is None else _cases(table)
    with _features_of(
        trained, features, slides, features_out, None if chained else weights,
        device=device, assume_mpp=assume_mpp, trust=trust_remote_code,
    ) as folder:  # fmt: skip
        frame = trained.predict(
            folder,
            cases=cases,
            weights=weights if chained else None,
            device=device,
            regions=regions,
        )
    with atomic_path(out) as temporary:
        frame.to_csv(temporary, index=False)
    predicted = "1 case" if len(frame) == 1 else f"{len(frame)} cases"
    console.emit(f"{predicted} predicted: {out}")


def _cases(table: Path) -> dict[str, Sequence[str]]:
    """Slides by case, from a table without labels."""
    from spade_bench.cohorts.tables import read_table
    from spade_bench.errors import DataError
    from spade_bench.evaluation.trainedmodel import slides_by_case

    if not table.is_file():
        raise DataError("no such table", where=str(table))
    return slides_by_case(read_table(table), str(table))


@contextlib.contextmanager
def _features_of(
    model: TrainedModel,
    features: Path | None,
    slides: Path | None,
    features_out: Path | None,
    weights: Path | None,
    *,
    device: str,
    assume_mpp: float | None,
    trust: bool,
) -> Iterator[Path]:
    """The features folder, or a folder of features extracted from slides, kept or temporary."""
    from spade_bench.errors import DataError
    from spade_bench.extraction import EncoderSource, Settings, extract_slides
    from spade_bench.types import LoadOptions

    if features is not None:
        yield features
        return
    if slides is None:  # pragma: no cover - the caller checked
        raise AssertionError
    name = model.info.features.encoder or model.info.encoder
    fitted_with = {} if model.info.features.through else dict(model.info.options)
    options = {**fitted_with, "trust_remote_code": True} if trust else fitted_with
    source = EncoderSource(name, LoadOptions(weights=weights, device=device, options=options))
    with contextlib.ExitStack() as stack:
        folder = features_out
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        done = extract_slides(
            slides,
            source,
            folder,
            settings=Settings(assume_mpp=assume_mpp, mpp=model.info.features.mpp),
        )
        if done.failed:
            raise DataError(
                f"{len(done.failed)} slide(s) cannot be read: {next(iter(done.failed.values()))}",
                where=str(slides),
                fix="Move them out of the folder, or repair them",
            )
        yield folder
