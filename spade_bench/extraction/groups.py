"""Which image files of a folder make up a slide, and what their folders say about it."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_bench.console import warn
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.files import file_name

__all__ = ["IMAGE_SUFFIXES", "PatchGroup", "group_patches"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"})
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# Numbers that count patches: `_12`, `_x1024`, `-y512`, `(3)`.
_TAIL = re.compile(r"(?<=.)(?:_[A-Za-z]?\d+(?:\.\d+)?|_?\(\d[\d., ]*\)|-[xy]\d+)$")
_COORDINATES = re.compile(r"^\d+_\d+$")
_TCGA = re.compile(r"^TCGA-\w{2}-\w{4}", re.IGNORECASE)


@dataclass(frozen=True)
class PatchGroup:
    """The patches of one slide.

    Attributes:
        slide_id: Its name.
        case_id: Its case: the TCGA case of a TCGA name, else the slide itself.
        files: Its image files in natural order.
        label: Name of its class folder, if there is one.
        split: `train`, `val` or `test` when a folder says so.
    """

    slide_id: str
    case_id: str
    files: tuple[Path, ...]
    label: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class _Key:
    """What tells one slide from another: its folder below the root, and its name in it."""

    folder: tuple[str, ...]
    name: str
    case: str | None = None
    label: str | None = None


def group_patches(folder: Path, group_by: str = "auto") -> tuple[list[PatchGroup], str]:
    """Group the image files under a folder into slides.

    Args:
        folder: Searched recursively.
        group_by: `folder`: every folder that holds images is a slide. `prefix`: file names up to
            their trailing numbers are slides, within their folder. `auto`: prefix where a folder
            holds several prefixes, else folder. Anything with a group `(?P<slide>...)` is a
            regular expression over the path below ``folder``, with groups `case` and `label` if
            wanted.

    Returns:
        The slides sorted by id, and the rule that was used.

    Raises:
        DataError: When there are no images, or two slides would share an id.
        UserError: When ``group_by`` is unknown, or makes a slide whose name cannot be that of a
            file.
    """
    if not folder.is_dir():
        raise DataError("no such patch folder", where=str(folder))
    files = [path for path in folder.rglob("*") if _is_image(path, folder)]
    if not files:
        raise DataError("no image files found", where=str(folder))
    files.sort(key=lambda path: _natural(path.relative_to(folder).as_posix()))
    key, rule = _rule(folder, files, group_by)
    grouped: dict[_Key, list[Path]] = defaultdict(list)
    for path in files:
        grouped[key(path)].append(path)
    names = _names(folder, grouped)
    groups = [_group(names[key], key, paths) for key, paths in grouped.items()]
    _say_joined(folder, groups)
    return sorted(groups, key=lambda group: group.slide_id), rule


def _rule(folder: Path, files: Sequence[Path], group_by: str) -> tuple[Callable[[Path], _Key], str]:
    if "(?P<slide>" in group_by:
        return _by_pattern(folder, group_by), "regular expression"
    if group_by not in {"auto", "folder", "prefix"}:
        raise UserError(
            f"unknown rule '{group_by}'",
            where="--group-by",
            fix="Use auto, folder, prefix or a regular expression with (?P<slide>...)",
        )
    if group_by == "prefix" or (group_by == "auto" and _several_prefixes(files)):
        return (lambda path: _Key(_parts(path, folder), _prefix(path.stem))), "file-name prefix"

    def by_folder(path: Path) -> _Key:
        parts = _parts(path, folder)
        return _Key(parts[:-1], parts[-1]) if parts else _Key((), folder.resolve().name)

    return by_folder, "folder"


def _by_pattern(folder: Path, pattern: str) -> Callable[[Path], _Key]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"not a regular expression ({error})", where="--group-by") from error

    def key(path: Path) -> _Key:
        text = path.relative_to(folder).as_posix()
        match = compiled.search(text)
        if match is None or not match["slide"]:
            raise UserError(f"does not match '{text}'", where="--group-by")
        if file_name(match["slide"]) != match["slide"]:  # read back, it would be another slide
            raise UserError(
                f"makes of '{text}' a slide called {match['slide']!r}, which no feature file can "
                "be called",
                where="--group-by",
                fix="Let (?P<slide>...) match a part of a name, without / and spaces at its ends",
            )
        parts = match.groupdict()
        return _Key((), match["slide"], parts.get("case"), parts.get("label"))

    return key


def _several_prefixes(files: Sequence[Path]) -> bool:
    """Whether some folder holds patches of several slides, judging by their names."""
    by_folder: dict[Path, list[str]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path.stem)
    for stems in by_folder.values():
        if all(_COORDINATES.match(stem) for stem in stems):
            continue  # x_y.png: the numbers are positions
        prefixes = [_prefix(stem) for stem in stems]
        if 1 < len(set(prefixes)) < len(prefixes):
            return True
    return False


def _names(folder: Path, grouped: Mapping[_Key, Sequence[Path]]) -> dict[_Key, str]:
    """Short names where they are unique, else names with all folders in front."""
    keys = list(grouped)
    short = {key: key.name for key in keys}
    if len(set(short.values())) == len(keys):
        return short
    shared = _shared_folders(keys)
    long = {key: "_".join([*key.folder[shared:], key.name]) for key in keys}
    twice = [name for name, count in Counter(long.values()).items() if count > 1]
    if twice:
        first, second, *_ = (
            grouped[key][0].relative_to(folder).as_posix() for key in keys if long[key] == twice[0]
        )
        raise DataError(
            f"two slides would be called '{twice[0]}', that of '{first}' and that of '{second}'",
            where=str(folder),
            fix="Give --group-by a (?P<slide>...) that tells them apart; the rule `prefix` puts "
            "folders in front of names",
        )
    return long


def _say_joined(folder: Path, groups: Sequence[PatchGroup]) -> None:
    """Say which slides are made of images of several folders, which may be other slides."""
    joined = {}
    for group in groups:
        homes = dict.fromkeys(file.parent.relative_to(folder).as_posix() for file in group.files)
        if len(homes) > 1:
            joined[group.slide_id] = list(homes)
    if joined:
        slide, homes_of = next(iter(joined.items()))
        warn(
            f"--group-by: {len(joined)} of {len(groups)} slides join images of several folders, "
            f"such as '{slide}' those of {name_some(homes_of, 4)}. Where these are other slides, "
            "let the rule match the folder too"
        )


def _shared_folders(keys: Sequence[_Key]) -> int:
    """Number of leading folders that all slides share; they tell nothing apart."""
    columns = zip(*(key.folder for key in keys), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def _group(name: str, key: _Key, paths: list[Path]) -> PatchGroup:
    splits = [_SPLITS[part.lower()] for part in key.folder if part.lower() in _SPLITS]
    classes = [part for part in key.folder if part.lower() not in _SPLITS]
    tcga = _TCGA.match(key.name)
    case = key.case or (tcga[0].upper() if tcga else name)
    label = key.label or (classes[-1] if classes else None)
    return PatchGroup(name, case, tuple(paths), label, splits[0] if splits else None)


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts[:-1]


def _prefix(stem: str) -> str:
    while (shorter := _TAIL.sub("", stem)) != stem:
        stem = shorter
    return stem


def _is_image(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return not hidden and path.suffix.lower() in IMAGE_SUFFIXES and _is_file(path)


def _is_file(path: Path) -> bool:
    """Whether a path is a file, or a link to nothing, which is said when it is opened."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _natural(text: str) -> list[tuple[int, int | str]]:
    """Sort key under which `p2` comes before `p10`."""
    pieces: Iterable[str] = re.split(r"(\d+)", text)
    return [(0, int(piece)) if piece.isdigit() else (1, piece) for piece in pieces]
