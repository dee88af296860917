"""A new workspace file: every line explained, or filled in from what the user has."""

from __future__ import annotations

import json
import os
import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from spade_bench import files, workspace
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.request import resolve_task
from spade_bench.registry import encoders

__all__ = ["Belongings", "write_workspace"]

_DEFAULT = workspace.PretrainEntry().encoder  # whose weights pip brings


@dataclass(frozen=True)
class Belongings:
    """What a user has.

    Attributes:
        task: A named task, or a name for one of their own.
        table: Its cohort table.
        features: Folder of features.
        encoder: The encoder that made them, or that is to make them.
        slides: Folder of whole slides.
        hest: Sections in HEST-1k layout.
    """

    task: str | None = None
    table: Path | None = None
    features: Path | None = None
    encoder: str | None = None
    slides: Path | None = None
    hest: Path | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))


def write_workspace(
    folder: Path, has: Belongings, *, example: str, force: bool = False
) -> list[str]:
    """Write a workspace file into a folder.

    Args:
        folder: Where; it is made.
        has: What goes into it; nothing writes the example.
        example: A whole file with every line explained.
        force: Whether a file that is there is replaced.

    Returns:
        The commands that it makes ready, in their order.

    Raises:
        UserError: When there is a workspace, an encoder is unknown, or a table has no task.
        DataError: When what is named is not there.
    """
    path = folder / workspace.FILE_NAME
    if path.exists() and not force:
        raise UserError("exists already", where=str(path), fix="Use --force to overwrite it")
    if not has:
        files.write_text(path, example)
        return ["spade-bench pretrain"]
    _check(has)
    files.write_text(path, _filled(folder, has))
    return _commands(folder, has)


def _check(has: Belongings) -> None:
    for kind, place in (("features", has.features), ("slides", has.slides), ("hest", has.hest)):
        if place is not None and not place.exists():
            raise DataError(f"no such {kind}", where=str(place), fix="Give a folder that is there")
    if (has.table is None) != (has.task is None):
        raise UserError(
            "a table and its task go together",
            fix="Give --task and --table; `spade-bench list tasks` names tasks, and any other name "
            "is taken for a task of your own",
        )
    if has.table is not None and has.features is None and has.slides is None:
        raise UserError("a table needs features or slides", fix="Give --features or --slides")
    if has.features is not None and has.encoder is None:
        raise UserError("features without their encoder", fix="Give --encoder: what made them")
    made_here = has.features is None or has.hest is not None
    if has.encoder is not None and made_here:
        encoders.get(has.encoder)  # it has to run, so it must be one that is known


_HEAD = """\
# Workspace of spade-bench: what you would otherwise repeat as flags. Flags win over this file,
# and paths are relative to it.

# Where things run: auto (a GPU where there is one), cpu, cuda or cuda:1.
device: auto

# Where `spade-bench run` writes its results.
out: runs
"""


def _filled(folder: Path, has: Belongings) -> str:
    """The text of the file."""
    encoder = has.encoder or _DEFAULT
    text = _HEAD
    if has.hest is not None:
        text += f"""
# Sections in HEST-1k layout, and what `spade-bench pretrain` does with them.
hest: {_text(_from(folder, has.hest))}
pretrain:
  encoder: {_text(encoder)}
  out: spade
encoders:
  spade:
    weights: spade
"""
    if has.slides is not None or has.features is not None:
        text += "\n".join(_cohort(folder, has, encoder)) + "\n"
    return text


def _cohort(folder: Path, has: Belongings, encoder: str) -> list[str]:
    """The lines of the one cohort."""
    name, tables = "cohort", []
    if has.task is not None and has.table is not None:
        name = resolve_task(has.task, has.table, None).card.cohort
        tables = [
            "    # Task -> table with case_id, slide_id and label (or event and duration_days).",
            "    tables:",
            f"      {_text(has.task)}: {_text(_from(folder, has.table))}",
        ]
    slides = has.slides and [f"    slides: {_text(_from(folder, has.slides))}"]
    features = Path("features") if has.features is None else _from(folder, has.features)
    return [
        "",
        "# Tables, slides and features of each cohort.",
        "cohorts:",
        f"  {_text(name)}:",
        *tables,
        *(slides or []),
        "    # Encoder -> folder of its features. SPADE takes those of its base encoder.",
        "    features:",
        f"      {_text(encoder)}: {_text(features)}",
    ]


def _from(folder: Path, place: Path) -> Path:
    """A path as the file in the folder has to write it: relative where it lies near."""
    there = _without_steps_back(place.expanduser().absolute())
    try:
        near = Path(os.path.relpath(there, folder.absolute()))
    except ValueError:  # another drive of Windows
        return there
    return there if near.parts[:2] == ("..", "..") else near


def _without_steps_back(place: Path) -> Path:
    """The same place; where a link stands before a step back, by its real path."""
    plain = Path(os.path.normpath(place))
    return plain if plain.resolve() == place.resolve() else place.resolve()


def _text(value: object) -> str:
    """A string as YAML reads it back; all but the plainest are quoted."""
    plain = re.fullmatch(r"[A-Za-z_./][\w./-]*", str(value), flags=re.ASCII)
    word = str(value).lower() in {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
    return str(value) if plain and not word else json.dumps(str(value), ensure_ascii=False)


def _commands(folder: Path, has: Belongings) -> list[str]:
    """What to type in the folder, now that the file is there."""
    encoder = has.encoder or _DEFAULT
    commands = []
    if has.features is None and has.slides is not None:
        slides = shlex.quote(str(_from(folder, has.slides)))
        commands.append(f"spade-bench extract --encoder {encoder} --slides {slides} --out features")
    if has.hest is not None:
        commands.append("spade-bench pretrain")
    if has.task is not None:
        spade = " --encoder spade" if has.hest is not None else ""
        commands.append(
            f"spade-bench run --encoder {encoder}{spade} --task {shlex.quote(has.task)}"
        )
        commands.append("spade-bench report runs")
    return commands
