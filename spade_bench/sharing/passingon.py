"""`push` and `pull`: a model to and from a folder or the hub, without names of patients."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from spade_bench.cohorts.withholding import Names, Withholding
from spade_bench.errors import DataError, UserError
from spade_bench.files import read_sealed, write_sealed, write_text
from spade_bench.results.merging import empty_folder
from spade_bench.results.pathscrub import scrubbed
from spade_bench.sharing.hubfolder import (
    CARD,
    Manifest,
    Place,
    opened,
    publish,
    take_over,
    write_manifest,
)
from spade_bench.sharing.modelcards import model_card
from spade_bench.sharing.sharedkinds import check, kind_of, stage

__all__ = ["Pushed", "pull", "push"]

_DESCRIPTIONS = frozenset({"spade.json", "model.json", "cell.json"})
_TEXT = frozenset({".json", ".csv", ".md"})


@dataclass(frozen=True)
class Pushed:
    """What was passed on.

    Attributes:
        to: Where.
        kind: `spade`, `model` or `head`.
        names: What became of names: `hashed`, `none` or `named`.
        files: How many files, the card and the manifest included.
        n_bytes: Their size.
    """

    to: str
    kind: str
    names: str
    files: int
    n_bytes: int


def push(
    folder: Path,
    to: str,
    *,
    names: Names = "hashed",
    licence: str = "",
    results: Path | None = None,
    private: bool = True,
) -> Pushed:
    """Pass a model on.

    Args:
        folder: A SPADE folder, a model of `fit`, or a head that a run kept.
        to: A folder, or `hf://OWNER/NAME`.
        names: What becomes of the names of samples, patients and cases.
        licence: Licence of the model itself.
        results: For a model of `fit`: results whose figures the card quotes.
        private: Whether a repository that is made on the hub is seen by its owner only.

    Raises:
        UserError: When the folder is no model, is damaged, or cannot be written.
        DataError: When a name or a path of this machine would be passed on.
    """
    place = Place.of(to, "--to")
    kind_of(folder)
    _keep_apart(folder, place)
    with tempfile.TemporaryDirectory(prefix="spade-bench-") as scratch:
        staged = Path(scratch) / "model"
        staged.mkdir()
        facts, hide = stage(folder, staged, names, results)
        _scrub(staged)
        write_text(staged / CARD, model_card(facts, names, licence))
        _check_texts(staged, hide, (folder.resolve(), Path.cwd(), Path.home()))
        write_manifest(staged, facts.kind, names)
        there = [path for path in staged.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in there)
        publish(staged, place, private=private)
    return Pushed(to, facts.kind, names, len(there), size)


def pull(source: str, out: Path) -> Manifest:
    """Take a model over, after every file of it was checked.

    Args:
        source: A folder that `push` wrote, or `hf://OWNER/NAME`, with `@COMMIT` for one commit.
        out: Folder to make.

    Raises:
        UserError: When there is no such model, or ``out`` is there already.
        DataError: When a file is absent, altered, or of a kind that is not taken over.
    """
    place = Place.of(source, "SOURCE")
    empty_folder(out, [] if place.folder is None else [place.folder])
    with opened(place) as folder:
        return take_over(folder, out, check)


def _keep_apart(folder: Path, place: Place) -> None:
    if place.folder is None:
        return
    source, target = folder.resolve(), place.folder.resolve()
    if target.is_relative_to(source) or source.is_relative_to(target):
        raise UserError(f"'{place.folder}' and the model lie in each other", where="--to",
                        fix="Choose another place")  # fmt: skip


def _scrub(staged: Path) -> None:
    """Cut absolute paths in descriptions to their last part."""
    for path in staged.rglob("*.json"):
        if path.name in _DESCRIPTIONS:
            content = read_sealed(path)
            if (cut := scrubbed(content)) != content:
                write_sealed(path, cut)


def _check_texts(staged: Path, hide: Withholding, places: tuple[Path, ...]) -> None:
    """Make sure that nothing that can be read says what shall stay here.

    Raises:
        DataError: Naming the first file that does.
    """
    told = [str(place) for place in places if len(place.parts) > 2]
    for path in sorted(staged.rglob("*")):
        if path.suffix not in _TEXT:
            continue
        text, name = path.read_text(encoding="utf-8"), path.relative_to(staged).as_posix()
        if found := hide.first_in(text):
            raise DataError(
                f"'{name}' would hold the name '{found}' of a sample, patient or case",
                where="push",
                fix="Give --with-patients if these names may be passed on",
            )
        if place := next((place for place in told if place in text), ""):
            raise DataError(f"'{name}' would hold the path {place}", where="push",
                            fix="Take it out of the settings of the model")  # fmt: skip
