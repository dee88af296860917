"""Collect stored rows into series: the draws of one encoder, task, head and shot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from spade_bench.errors import DataError
from spade_bench.files import hash_obj
from spade_bench.report.conditions import conditions, tested_on
from spade_bench.results import Predictions, ResultStore, Row, StoredPredictions
from spade_bench.results.merging import Found, rounding, say_rounded
from spade_bench.results.rows import GENE_SIDE, NEEDS_GENE_SIDE, NO_GENE_SIDE
from spade_bench.results.store import whole_predictions

__all__ = ["NO_GENES", "Place", "Series", "collect", "latest"]

_BASE = "base"  # the control that is the encoder below
NO_GENES = "no-gene-side"
"""Flag of an encoder that a head could not serve, because it places no expression."""
_VARIES = {"episode", "permutation"}  # differ from row to row of one series


class Place(NamedTuple):
    """What encoders are compared within.

    Attributes:
        task: Name of the task.
        head: Name of the head.
        protocol: Protocol.
        shot: Cases per class; 0 where there are no shots.
        part: `ensemble` for the mean of the fold models of cross-validation, else empty.
        condition: What sets it apart from the same place with other cases, splits, seed or
            settings, in words.
    """

    task: str
    head: str
    protocol: str
    shot: int
    part: str
    condition: tuple[str, ...]


@dataclass(frozen=True)
class Series:
    """Rows that differ in the draw or fold, or in how labels were shuffled, only.

    Attributes:
        encoder: Label of the encoder.
        task: Name of the task.
        head: Name of the head.
        protocol: Protocol.
        k_shot: Cases per class, or None.
        flags: Flags.
        metrics: Metric names, the primary one first.
        rows: Finished rows, by draw, fold and permutation.
        failed: Rows that failed.
        wanted: Draws that some other encoder has in this place; with more than there are rows for
            each permutation some are missing.
        condition: What sets the rows apart from others of their task and protocol, in words.
        control: Name of the control that this is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands, where it is known.
    """

    encoder: str
    task: str
    head: str
    protocol: str
    k_shot: int | None
    flags: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    failed: tuple[Row, ...] = ()
    wanted: int = 0
    condition: tuple[str, ...] = ()
    control: str = ""
    control_of: str = ""

    @property
    def place(self) -> Place:
        """What encoders are compared within."""
        part = "ensemble" if "ensemble" in self.flags else ""
        return Place(self.task, self.head, self.protocol, self.k_shot or 0, part, self.condition)

    @property
    def tested_on(self) -> str:
        """Name of the cohort tested on where it is another than that trained on."""
        return tested_on(self.rows)

    @property
    def n_draws(self) -> int:
        """Training sets that were fitted: a draw or fold whose labels were shuffled counts once."""
        return len(set(map(_draw, self.rows)))

    @property
    def permutations(self) -> int:
        """How often the labels of each training set were shuffled; 1 where they were not."""
        return max(1, len({row.permutation for row in (*self.rows, *self.failed)}))

    @property
    def description(self) -> str:
        """What a control is, in the words of the encoder that brought it; mostly empty."""
        rows = (*self.rows, *self.failed)
        return next((row.env["control"] for row in rows if row.env.get("control")), "")


def collect(
    out: Path | Sequence[Path],
    problems: list[str] | None = None,
    predictions: dict[str, Predictions] | None = None,
) -> list[Series]:
    """Group the rows of a results folder, or of several that are read as one.

    A finished row whose predictions are missing or damaged counts as failed.

    Rows that speak of other cases, splits, seeds or settings are different series, told apart by
    their condition; rows of one name that come from other features by a flag `inputs:HASH`. A cell
    that several folders hold counts once.

    Args:
        out: The folder or folders.
        problems: Takes a sentence for each damaged line or file that is left out.
        predictions: Takes the predictions of every finished row, which were read to be checked.

    Raises:
        DataError: When a folder holds no results.
    """
    read: dict[str, Predictions] = {} if predictions is None else predictions
    standing: dict[str, Found] = {}
    rounded: dict[str, float] = {}
    for folder in [out] if isinstance(out, Path) else out:
        store = ResultStore(folder)
        found = _whole(folder, store.rows(), store.problems)
        if problems is not None:
            problems.extend(store.problems)
        if not found and store.problems:
            more = f" (and {len(store.problems) - 1} more)" if len(store.problems) > 1 else ""
            raise DataError(f"no row can be used: {store.problems[0]}{more}", where=str(folder))
        if not found:
            raise DataError(
                "no results here",
                where=str(folder),
                fix="Make some with `spade-bench run --out DIR`",
            )
        for row, told in found:
            one, before = Found(row, folder), standing.get(row.run_id)
            if before is None or before.row.status != "ok":
                standing[row.run_id] = one
                if told is not None:
                    read[row.run_id] = told
            elif told is not None and (by := rounding(before, one, (read[row.run_id], told))):
                rounded[row.run_id] = max(by, rounded.get(row.run_id, 0.0))
    say_rounded(rounded)
    rows = _named_elsewhere([one.row for one in standing.values()])
    return _with_wanted(sorted(_grouped(rows), key=_order))


def _named_elsewhere(rows: Sequence[Row]) -> list[Row]:
    """Count the base of an encoder as itself where it was asked for by name in another run.

    `run --encoder spade` makes the same rows of its base as `run --encoder spade --encoder uni`,
    which has no need of the control. Without this the first would be called missing beside the
    second.
    """
    named = {(row.encoder, row.identity) for row in rows if not row.control}
    own = {_run_place(row) for row in rows if not row.control}
    flag = f"control:{_BASE}"
    return [
        replace(
            row, control="", control_of="", flags=tuple(name for name in row.flags if name != flag)
        )
        if row.control == _BASE
        and (row.encoder, row.identity) in named
        and _run_place(row) not in own
        else row
        for row in rows
    ]


def _run_place(row: Row) -> tuple[str, str, str, str]:
    return row.encoder, row.task, row.head, row.protocol


def _grouped(rows: Sequence[Row]) -> list[Series]:
    """Series of rows that speak of the same cases, splits, seed, settings and features."""
    words = conditions(rows)
    keys: dict[object, str] = {}  # most rows have inputs that others have
    groups: dict[tuple[object, tuple[str, ...]], dict[str, list[Row]]] = {}
    for row in rows:
        name = (row.task, row.head, row.protocol, row.k_shot or 0, row.encoder, row.flags)
        inputs = tuple(item for item in sorted(row.inputs.items()) if item[0] not in _VARIES)
        condition = words.get(row.run_id, ())
        if (inputs, row.seed) not in keys:
            keys[inputs, row.seed] = hash_obj([dict(inputs), row.seed])
        key = keys[inputs, row.seed]
        groups.setdefault((name, condition), {}).setdefault(key, []).append(row)
    series = []
    for (_, condition), versions in groups.items():
        for key, members in versions.items():
            extra = (f"inputs:{key[:8]}",) if len(versions) > 1 else ()
            series.append(_series(members, extra, condition))
    return series


def latest(series: Iterable[Series]) -> dict[tuple[Place, str], Series]:
    """The finished series of each place and encoder.

    Of several versions of one name an encoder's own counts before one that is somebody's control,
    and then the one that was run last.
    """
    out: dict[tuple[Place, str], Series] = {}
    for one in series:
        key = (one.place, one.encoder)
        if one.rows and (key not in out or _precedence(one) > _precedence(out[key])):
            out[key] = one
    return out


def _precedence(one: Series) -> tuple[bool, str]:
    return not one.control, max(row.created_utc for row in one.rows)


def _whole(
    out: Path, rows: Sequence[Row], problems: list[str]
) -> list[tuple[Row, Predictions | None]]:
    """Rows with the predictions behind them, which are None of a row that has not finished.

    Rows whose predictions lie in the same files are looked at together, and returned in order.
    """
    stored = StoredPredictions(out)
    found: dict[int, tuple[Row, Predictions | None]] = {}
    for at in sorted(range(len(rows)), key=lambda i: _files_of(rows[i])):
        row, told = rows[at], None
        if row.status == "ok":
            try:
                told = whole_predictions(stored, row)
            except DataError as error:
                problems.append(str(error))
                row = replace(row, status="failed", error=str(error))
        found[at] = row, told
    return [found[at] for at in range(len(rows))]


def _files_of(row: Row) -> tuple[str, str, str]:
    return row.task, row.encoder, row.head


def _series(members: Sequence[Row], extra: tuple[str, ...], condition: tuple[str, ...]) -> Series:
    done = sorted(
        (r for r in members if r.status == "ok"),
        key=lambda r: (r.draw or 0, -1 if r.fold is None else r.fold, r.permutation),
    )
    first = members[0]
    return Series(
        encoder=first.encoder,
        task=first.task,
        head=first.head,
        protocol=first.protocol,
        k_shot=first.k_shot,
        flags=(*first.flags, *extra),
        metrics=tuple(done[0].metrics) if done else (),
        rows=tuple(done),
        failed=tuple(r for r in members if r.status == "failed"),
        condition=condition,
        control=first.control,
        # Rows of older versions do not know it of every control.
        control_of=next((row.control_of for row in members if row.control_of), ""),
    )


def _draw(row: Row) -> tuple[object, ...]:
    return row.draw, row.fold, row.inputs.get("episode")


def _with_wanted(series: list[Series]) -> list[Series]:
    """Fill the grid: an encoder that lacks a place of a task is shown there as missing.

    Controls are filled in only for tasks and heads that they were run with. Cells that failed
    before their inputs were known say nothing of the shots and conditions of others.
    """
    wanted: dict[Place, int] = {}
    metrics: dict[str, tuple[str, ...]] = {}
    for one in series:
        draws = len({_draw(row) for row in (*one.rows, *one.failed) if row.inputs})
        if draws:
            wanted[one.place] = max(wanted.get(one.place, 0), draws)
        metrics[one.task] = metrics.get(one.task) or one.metrics
    full = [
        replace(one, wanted=wanted.get(one.place, 0), metrics=one.metrics or metrics[one.task])
        for one in series
    ]
    present = {(one.place, one.encoder, one.control) for one in series}
    needing = {one.head for one in series if _gene_side(one) == NEEDS_GENE_SIDE}
    without = {one.encoder for one in series if _gene_side(one) == NO_GENE_SIDE}
    for place, count in wanted.items():
        task, head, protocol, shot, part, condition = place
        names = {
            (one.encoder, one.control): one
            for one in series
            if (not one.control or (one.task, one.head) == (task, head))
            and (one.condition == condition or not condition)
        }
        for (encoder, control), like in names.items():
            if (place, encoder, control) in present:
                continue
            kept = [flag for flag in like.flags if flag != "ensemble"]
            if like.task != task:
                kept = []
            unable = head in needing and encoder in without
            if unable:
                kept.append(NO_GENES)
            full.append(
                Series(
                    encoder=encoder,
                    task=task,
                    head=head,
                    protocol=protocol,
                    k_shot=shot or None,
                    flags=(*kept, *([part] if part else [])),
                    metrics=metrics[task],
                    rows=(),
                    wanted=0 if unable else count,
                    condition=condition,
                    control=control,
                    control_of=like.control_of,
                )
            )
    return sorted(full, key=_order)


def _gene_side(one: Series) -> str:
    """What the rows of a series say of a gene side; mostly empty."""
    rows = (*one.rows, *one.failed)
    return next((row.env[GENE_SIDE] for row in rows if row.env.get(GENE_SIDE)), "")


def _order(series: Series) -> tuple[object, ...]:
    return (*series.place, bool(series.control), series.encoder, series.flags)
