"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from spade_bench.types import LoadOptions

__all__ = [
    "AllowMissingOption",
    "AsIsOption",
    "BatchSizeOption",
    "CaseColumn",
    "DaysColumn",
    "DeviceOption",
    "EventColumn",
    "EventValue",
    "ExecutorOption",
    "GpusOption",
    "JsonOption",
    "LabelColumn",
    "MatchIds",
    "PositiveOption",
    "RayAddressOption",
    "RayOption",
    "RegionNameOption",
    "RegionShareOption",
    "RegionsOption",
    "RevisionOption",
    "ScriptOption",
    "SeedOption",
    "SetOption",
    "SizeOption",
    "SlideColumn",
    "SlurmOption",
    "TrustOption",
    "WorkerCount",
    "WorkersOption",
    "config_help",
    "load_options",
    "parse_named_paths",
    "parse_shard",
    "path_of_encoder",
    "paths_by_name",
]


def config_help(ships: str) -> str:
    """Return the help of `--config`, which means one thing in every command.

    Args:
        ships: Names of the settings that ship for the command.
    """
    return (
        f"Settings: a YAML file, or the name of one that ships ({ships}). What flags say wins over "
        "it."
    )


DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="auto, cpu or cuda[:n]. Default: the workspace's, else auto."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random.")]
SizeOption = Annotated[
    str,
    typer.Option("--size", help="Size of the simulated study: tiny (minutes) or small (longer)."),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        help="Reader threads or processes; with --executor, the workers that share the work. 0 "
        "picks by machine.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Agree to run the code that some encoders keep beside their weights on the hub.",
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Commit of the encoder's hub repository to load. Default: the one its card pins.",
    ),
]
AllowMissingOption = Annotated[
    bool, typer.Option("--allow-missing", help="Leave out slides and labels that are missing.")
]
AsIsOption = Annotated[
    bool,
    typer.Option("--as-is", help="Take files that name another encoder; flag all that uses them."),
]
PositiveOption = Annotated[
    str | None, typer.Option("--positive", help="The positive one of a task's two classes.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Setting of a head or encoder: logistic.C=0.5. Repeatable."),
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Patches per batch.")]
RegionsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with SLIDE.geojson (annotations of QuPath): take the patches inside only."
    ),
]
RegionNameOption = Annotated[
    list[str] | None,
    typer.Option(help="With --regions: class or name of the regions to take. Repeatable."),
]
RegionShareOption = Annotated[
    float | None,
    typer.Option(
        help="With --regions: least share of a patch's area inside, such as 0.5. Default: its "
        "centre."
    ),
]
ExecutorOption = Annotated[
    str | None,
    typer.Option(
        "--executor",
        help="Where to run: local (several processes), ray or slurm. Default: this process.",
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="How many workers share the work. Default: one per card, else one per core; of Ray "
        "as many as there is room for; of Slurm it must be said.",
    ),
]
GpusOption = Annotated[
    str | None,
    typer.Option("--gpus", help="Cards of this machine, one per worker: all, or 0,1."),
]
RayAddressOption = Annotated[
    str | None,
    typer.Option(
        "--ray-address", help="A Ray cluster, such as auto or HOST:6379. Default: one started here."
    ),
]
RayOption = Annotated[
    str | None, typer.Option("--ray", help="What a worker gets: gpus=1,cpus=4,memory=16GB.")
]
SlurmOption = Annotated[
    str | None,
    typer.Option("--slurm", help="Options of sbatch: partition=gpu,gpus=1,time=4:00:00."),
]
ScriptOption = Annotated[
    bool, typer.Option("--script", help="With --executor slurm: only write the script of the jobs.")
]
CaseColumn = Annotated[
    str | None, typer.Option("--case-column", help="Column of the case. Default: case_id.")
]
SlideColumn = Annotated[
    str | None, typer.Option("--slide-column", help="Column of the slide. Default: slide_id.")
]
LabelColumn = Annotated[
    str | None, typer.Option("--label-column", help="Column of the label. Default: the task's.")
]
EventColumn = Annotated[
    str | None, typer.Option("--event-column", help="Column of the event. Default: event.")
]
DaysColumn = Annotated[
    str | None,
    typer.Option("--days-column", help="Column of the days. Default: duration_days."),
]
EventValue = Annotated[
    str | None,
    typer.Option(
        "--event-value",
        help="Value of the event column that means it happened: 1 to confirm the table, 0 where "
        "1 stands for censored.",
    ),
]
MatchIds = Annotated[
    str | None,
    typer.Option(
        "--match-ids",
        help="exact, or loose: slides and files match also without .svs or .h5, leading zeros "
        "and case.",
    ),
]


def load_options(
    encoder: str,
    weights: Path | None,
    device: str | None,
    *,
    precision: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadOptions:
    """Return how an encoder is loaded: what flags leave out comes from the workspace file.

    Args:
        encoder: Its name, under which the workspace may have an entry.
        weights: Its weights; None for those of the entry.
        device: Device; None for the workspace's, else `auto`.
        precision: fp32, bf16 or fp16; None for the card's.
        seed: Seed of encoders with random weights.
        revision: Commit of the hub; None for the card's.
        options: Options of its own, over those of the entry.

    Raises:
        UserError: When there is no such precision.
    """
    from spade_bench import workspace
    from spade_bench.errors import UserError
    from spade_bench.types import LoadOptions

    if precision not in {None, "fp32", "bf16", "fp16"}:
        raise UserError(f"unknown precision '{precision}'", fix="Use fp32, bf16 or fp16")
    space, said = workspace.load(), dict(options or {})
    if space is not None:
        entry = space.encoders.get(encoder, workspace.EncoderEntry())
        weights = weights or space.resolve(entry.weights)
        said = {**entry.options, **said}
        device = device or space.device
    return LoadOptions(
        weights=weights,
        device=device or "auto",
        precision=precision,
        seed=seed,
        options=said,
        revision=revision,
    )


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read ``i/n`` (1-based) into a zero-based index and a count.

    Raises:
        UserError: When the text is not of that form or i is not in 1..n.
    """
    from spade_bench.errors import UserError

    if text is None:
        return None
    left, slash, right = text.partition("/")
    if not (slash and left.isdigit() and right.isdigit() and 1 <= int(left) <= int(right)):
        raise UserError(f"'{text}' is not i/n", where="--shard", fix="Write 1/4 up to 4/4")
    return int(left) - 1, int(right)


def parse_named_paths(values: list[str] | None, option: str) -> tuple[dict[str, Path], Path | None]:
    """Split ``["a=DIR", "DIR2"]`` into named paths and the one unnamed path.

    Raises:
        UserError: When two unnamed paths are given or a name is given twice.
    """
    from spade_bench.errors import UserError

    named: dict[str, Path] = {}
    unnamed: Path | None = None
    for value in values or []:
        name, equals, path = value.partition("=")
        # A real path may hold '='; what stands before a name's '=' never holds a slash.
        if equals and "/" not in name and not Path(value).exists():
            if name in named:
                raise UserError(f"'{name}' is given twice", where=option)
            named[name] = Path(path).expanduser()
        elif unnamed is not None:
            raise UserError(
                "two paths without a name", where=option, fix=f"Write {option} NAME=PATH"
            )
        else:
            unnamed = Path(value).expanduser()
    return named, unnamed


def paths_by_name(values: list[str] | None, option: str) -> dict[str, Path]:
    """Return paths by name; the one without a name stands under `*`.

    Raises:
        UserError: As `parse_named_paths`.
    """
    named, unnamed = parse_named_paths(values, option)
    return named if unnamed is None else {**named, "*": unnamed}


def path_of_encoder(value: str | None, option: str, encoder: str) -> Path | None:
    """Return the path of ``DIR`` or ``NAME=DIR``, as `run` takes them, for the one encoder.

    Raises:
        UserError: When it names another encoder.
    """
    from spade_bench.errors import UserError

    named, unnamed = parse_named_paths([value] if value else [], option)
    for name in named:
        if name != encoder:
            raise UserError(
                f"'{name}' is not the encoder that is asked for, {encoder}",
                where=option,
                fix=f"Write {option} {encoder}=PATH, or the path alone",
            )
    return named.get(encoder, unnamed)
