"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BatchSizeOption",
    "DeviceOption",
    "JsonOption",
    "RevisionOption",
    "SeedOption",
    "SizeOption",
    "TrustOption",
    "WorkersOption",
    "parse_named_paths",
    "parse_shard",
]

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
    int, typer.Option("--workers", min=0, help="Reader threads or processes; 0 picks by machine.")
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
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Patches per batch.")]


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
