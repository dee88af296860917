"""Join folders of results into one, refusing what contradicts.

Two hospitals that ran the same encoders, or shards of one run on several disks. The cells of an
encoder, task and head become one file of predictions, so that merging a single folder tidies up one
whose predictions lie in many.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.files import atomic_dir, file_name, hash_file, read_sealed
from spade_bench.results.cohortfiles import read_cohorts
from spade_bench.results.plans import read_plans
from spade_bench.results.predictions import Predictions
from spade_bench.results.predictionstore import StoredPredictions, write_predictions, write_spots
from spade_bench.results.rows import Row
from spade_bench.results.runsettings import read_run_settings
from spade_bench.results.store import ResultStore, whole_predictions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ROUNDING", "Found", "Merged", "apart", "empty_folder", "merge", "rounding",
           "say_rounded"]  # fmt: skip

_BESIDE = ("configs", "episodes", "plans", "cohorts")  # named by what they hold
_AGAIN = "Repeat its `spade-bench run` command, which computes again what is damaged"
_APART = "Give them other names, or read the folders together with `spade-bench report`"

# A fit that trains beside other draws or shots is rounded otherwise than alone: by 1e-12 in the
# linear heads, by 2e-6 in those of float32 (docs/HEADS.md). Nothing that matters hides below this:
# it is a share of what the predictions of the other cases lie apart.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Merged:
    """What a merge made.

    Attributes:
        out: The folder.
        cells: Finished cells in it.
        failed: Cells that failed in every folder that has them.
        twice: Cells that several folders held, and held alike.
    """

    out: Path
    cells: int
    failed: int
    twice: int


@dataclass(frozen=True)
class Found:
    """A standing row and the folder that holds its predictions.

    Attributes:
        row: The row.
        folder: The folder.
    """

    row: Row
    folder: Path


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Join folders that `run` wrote.

    Args:
        folders: The folders; they stay as they are.
        out: Folder to make; it must not be there, or be empty.

    Raises:
        UserError: When there is nothing to merge, or ``out`` cannot be made.
        DataError: When a folder is damaged, or two contradict: the same cell with other
            predictions or numbers, or one name that stands for other things.
    """
    if not folders:
        raise UserError("no folder of results is given")
    empty_folder(out, folders)
    of_folders = {folder: _rows(folder) for folder in folders}
    _one_meaning(of_folders)
    stored = {folder: StoredPredictions(folder) for folder in folders}
    found, twice = _joined(of_folders, stored)
    places: dict[tuple[str, str, str], list[Found]] = {}
    for one in found.values():
        places.setdefault((one.row.encoder, one.row.task, one.row.head), []).append(one)
    with atomic_dir(out) as inside:
        digests: dict[str, str] = {}
        with console.progress("Merging", len(found), "cells") as bar:
            for place, cells in places.items():
                digests |= _copy_predictions(inside, place, cells, stored)
                bar.advance(len(cells))
        rows = [
            replace(one.row, predictions_sha256=digests.get(run_id, one.row.predictions_sha256))
            for run_id, one in found.items()
        ]
        ResultStore(inside).append(rows)
        _copy_files(folders, inside)
        _copy_heads(found, inside)
    done = sum(one.row.status == "ok" for one in found.values())
    return Merged(out, done, len(found) - done, twice)


def empty_folder(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuse a folder to make that is there and not empty, or lies in what is read.

    Raises:
        UserError: Naming it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' is there already", where="--out", fix="Name a new folder")
    for one in inputs:
        if out.resolve().is_relative_to(one.resolve()):
            raise UserError(f"'{out}' lies in '{one}', which is read here", where="--out",
                            fix="Choose another place")  # fmt: skip


def apart(one: Predictions, other: Predictions) -> float:
    """How far the predictions of one cell lie apart in two folders.

    Returns:
        The largest difference of a prediction, as a share of itself or, if that is more, of the
        spread of the middle half of its class or gene; infinite where they are not of the same
        cases, classes and targets.
    """
    import numpy as np

    texts: tuple[str, ...] = ("case_ids", "classes", "train_ids", "patients")
    given: tuple[str, ...] = ("target", "train_target")
    predicted: tuple[str, ...] = ("scores", "train_scores")
    mine, theirs = (one, other) if one.spots is None else (one.spots, other.spots)
    if one.spots is not None:
        texts = ("genes", "sections", "patients", "barcodes")
        given, predicted = ("section", "coords", "observed"), ("predicted",)
    if type(mine) is not type(theirs):
        return float("inf")
    pairs = [(getattr(mine, name), getattr(theirs, name)) for name in (*given, *predicted)]
    alike = all(getattr(mine, name) == getattr(theirs, name) for name in texts) and all(
        np.shape(a) == np.shape(b) for a, b in pairs
    )
    if not alike or not all(_equal(a, b) for a, b in pairs[: len(given)]):
        return float("inf")
    return max(_furthest(a, b) for a, b in pairs[len(given) :])


def _equal(a: NDArray[Any] | None, b: NDArray[Any] | None) -> bool:
    import numpy as np

    return (a is None and b is None) or np.array_equal(np.asarray(a), np.asarray(b))


def _furthest(a: NDArray[Any] | None, b: NDArray[Any] | None) -> float:
    """The largest difference of predictions (n, C). See `apart`."""
    import numpy as np

    if _equal(a, b):
        return 0.0
    if a is None or b is None or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    low, high = np.quantile(a, [0.25, 0.75], axis=0)  # (C,) each: one wild value moves neither
    size = np.maximum(np.maximum(np.abs(a), np.abs(b)), high - low)  # (n, C)
    difference = np.abs(a - b)  # (n, C)
    return float(np.max(difference / np.where(difference > 0, size, 1.0)))


def _rows(folder: Path) -> list[Row]:
    """Rows of a folder, all of which must be whole.

    Raises:
        DataError: When there are none, or any is damaged.
    """
    store = ResultStore(folder)
    rows = store.rows()
    if store.problems:
        raise DataError(
            f"{store.problems[0]} Nothing is merged",
            where=str(folder),
            fix="Remove that line, and repeat its `spade-bench run` command, which computes again "
            "what is missing",
        )
    if not rows:
        raise DataError(
            "no results here", where=str(folder), fix="Make some with `spade-bench run --out DIR`"
        )
    return rows


def _meanings(row: Row) -> Iterator[tuple[str, str, str]]:
    """What the names of a row stand for: kind of name, the name, and what it stands for."""
    inputs = row.inputs
    if row.identity:
        yield "encoder", row.encoder, f"identity {row.identity}"
    for kind, name in (("encoder", row.encoder), ("task", row.task), ("head", row.head)):
        # A cell that failed before its inputs were known says nothing.
        if kind in inputs and not (kind == "encoder" and row.control):
            yield kind, name, f"settings {inputs[kind]}"


def _one_meaning(of_folders: Mapping[Path, Sequence[Row]]) -> None:
    """Refuse one name that stands for other things in two folders.

    A folder in which it stands for several may be joined with one that has some of these.

    Raises:
        DataError: Naming both folders.
    """
    seen: dict[tuple[str, str, str], tuple[Path, set[str]]] = {}
    for folder, rows in of_folders.items():
        mine: dict[tuple[str, str, str], set[str]] = {}
        for row in rows:
            for kind, name, meaning in _meanings(row):
                mine.setdefault((kind, name, meaning.split()[0]), set()).add(meaning)
        for key, meanings in mine.items():
            first, others = seen.setdefault(key, (folder, meanings))
            if not (meanings <= others or others <= meanings):
                kind, name, what = key
                raise DataError(
                    f"{kind} '{name}' has another {what} than in {first} "
                    f"({', '.join(sorted(meanings))} instead of {', '.join(sorted(others))})",
                    where=str(folder),
                    fix=_APART,
                )
            seen[key] = first, meanings | others


def _joined(
    of_folders: Mapping[Path, Sequence[Row]], stored: Mapping[Path, StoredPredictions]
) -> tuple[dict[str, Found], int]:
    """The standing row of each cell over all folders, and how many stand in several."""
    found: dict[str, Found] = {}
    shared: list[tuple[Found, Found]] = []
    for folder, rows in of_folders.items():
        for row in rows:
            one, before = Found(row, folder), found.get(row.run_id)
            if before is not None and before.row.status == row.status == "ok":
                shared.append((before, one))
            elif before is None or row.status == "ok":
                found[row.run_id] = one
    rounded: dict[str, float] = {}
    for first, second in sorted(shared, key=lambda pair: _place(pair[0].row)):
        if by := _agree(first, second, stored):
            rounded[first.row.run_id] = max(by, rounded.get(first.row.run_id, 0.0))
    say_rounded(rounded)
    return found, len({pair[0].row.run_id for pair in shared})


def _place(row: Row) -> tuple[str, str, str]:
    return row.encoder, row.task, row.head


def _agree(first: Found, second: Found, stored: Mapping[Path, StoredPredictions]) -> float:
    """Return by how much rounding sets a cell apart in two folders; refuse anything more.

    Raises:
        DataError: Naming the cell.
    """
    proved = first.row.predictions_sha256 == second.row.predictions_sha256 != ""
    told = None if proved else (_whole(first, stored), _whole(second, stored))
    by = rounding(first, second, told)
    # Rounding may break a tie, which moves a metric by more than rounding.
    if by == 0 and first.row.metrics != second.row.metrics:
        raise _contradiction(first, second, "metrics")
    return by


def rounding(first: Found, second: Found, told: tuple[Predictions, Predictions] | None) -> float:
    """Return by how much rounding sets a cell apart in two folders; refuse anything more.

    Args:
        first: Its row in one folder.
        second: Its row in the other.
        told: The predictions of both; None where their checksums prove them equal.

    Returns:
        See `apart`.

    Raises:
        DataError: When they are of other cells, or of other predictions.
    """
    if first.row.cell != second.row.cell:
        raise _contradiction(first, second, "names, shots, draw, fold or seed")
    by = 0.0 if told is None else apart(*told)
    if by > ROUNDING:
        raise _contradiction(first, second, "predictions")
    return by


def say_rounded(rounded: Mapping[str, float]) -> None:
    """Say which cells rounding set apart, if any.

    Args:
        rounded: By how much, by run id.
    """
    if rounded:
        cells = "1 cell differs" if len(rounded) == 1 else f"{len(rounded)} cells differ"
        console.say(
            f"{cells} between folders by rounding, "
            f"at most {max(rounded.values()):.1g}: those of the folder named first stand"
        )


def _contradiction(first: Found, second: Found, what: str) -> DataError:
    row = first.row
    return DataError(
        f"the cell {row.run_id} ({row.encoder} {row.head} on {row.task}) has other {what} than in "
        f"{first.folder}",
        where=str(second.folder),
        fix="Find out why (another --memory, device or version, or a wrong one), and leave one "
        "folder out",
    )


def _whole(one: Found, stored: Mapping[Path, StoredPredictions]) -> Predictions:
    """Predictions behind a finished row.

    Raises:
        DataError: When they are missing, damaged or not the row's.
    """
    try:
        return whole_predictions(stored[one.folder], one.row)
    except DataError as error:
        what = f"{error} Nothing is merged"
        raise DataError(what, where=str(one.folder), fix=_AGAIN) from error


def _copy_predictions(
    out: Path,
    place: tuple[str, str, str],
    cells: Sequence[Found],
    stored: Mapping[Path, StoredPredictions],
) -> dict[str, str]:
    """Write the predictions of a place; return the digest of each cell."""
    told: dict[str, Predictions] = {}
    digests: dict[str, str] = {}
    for one in sorted(
        cells, key=lambda cell: str(cell.folder)
    ):  # each folder's parts are read once
        if one.row.status != "ok":
            continue
        predictions = _whole(one, stored)
        if predictions.spots is not None:
            digests[one.row.run_id] = write_spots(out, one.row.run_id, predictions.spots)
        else:
            told[one.row.run_id] = predictions
    return digests | write_predictions(out, *place, told)


def _copy_files(folders: Sequence[Path], out: Path) -> None:
    """Copy what lies beside the results; files are named by what they hold.

    Raises:
        DataError: When one is damaged, or two folders have other content under one name.
    """
    for folder in folders:
        _check_files(folder)
        for name in _BESIDE:
            for path in sorted((folder / name).glob("*.json")):
                target = out / name / path.name
                if target.exists() and hash_file(target) != hash_file(path):
                    raise DataError(
                        f"holds something else than {name}/{path.name} of another folder",
                        where=str(path),
                        fix=_APART,
                    )
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def _check_files(folder: Path) -> None:
    """Refuse damage beside the results, which would be handed on and, by `export`, sealed anew.

    Raises:
        DataError: Naming the first file that is damaged or edited.
    """
    problems: list[str] = []
    read_run_settings(folder, problems)
    read_plans(folder, problems)
    read_cohorts(folder, problems)
    for path in sorted((folder / "episodes").glob("*.json")):
        try:
            read_sealed(path)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(
            f"{problems[0]} Nothing is merged",
            where=str(folder),
            fix="Remove that file, and repeat the `spade-bench run` command, which writes it again",
        )


def _copy_heads(found: Mapping[str, Found], out: Path) -> None:
    """Copy the kept heads of the cells, each from the folder whose row stands."""
    lost = []
    for run_id, one in found.items():
        if file_name(run_id) != run_id:  # of a stranger: no run of ours is called so
            continue
        kept = one.folder / "heads" / run_id
        if kept.is_symlink() or any(path.is_symlink() for path in kept.glob("*")):
            lost.append(run_id)
        elif kept.is_dir():
            shutil.copytree(kept, out / "heads" / run_id)
    if lost:
        console.warn(f"{len(lost)} kept head(s) are links and are not copied: {name_some(lost)}")
