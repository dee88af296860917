"""Splits that others published, as they are: Patho-Bench task folders and CLAM split files.

A case on both sides of a split is refused with the cases named. Where that is allowed, the slide
becomes the unit, because no division of cases can express such splits, and flags say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.cohorts.classorder import order_classes
from spade_bench.cohorts.columns import USUAL, Columns
from spade_bench.cohorts.leaks import find_leaks
from spade_bench.cohorts.published.units import PublishedSplits, Unit, assemble
from spade_bench.cohorts.spelling import to_classes
from spade_bench.cohorts.tables import read_table
from spade_bench.cohorts.targets import spell_targets
from spade_bench.config import read_yaml
from spade_bench.errors import DataError, name_some
from spade_bench.features.slideids import LOOSE_IDS, describe_near, match_files, near_ids

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PublishedSplits",
    "read_clam",
    "read_patho_bench",
    "read_patho_bench_pair",
    "split_rows",
]

_FOLD = re.compile(r"fold_(\d+)")
_UNUSED = {"-1", "-1.0", None}


def read_patho_bench(
    folder: Path,
    *,
    shots: str = "all",
    unit: Unit | None = None,
    allow_leaky: bool = False,
    columns: Columns = USUAL,
) -> PublishedSplits:
    """Read a Patho-Bench task folder: `k=all.tsv` and `config.yaml`.

    Args:
        folder: The task's folder, `{source}/{task}`.
        shots: Which `k=*.tsv` to read: `all`, or a number of cases per class.
        unit: `case` or `slide`; None takes the folder's `sample_col`.
        allow_leaky: Accept cases on both sides of a split; the unit is then the slide.
        columns: What the tables call case and slide.

    Raises:
        DataError: When files, columns or values are not as the format has them, or a split leaks.
    """
    config = read_yaml(folder / "config.yaml")
    path = folder / f"k={shots}.tsv"
    frame, classes = _labels(_table(path, columns, config), config, path)
    folds = [column for column in frame if _FOLD.fullmatch(str(column))]
    if not folds:
        raise DataError("no fold_0, fold_1, ... column", where=str(path))
    sides = {str(fold): _side(frame, str(fold), path) for fold in folds}
    if unit is None:
        unit = "slide" if config.get("sample_col") == "slide_id" else "case"
    return assemble(
        frame,
        sides,
        name=f"{folder.parent.name}/{folder.name}",
        where=str(path),
        classes=classes,
        unit=unit,
        allow_leaky=allow_leaky,
        k_shot=None if shots == "all" else int(shots),
    )


def read_patho_bench_pair(
    root: Path,
    code: str,
    *,
    unit: Unit | None = None,
    allow_leaky: bool = False,
    columns: Columns = USUAL,
) -> PublishedSplits:
    """Read the cross-cohort task `{train}=={test}--{task}`: all of one cohort against another.

    Args:
        root: Folder that holds both cohorts' folders.
        code: Such as `cptac_lung==tcga_lung--subtype`.
        unit: As for :func:`read_patho_bench`.
        allow_leaky: As for :func:`read_patho_bench`.
        columns: As for :func:`read_patho_bench`.

    Raises:
        DataError: When the code is not of that form, the classes differ, or cohorts share cases.
    """
    import pandas as pd

    pieces = re.fullmatch(r"(.+?)==(.+?)--(.+)", code)
    if pieces is None:
        raise DataError(f"'{code}' is not TRAIN==TEST--TASK", where=str(root))
    train, test, task = pieces.groups()
    parts, classes, sample_cols = [], [], set()
    for cohort, side in ((train, "train"), (test, "test")):
        folder = root / cohort / task
        config = read_yaml(folder / "config.yaml")
        path = folder / "k=all.tsv"
        frame, names = _labels(_table(path, columns, config), config, path)
        parts.append(frame.assign(_side=side))
        classes.append(names)
        sample_cols.add(config.get("sample_col"))
    if classes[0] != classes[1]:
        raise DataError(f"classes differ: {classes[0]} and {classes[1]}", where=code)
    both = pd.concat(parts, ignore_index=True)
    twice = both["slide_id"][both["slide_id"].duplicated()]
    if len(twice):
        raise DataError(f"slides in both cohorts: {name_some(twice)}", where=code)
    if unit is None:
        unit = "slide" if sample_cols == {"slide_id"} else "case"
    return assemble(
        both,
        {"external": list(both["_side"])},
        name=code,
        where=str(root),
        classes=classes[0],
        unit=unit,
        allow_leaky=allow_leaky,
        protocol="external",
    )


def read_clam(
    splits: Path,
    table: Path,
    *,
    label_column: str = "label",
    classes: Sequence[str] = (),
    survival: bool = False,
    unit: Unit = "case",
    allow_leaky: bool = False,
    columns: Columns | None = None,
    event_value: str = "",
    match_ids: str = "exact",
) -> PublishedSplits:
    """Read CLAM's `splits_{i}.csv` with the table of labels.

    Args:
        splits: One split file, or a folder of them.
        table: `case_id, slide_id` and the label, or `event` and `duration_days`.
        label_column: Column of the label.
        classes: Class names in order; empty takes those of the table, sorted.
        survival: Read `event` and `duration_days` instead of a label.
        unit: `case` concatenates the slides of a case, `slide` is what CLAM itself does.
        allow_leaky: Accept cases on both sides of a split; the unit is then the slide.
        columns: What the table calls its columns; they win over `label_column`.
        event_value: Value of the event column that means that it happened; 1 by default.
        match_ids: `exact`, or `loose`: how slides of the splits are found in the table.

    Raises:
        DataError: When files or columns are missing, a slide is unknown or on two sides, or a
            split leaks.
    """
    frame = (columns or Columns(label=label_column)).rename(
        read_table(table, classes),
        ["case_id", "slide_id", *(["event", "duration_days"] if survival else ["label"])],
        str(table),
    )
    frame = spell_targets(frame, tuple(classes), survival, event_value, str(table))
    sides, loose = _clam_sides(splits, _column(frame, "slide_id", table), table, match_ids)
    if not survival and not classes:
        classes = order_classes(_column(frame, "label", table).dropna().unique())
    units = assemble(
        frame,
        sides,
        name=table.stem,
        where=str(splits),
        classes=tuple(classes),
        unit=unit,
        allow_leaky=allow_leaky,
    )
    return replace(units, flags=(*units.flags, LOOSE_IDS)) if loose else units


def split_rows(
    path: Path,
    columns: Columns = USUAL,
    *,
    known: Iterable[str] = (),
    match_ids: str = "exact",
) -> dict[str, list[tuple[str, str]]]:
    """Slides and sides of published splits, without their labels and whether they leak or not.

    Args:
        path: A Patho-Bench task folder or one of its `k=*.tsv`, a CLAM `splits_{i}.csv`, or a
            folder of those.
        columns: What Patho-Bench tables call the slide.
        known: Slides of the table that the splits are for.
        match_ids: `exact`, or `loose`: how slides of the splits are found among these.

    Returns:
        `fold_{i}` -> (slide, side) of each slide that it uses.

    Raises:
        DataError: When the path holds neither.
    """
    tables = sorted(path.glob("k=*.tsv")) if path.is_dir() else [path]
    if not any(file.suffix == ".tsv" for file in tables):
        return {
            f"fold_{i}": list(match_files(_clam_side(file), known, match_ids, str(file)).items())
            for i, file in _clam_files(path).items()
        }
    rows: dict[str, list[tuple[str, str]]] = {}
    for file in tables:
        frame = columns.rename(read_table(file), ["slide_id"], str(file))
        given = _column(frame, "slide_id", file)
        named = match_files({slide: slide for slide in given}, known, match_ids, str(file))
        ours = {theirs: field_name for field_name, theirs in named.items()}
        slides = [ours[slide] for slide in given]
        prefix = "" if len(tables) == 1 else f"{file.stem} "
        for fold in (str(column) for column in frame if _FOLD.fullmatch(str(column))):
            sides = _side(frame, fold, file)
            rows[prefix + fold] = [(s, side) for s, side in zip(slides, sides, strict=True) if side]
    if not rows:
        raise DataError("no fold_0, fold_1, ... column", where=str(path))
    return rows


def _table(path: Path, columns: Columns, config: Mapping[str, Any]) -> pd.DataFrame:
    """A Patho-Bench table with the usual names of case and slide."""
    codes = config.get("label_dict") or {}
    frame = read_table(path, [str(code) for code in codes])
    return columns.rename(frame, ["case_id", "slide_id"], str(path))


def _labels(
    frame: pd.DataFrame, config: Mapping[str, Any], path: Path
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Rename the task's columns to ours, and codes to class names."""
    task = str(config.get("task_col", ""))
    if not task:
        raise DataError("no task_col", where=str(path.with_name("config.yaml")))
    names = {f"{task}_event": "event", f"{task}_days": "duration_days"}
    # Older folders do not say the type; their survival tasks are told by these two columns.
    if config.get("task_type") == "survival" or set(names) <= set(frame.columns):
        for name in names:
            _column(frame, name, path)
        return frame.rename(columns=names), ()
    codes = {str(code): str(name) for code, name in (config.get("label_dict") or {}).items()}
    given = _column(frame, task, path)
    given = given.replace(to_classes(given.dropna(), tuple(codes)))
    unknown = sorted(set(given.dropna()) - set(codes))
    if codes and unknown:
        raise DataError(
            f"{task} holds {name_some(unknown)}, which label_dict does not name", where=str(path)
        )
    label = given.map(codes) if codes else given
    classes = tuple(codes.values()) if codes else order_classes(given.dropna().unique())
    present = set(label.dropna())
    return frame.assign(label=label), tuple(name for name in classes if name in present)


def _side(frame: pd.DataFrame, fold: str, path: Path) -> list[str | None]:
    values = [None if value in _UNUSED else str(value).lower() for value in frame[fold]]
    unknown = sorted({value for value in values if value} - {"train", "val", "test"})
    if unknown:
        raise DataError(
            f"{fold} holds {name_some(unknown)}", where=str(path), fix="Use train, val, test or -1"
        )
    return values


def _clam_files(splits: Path) -> dict[int, Path]:
    files = [splits] if splits.is_file() else sorted(splits.glob("splits_*.csv"))
    by_number = {
        int(match.group(1)): path
        for path in files
        if (match := re.fullmatch(r"splits_(\d+)\.csv", path.name))
    }
    if not by_number:
        raise DataError("no splits_0.csv, splits_1.csv, ... found", where=str(splits))
    return dict(sorted(by_number.items()))


def _clam_sides(
    splits: Path, known: pd.Series, table: Path, match_ids: str
) -> tuple[dict[str, list[str | None]], bool]:
    """The side of each slide of the table in each fold, and whether ids matched only loosely."""
    sides: dict[str, list[str | None]] = {}
    loose = False
    for fold, path in _clam_files(splits).items():
        given = _clam_side(path)
        side = match_files(given, known, match_ids, str(path))
        loose = loose or side.keys() != given.keys()
        unknown = sorted(set(side) - set(known))
        if unknown:
            raise DataError(
                f"{len(unknown)} slide(s) are not in {table.name}: {name_some(unknown)}",
                where=str(path),
                fix=describe_near(near_ids(unknown, known)),
            )
        sides[f"fold_{fold}"] = [side.get(slide) for slide in known]
    return sides, loose


def _clam_side(path: Path) -> dict[str, str]:
    """Slide -> side, from ragged columns."""
    frame = read_table(path)
    pairs = [
        (side, str(slide))
        for side in ("train", "val", "test")
        if side in frame
        for slide in frame[side].dropna()
    ]
    leaks = find_leaks({path.stem: [(slide, side) for side, slide in pairs]})
    if leaks:
        raise DataError(f"slide(s) on two sides: {name_some(leaks[0].cases)}", where=str(path))
    return {slide: side for side, slide in pairs}


def _column(frame: pd.DataFrame, name: str, path: Path) -> pd.Series:
    if name not in frame:
        raise DataError(f"no column {name} (found {name_some(frame.columns, 12)})", where=str(path))
    return frame[name]
