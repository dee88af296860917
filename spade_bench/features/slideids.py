"""Slide ids that mean the same file, though a spreadsheet or a tool has spelt them otherwise."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from spade_bench.console import say
from spade_bench.errors import DataError, UserError, name_some

__all__ = [
    "LOOSE_IDS",
    "MATCHES",
    "check_match",
    "describe_near",
    "loose_id",
    "match_files",
    "near_ids",
]

T = TypeVar("T")
LOOSE_IDS = "loose-ids"
"""Flag of rows some of whose ids are not spelt alike in the table and in the files."""

MATCHES = ("exact", "loose")
_SUFFIXES = (
    *(".svs", ".tif", ".tiff", ".ome", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".dcm"),
    *(".png", ".jpg", ".jpeg", ".h5", ".hdf5", ".pt", ".pth", ".npy", ".npz", ".zarr"),
)
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")


def loose_id(slide: str) -> str:
    """Spell an id without suffixes, leading zeros, a trailing ``.0`` and case."""
    text = slide.strip().lower().replace("\\", "/").rsplit("/", 1)[-1]
    while any(text.endswith(suffix) for suffix in _SUFFIXES):
        text = text.rsplit(".", 1)[0]
    text = re.sub(r"^([0-9]+)\.0+$", r"\1", text)
    return _ZEROS.sub("", text)


def check_match(how: str | None) -> None:
    """Refuse an unknown way to match ids.

    Raises:
        UserError: Naming those that there are.
    """
    if how not in {None, *MATCHES}:
        raise UserError(
            f"there is no way to match '{how}'",
            where="--match-ids",
            fix=f"Use {' or '.join(MATCHES)}",
        )


def near_ids(wanted: Iterable[str], there: Iterable[str]) -> dict[str, str]:
    """Match ids that are not there to those that nobody wants, where both ways only one fits.

    Args:
        wanted: Ids that are looked for.
        there: Ids that exist.

    Returns:
        Wanted id -> the id that exists.
    """
    ours, theirs = dict.fromkeys(wanted), dict.fromkeys(there)
    free: dict[str, list[str]] = defaultdict(list)
    spelt: dict[str, list[str]] = defaultdict(list)
    for name in ours:
        spelt[loose_id(name)].append(name)
    for name in theirs:
        free[loose_id(name)].append(name)
    return {
        names[0]: free[key][0]
        for key, names in spelt.items()
        if len(names) == 1 and len(free.get(key, ())) == 1 and names[0] not in theirs
    }


def describe_near(near: Mapping[str, str]) -> str:
    """Say which ids differ in spelling only, and what takes them; empty without any."""
    if not near:
        return ""
    pairs = [f"{wanted} is {file}" for wanted, file in near.items()]
    return (
        f"{len(near)} of them match(es) a file without suffix, leading zeros or case "
        f"({name_some(pairs, 3)}): take such files with --match-ids loose"
    )


def match_files(
    files: Mapping[str, T], wanted: Iterable[str], how: str, label: str
) -> Mapping[str, T]:
    """Let files serve the slides of a table whose ids are spelt otherwise.

    Args:
        files: Slide id -> file.
        wanted: Slides of the table.
        how: `exact` returns ``files`` itself; `loose` adds those of `near_ids`.
        label: Whose files, for messages.

    Raises:
        DataError: When several slides or files come to the same id.
    """
    if how == "exact":
        return files
    ours = [slide for slide in dict.fromkeys(wanted) if slide not in files]
    spelt: dict[str, list[str]] = defaultdict(list)
    for slide in wanted:
        spelt[loose_id(slide)].append(slide)
    free: dict[str, list[str]] = defaultdict(list)
    for slide in files:
        free[loose_id(slide)].append(slide)
    for slide in ours:
        key = loose_id(slide)
        rivals, fits = sorted(set(spelt[key])), free.get(key, [])
        if fits and (len(rivals) > 1 or len(fits) > 1):
            raise DataError(
                f"{name_some(rivals)} could be any of {name_some(fits)}",
                where=label,
                fix="Correct the ids of the table, or leave out --match-ids loose",
            )
    near = near_ids(wanted, files)
    if near:
        pairs = [f"{slide} is {file}" for slide, file in near.items()]
        say(f"{label}: {len(near)} slide(s) matched loosely: {name_some(pairs)}")
    taken = set(near.values())
    kept = {slide: path for slide, path in files.items() if slide not in taken}
    return {**kept, **{slide: files[file] for slide, file in near.items()}}
