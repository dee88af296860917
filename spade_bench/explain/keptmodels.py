"""The kept heads of runs: which there are, and which of them judge a case."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say, warn
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.evaluation.keptheads import kept_head
from spade_bench.explain.casemaps import Model
from spade_bench.files import hash_obj, read_sealed
from spade_bench.heads import FittedHead
from spade_bench.registry import suggest
from spade_bench.results import ResultStore, StoredPredictions

if TYPE_CHECKING:
    from spade_bench.results import Predictions, Row

__all__ = ["KeptModel", "KeptModels", "Wanted", "choose_models"]

_SETTINGS = ("cohort", "features", "encoder", "base", "head", "select", "splits")
"""Hashes of a row in which the models of one map agree."""


_HELD_BYTES = 1 << 30  # of heads that are held between cases

_BACK = (
    "Remove the folder of this head, and repeat the `spade-bench run` command with --keep-heads all"
)


@contextlib.contextmanager
def _told_how(fix: str = _BACK) -> Iterator[None]:
    """Add to the error of a file that a run wrote how to get it back.

    Raises:
        DataError: The same, with what to do.
    """
    try:
        yield
    except DataError as error:
        raise DataError(error.what, where=error.where, fix=error.fix or fix) from error


@dataclass(frozen=True)
class Wanted:
    """Which models of a run are meant; None leaves it to what there is.

    Attributes:
        encoder: Label of the encoder.
        task: Name of the task.
        head: Name of the head.
        shots: Training cases per class, for few-shot.
        protocol: Protocol.
    """

    encoder: str | None = None
    task: str | None = None
    head: str | None = None
    shots: int | None = None
    protocol: str | None = None


@dataclass
class _Room:
    """Memory that the heads of one map may take together; those beyond it are read each time.

    None is put out for another: a case goes through all its models in turn, and the one that was
    put out would be the next that is needed.

    Attributes:
        left: Bytes that are left.
    """

    left: int

    def take(self, n_bytes: int) -> bool:
        """Take as much, if it is there."""
        if n_bytes > self.left:
            return False
        self.left -= n_bytes
        return True


@dataclass
class KeptModel:
    """The kept head of a cell, read when it is first used, and held where there is room.

    Attributes:
        out: Folder of the results.
        row: The row of the cell.
        train: Cases that trained it, those on which it stopped early included.
        test: Cases in which it was tested.
        room: Memory that it shares with the other heads.
    """

    out: Path
    row: Row
    train: frozenset[str]
    test: frozenset[str]
    room: _Room = field(default_factory=lambda: _Room(_HELD_BYTES), repr=False)
    _fitted: FittedHead | None = field(default=None, repr=False)
    _predictions: Predictions | None = field(default=None, repr=False)

    @classmethod
    def read(cls, out: Path, row: Row, room: _Room) -> KeptModel:
        """Read which cases a kept head saw.

        Raises:
            DataError: When its description is missing, damaged, or that of another cell.
        """
        path = kept_head(out, row.run_id) / "cell.json"
        with _told_how():
            content = read_sealed(path)
        try:
            train, tune, test = (frozenset(map(str, content[k])) for k in ("train", "tune", "test"))
            sound = content["run_id"] == row.run_id
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise DataError(
                "does not describe the kept head of this cell",
                where=str(path),
                fix=_BACK,
            )
        return cls(out, row, train | tune, test, room)

    def judge(self, case_id: str, device: str) -> Model:
        """Return the head with what it predicted for a case, if it was tested on it."""
        fitted, folder = self._fitted, kept_head(self.out, self.row.run_id)
        if fitted is None:
            with _told_how():
                fitted = FittedHead.load(folder, device)
            if self.room.take(sum(path.stat().st_size for path in folder.iterdir())):
                self._fitted = fitted
        stored = None
        if case_id in self.test:
            if self._predictions is None:
                sha256 = self.row.predictions_sha256
                with _told_how("Repeat the `spade-bench run` command into a new folder"):
                    self._predictions = StoredPredictions(self.out).of(self.row, sha256=sha256)
                self._at = {case: i for i, case in enumerate(self._predictions.case_ids)}
            if case_id not in self._at:
                raise DataError(
                    f"holds no prediction of '{case_id}', on which its head was tested",
                    where=f"predictions of {self.row.run_id} in {self.out}",
                    fix="Repeat the `spade-bench run` command",
                )
            stored = self._predictions.scores[self._at[case_id]]
        return Model(self.row.run_id, fitted, stored)


@dataclass(frozen=True)
class KeptModels:
    """Kept heads of one encoder, task, head, protocol, number of shots and settings.

    Attributes:
        models: The heads.
    """

    models: tuple[KeptModel, ...]

    @property
    def row(self) -> Row:
        """A row that stands for all of them in what they share."""
        return self.models[0].row

    @property
    def tested(self) -> list[str]:
        """Cases that at least one head was tested on, sorted."""
        return sorted(frozenset().union(*(model.test for model in self.models)))

    def of(self, case_id: str) -> tuple[list[KeptModel], bool]:
        """Return the heads that judge a case, and whether it trained them.

        They are those in which it was held out; only where there is none, those it trained.
        """
        held_out = [model for model in self.models if case_id in model.test]
        if held_out:
            return held_out, False
        return [model for model in self.models if case_id in model.train], True


def choose_models(
    folders: Sequence[Path],
    wanted: Wanted,
    *,
    besides: str | None = None,
    beside: Row | None = None,
) -> KeptModels:
    """Find the kept heads of one encoder, task, head, protocol and number of shots.

    Args:
        folders: Folders of results.
        wanted: Which ones, where there are several.
        besides: Label of an encoder that is meant for something else.
        beside: A row of the first encoder: the second must have been run on the same cases, splits
            and seed, or their maps cannot be held against each other.

    Raises:
        DataError: When no head was kept, or a folder holds no results.
        UserError: When several fit, or none has the name.
    """
    rows = [(out, row) for out in folders for row in _finished(out)]
    kept = [(out, row) for out, row in rows if (kept_head(out, row.run_id) / "head.json").is_file()]
    chosen = [(out, row) for out, row in kept if not row.control]
    if wanted.encoder is not None and wanted.encoder not in {row.encoder for _, row in chosen}:
        chosen = kept  # a control is explained when it is named
    if wanted.encoder is None and besides is not None:
        chosen = [(out, row) for out, row in chosen if row.encoder != besides]
    if not chosen:
        raise _nothing_kept(folders, [row for _, row in rows])
    encoder_option = "--encoder" if beside is None else "--against"
    for name, option in (("task", "--task"), ("encoder", encoder_option), ("head", "--head"),
                         ("protocol", "--protocol")):  # fmt: skip
        chosen = _only(chosen, name, getattr(wanted, name), option)
    shots = sorted({row.k_shot for _, row in chosen if row.k_shot is not None})
    if shots or wanted.shots is not None:
        k = shots[-1] if wanted.shots is None else wanted.shots
        if k not in shots:
            there = ", ".join(map(str, shots)) or "none"
            raise UserError(
                f"no head of {k} shots was kept", where="--shots", fix=f"There are {there}"
            )
        if wanted.shots is None and len(shots) > 1:
            say(f"Heads of {k} shots are explained; --shots takes those of {shots[:-1]}")
        chosen = [(out, row) for out, row in chosen if row.k_shot == k]
    if beside is not None:
        alike = [(out, row) for out, row in chosen if _experiment(row) == _experiment(beside)]
        if not alike:
            raise UserError(
                f"'{chosen[0][1].encoder}' was not run on the cases, splits and seed of "
                f"'{beside.encoder}'",
                where="--against",
                fix="Run both encoders in one command, with --keep-heads all",
            )
        chosen = alike
    latest = _latest(chosen)
    _warn_of_lost(latest, [row for _, row in rows])
    room = _Room(_HELD_BYTES)
    return KeptModels(tuple(KeptModel.read(out, row, room) for out, row in latest))


def _warn_of_lost(kept: Sequence[tuple[Path, Row]], rows: Iterable[Row]) -> None:
    """Name finished cells of the same experiment whose heads are gone: their cases lack a judge.

    Args:
        kept: What is explained.
        rows: All finished rows.
    """
    there, like = {row.run_id for _, row in kept}, _series(kept[0][1])
    lost = sorted({row.run_id for row in rows if _series(row) == like and _is_fitted(row)} - there)
    if lost:
        warn(
            f"{len(lost)} of {len(lost) + len(there)} fitted heads are not in "
            f"{', '.join(sorted({str(out / 'heads') for out, _ in kept}))}: {name_some(lost)}. "
            "Cases that only these heads held out are not explained, and other maps are means over "
            "fewer models. The same `spade-bench run` command with --keep-heads all brings them "
            "back"
        )


def _series(row: Row) -> Mapping[str, Any]:
    """What the rows of one experiment share: all of `_condition`, and what was chosen among."""
    names = ("task", "encoder", "head", "protocol", "k_shot")
    return {**_condition(row), **{name: getattr(row, name) for name in names}}


def _is_fitted(row: Row) -> bool:
    """Whether a row is of one fit; an ensemble of folds has no head of its own."""
    return "ensemble" not in row.flags


def _finished(out: Path) -> list[Row]:
    store = ResultStore(out)
    if not store.path.is_file():
        raise DataError("holds no results", where=str(out), fix="Make some with `spade-bench run`")
    rows = [row for row in store.rows() if row.status == "ok"]
    for problem in store.problems:
        warn(problem)
    return rows


def _nothing_kept(folders: Sequence[Path], rows: Iterable[Row]) -> DataError:
    heads = {row.head for row in rows}
    return DataError(
        f"no fitted head was kept of {len(heads)} head(s) that were run",
        where=", ".join(map(str, folders)),
        fix="Repeat the `spade-bench run` command with --keep-heads all",
    )


def _only(
    kept: Sequence[tuple[Path, Row]], name: str, value: str | None, option: str
) -> list[tuple[Path, Row]]:
    """Those with the value that is asked for, or with the only one that there is."""
    values = sorted({getattr(row, name) for _, row in kept})
    if value is None and len(values) > 1:
        raise UserError(
            f"fitted models of several {name}s were kept: {name_some(values, 10)}",
            fix=f"Choose one with {option}",
        )
    wanted = values[0] if value is None else value
    if wanted not in values:
        near = suggest(wanted, values)
        raise UserError(
            f"no head of {name} '{wanted}' was kept",
            where=option,
            fix=f"Did you mean {near}?" if near else f"There are {name_some(values, 10)}",
        )
    return [(out, row) for out, row in kept if getattr(row, name) == wanted]


def _latest(kept: Sequence[tuple[Path, Row]]) -> list[tuple[Path, Row]]:
    """Those that were run alike; of several settings, the latest, which is said."""
    alike: dict[str, list[tuple[Path, Row]]] = {}
    for out, row in kept:
        alike.setdefault(hash_obj(_condition(row)), []).append((out, row))
    latest = max(alike.values(), key=lambda part: max(row.created_utc for _, row in part))
    if len(alike) > 1:
        row = latest[0][1]
        words = ", ".join(
            f"{k}: {row.env[k]}" for k in ("cohort", "splits", "head") if k in row.env
        )
        say(
            f"{row.encoder} {row.head} was run in {len(alike)} ways; the latest is explained "
            f"({words or f'seed {row.seed}'}, seed {row.seed})"
        )
    by_run = {row.run_id: (out, row) for out, row in latest}  # folders may hold the same cell
    return list(by_run.values())


def _experiment(row: Row) -> Mapping[str, Any]:
    """What two encoders must share to be compared."""
    names = ("cohort", "splits", "select", "regions")
    return {"seed": row.seed, **{name: row.inputs.get(name) for name in names}}


def _condition(row: Row) -> Mapping[str, Any]:
    return {"seed": row.seed, "control": row.control, "permutation": row.permutation,
            **{name: row.inputs.get(name) for name in _SETTINGS}}  # fmt: skip
