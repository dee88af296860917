"""`spade-bench init`: write a workspace file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spade_bench.doctor.newworkspace import Belongings

__all__ = ["init"]


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write it into.")] = Path(),
    task: Annotated[
        str | None, typer.Option(help="Named task, or a name for one of your own.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Its cohort table (csv).")] = None,
    features: Annotated[Path | None, typer.Option(help="Folder of features.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder that made the features, or is to make them.")
    ] = None,
    slides: Annotated[Path | None, typer.Option(help="Folder of whole slides.")] = None,
    hest: Annotated[
        Path | None, typer.Option(help="Sections in HEST-1k layout, to pretrain SPADE on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a workspace file with what you have, and say what to type then.

    In a terminal it asks for what no flag says. Where nothing is said, the file is an example with
    every line explained, ready to be edited.
    """
    from spade_bench import console, workspace
    from spade_bench.doctor.newworkspace import Belongings, write_workspace

    has = Belongings(task, table, features, encoder, slides, hest)
    if not has and sys.stdin.isatty():
        has = _ask(Belongings())
    commands = write_workspace(folder, has, force=force)
    console.emit(f"wrote {folder / workspace.FILE_NAME}")
    if not has:
        console.emit("edit its paths, then type")
    elif commands:
        console.emit("in its folder, type")
    for command in commands:
        console.emit(f"  {command}")


def _ask(nothing: Belongings) -> Belongings:
    """Ask for what a workspace needs; every answer may be left empty."""
    from dataclasses import replace

    def answer(question: str) -> str | None:
        return str(typer.prompt(question, default="", show_default=False, err=True)).strip() or None

    def place(question: str) -> Path | None:
        given = answer(question)
        return None if given is None else Path(given).expanduser()

    has = replace(
        nothing,
        features=place("Folder of features, if you have them"),
        slides=place("Folder of whole slides"),
        hest=place("Folder of spatial transcriptomics in HEST-1k layout"),
        table=place("Cohort table (csv)"),
    )
    if has.table is not None:
        has = replace(has, task=answer("Task (of `list tasks`, or a name of your own)"))
    if has:
        has = replace(has, encoder=answer("Encoder of the features (empty: efficientnet-lite0)"))
    if has.features is not None and has.encoder is None:
        has = replace(has, encoder="efficientnet-lite0")
    return has
