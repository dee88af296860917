"""The cells of one task: fit, predict, score, store."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.calibration.timings import fit_pace, reading_pace
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.cells import Cell, VariantCells, fit_seed, shuffle_seed
from spade_bench.evaluation.hyperparameters import Job, choose, ranking_metric
from spade_bench.evaluation.runcontext import Context, make_row, work_key
from spade_bench.heads import Fit, FittedHead, Head, checked_scores, fit_predict
from spade_bench.results import (
    Predictions,
    Row,
    write_predictions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.evaluation.taskpreparation import PreparedTask
    from spade_bench.evaluation.variants import VariantKey
    from spade_bench.features.casebags import CaseBags

__all__ = ["TaskRun"]


@dataclass(frozen=True)
class Work:
    """A cell to fit, and the row of the table that it belongs to."""

    row: VariantCells
    cell: Cell


class TaskRun:
    """The cells of one task; base bags are shared by all rows that start from them."""

    def __init__(self, prepared: PreparedTask, made: Mapping[str, Head], context: Context) -> None:
        self._prepared = prepared
        self._made = made
        self._context = context
        wanted = {row.key.files: prepared.files_hash(row) for row in prepared.rows}
        there = {key: bags for key, bags in context.base.items() if key in wanted.values()}
        self._keys, context.base = wanted, there
        self._bags: tuple[tuple[VariantKey, list[int]], CaseBags] | None = None
        self._at = {case.case_id: i for i, case in enumerate(prepared.cohort.cases)}

    def run(self, todo: Sequence[VariantCells]) -> None:
        """Run rows of the table, those over the same bags together: they train in one pass."""
        context, cells = self._context, [cell for row in todo for cell in row.cells]
        context.skipped += sum(cell.run_id in context.finished for cell in cells)
        done = sum(map(context.is_done, cells))
        with (
            console.progress(
                f"Running {self._prepared.card.name}", len(cells), "cells", done
            ) as bar,
            closing(context.in_turn(_over_the_same_bags(todo), _cells, _key, bar)) as turns,
        ):
            for alike in turns:
                work = [Work(row, cell) for row in alike for cell in row.cells]
                pending = [one for one in work if context.is_open(one.cell)]
                for part in _together([one for one in pending if not one.cell.members]):
                    self._fit(part)
                    bar.advance(len(part), _note(part[0]))
                means = [one for one in pending if one.cell.members]
                if means:
                    self._average([one.cell for one in means])
                    bar.advance(len(means), _note(means[0]))

    def timed(self, todo: Sequence[VariantCells]) -> dict[str, float]:
        """Say how long rows may take by each head, from small fits on some of their cases.

        Returns:
            Head -> seconds of its cells that are to be fitted, reading included once for each row.
        """
        paces, bags = self._context.paces, None
        reading: dict[VariantKey, float] = {}
        out: dict[str, float] = {}
        for row in todo:
            left = [cell for cell in row.cells if not self._context.is_done(cell)]
            left = [cell for cell in left if not cell.members]
            if not left:
                continue
            key, name = row.variant.key, row.head
            if bags is None or not (row.variant.fitted or key in reading):
                bags = self._bags_of([Work(row, left[0])])
                reading[key] = reading_pace(bags)
            outputs = self._prepared.kind.n_outputs(self._prepared.cohort)
            like = name, bags.dim, outputs, self._prepared.kind.card.name
            if like not in paces:
                largest = max(left, key=lambda cell: len(cell.episode.train))
                job = self._job(Work(row, largest))
                fit = Fit(job.train, job.target, self._positions(largest.episode.test), job.seed)
                paces[like] = fit_pace(self._made[name], name, bags, fit, outputs)
            each = reading.get(key, max(reading.values()))
            fits = sum(paces[like].seconds(len(cell.episode.train)) for cell in left)
            out[name] = out.get(name, 0.0) + each * len(self._at) + fits
        return out

    def _fit(self, work: Sequence[Work]) -> None:
        """Fit cells together; when that fails, in halves, so that only the culprit is lost.

        Bags that cannot be made fail all of them.
        """
        started = time.perf_counter()
        cells = [one.cell for one in work]
        name = cells[0].head
        bags: CaseBags | None = None
        try:
            bags = self._bags_of(work)
            fits, chosen = self._fits(work, bags)
            outputs = self._prepared.kind.n_outputs(self._prepared.cohort)
            keep = self._keep(cells)
            scores = fit_predict(self._made[name], bags, fits, outputs, name=name, keep=keep)
        except Exception as error:
            if bags is not None and len(work) > 1 and _may_be_of_one_cell(error):
                middle = len(work) // 2
                self._fit(work[:middle])
                self._fit(work[middle:])
                return
            self._drop_heads(cells)
            self._context.fail(cells, error, time.perf_counter() - started)
            return
        seconds = (time.perf_counter() - started) / len(cells)
        rows: list[tuple[Row, Predictions]] = []
        for cell, fit, raw, params in zip(cells, fits, scores, chosen, strict=True):
            try:
                predictions = self._predictions(cell, self._checked(cell, raw, len(fit.test)))
                if cell.run_id not in self._context.finished:
                    row = self._row(cell, predictions, seconds, params)
                    rows.append((row, predictions))
                elif self._context.keeper is not None:
                    stored = self._context.finished.predictions(cell.run_id)
                    self._context.keeper.settle(cell, predictions, stored)
            except DataError as error:  # such as predictions that are not finite
                self._drop_heads([cell])
                self._context.fail([cell], error, seconds)
        self._stored(rows)

    def _keep(self, cells: Sequence[Cell]) -> Callable[[int, FittedHead], None] | None:
        """What takes the fitted heads of cells; None where none of them is to be kept."""
        keeper, classes = self._context.keeper, self._prepared.cohort.classes
        if keeper is None or not any(map(keeper.wants, cells)):
            return None

        def keep(index: int, fitted: FittedHead) -> None:
            cell = cells[index]
            if keeper.wants(cell):
                keeper.keep(cell, fitted, classes, hold=cell.run_id in self._context.finished)

        return keep

    def _drop_heads(self, cells: Sequence[Cell]) -> None:
        if self._context.keeper is not None:
            for cell in cells:
                self._context.keeper.drop(cell)

    def _checked(self, cell: Cell, scores: Any, n: int) -> NDArray[np.float64]:
        kind, cohort = self._prepared.kind, self._prepared.cohort
        return checked_scores(
            scores,
            n,
            kind.n_outputs(cohort),
            name=cell.head,
            probabilities=kind.card.head_kind == "classification",
        )

    def _fits(
        self, work: Sequence[Work], bags: CaseBags
    ) -> tuple[list[Fit], list[dict[str, Any] | None]]:
        """Jobs of the head, and the hyperparameters chosen for each; None without a choice."""
        chosen = self._chosen(work, bags)
        fits, params = [], []
        for one in work:
            job = self._job(one)
            point = None if chosen is None else chosen.get(job.shared, {})
            test = self._positions(one.cell.episode.test)
            if self._prepared.kind.card.scores_training:
                test = _join(test, job.train)
            fit = Fit(job.train, job.target, test, job.seed, point or {})
            if len(job.tune):
                fit = replace(fit, tune=job.tune, tune_target=job.tune_target)
            fits.append(fit)
            params.append(point)
        return fits, params

    def _chosen(
        self, work: Sequence[Work], bags: CaseBags
    ) -> dict[Hashable, dict[str, Any]] | None:
        head = work[0].row.head
        grid = self._context.grids.get(head)
        if not grid:
            return None
        prepared = self._prepared
        wanted = {self._job(one).shared for one in work}
        # A choice that folds share needs all of them, also those that had finished before.
        rows = {one.row.place: one.row for one in work}.values()
        jobs = [
            self._job(Work(row, cell)) for row in rows for cell in row.cells if not cell.members
        ]
        return choose(
            self._made[head],
            prepared.kind,
            ranking_metric(prepared.kind, prepared.card),
            grid=grid,
            bags=bags,
            jobs=[job for job in jobs if job.shared in wanted],
            cases=prepared.cohort.cases,
            n_outputs=prepared.kind.n_outputs(prepared.cohort),
            group_by_site=self._context.group_by_site,
            patient_of=prepared.patient_of,
        )

    def _job(self, one: Work) -> Job:
        prepared, row, episode = self._prepared, one.row, one.cell.episode
        train, tune = self._positions(episode.train), self._positions(episode.tune)
        target, tune_target = prepared.target[train], prepared.target[tune]
        seed = fit_seed(one.cell.seed, episode)
        permute = row.variant.permute
        if permute:
            shuffle = shuffle_seed(seed, one.cell.permutation)
            target = prepared.kind.permute(target, shuffle)
            tune_target = prepared.kind.permute(tune_target, shuffle)
        ensemble = any(episode.draw == other.episode.draw for other in row.cells if other.members)
        fold = None if ensemble else episode.fold
        place = (permute, one.cell.permutation, episode.k_shot, episode.draw, fold)
        return Job(train, target, tune, tune_target, seed, place)

    def _bags_of(self, work: Sequence[Work]) -> CaseBags:
        variant = work[0].row.variant
        pool: list[int] = []
        if variant.fitted:
            pool = self._prepared.pool([one.cell.episode for one in work]).tolist()
        wanted = (variant.key, pool)
        if self._bags is None or self._bags[0] != wanted:
            base, key = self._context.base, self._keys[variant.key.files]
            self._context.memory.turn()
            if key not in base:
                base[key] = self._prepared.base_bags(variant, self._context.memory)
            self._bags = wanted, variant.make(base[key], pool)
        return self._bags[1]

    def _positions(self, case_ids: Iterable[str]) -> NDArray[np.int64]:
        import numpy as np

        return np.array([self._at[case_id] for case_id in case_ids], dtype=np.int64)

    def _predictions(self, cell: Cell, scores: NDArray[np.float64]) -> Predictions:
        """Test predictions, and for survival those on the training cases behind them."""
        prepared, episode = self._prepared, cell.episode
        n = len(episode.test)
        target = prepared.target[self._positions(episode.test)]
        tested = Predictions(episode.test, prepared.cohort.classes, target, scores[:n])
        if prepared.patient_of:
            tested = replace(tested, patients=tuple(prepared.patient_of[c] for c in episode.test))
        if not prepared.kind.card.scores_training:
            return tested
        train = prepared.target[self._positions(episode.train)]
        return replace(tested, train_ids=episode.train, train_target=train, train_scores=scores[n:])

    def _average(self, cells: Sequence[Cell]) -> None:
        """The ensembles: the mean of what the fold models said, from their stored predictions."""
        rows: list[tuple[Row, Predictions]] = []
        for cell in cells:
            started = time.perf_counter()
            try:
                predictions = self._mean_of_folds(cell)
                row = self._row(cell, predictions, time.perf_counter() - started, None)
                rows.append((row, predictions))
            except DataError as error:
                self._context.fail([cell], error, time.perf_counter() - started)
        self._stored(rows)

    def _mean_of_folds(self, cell: Cell) -> Predictions:
        of_folds = [self._context.finished.predictions(member.run_id) for member in cell.members]
        scores = _mean([(p.case_ids, p.scores) for p in of_folds], cell.episode.test)
        if self._prepared.kind.card.scores_training:
            parts = [(p.train_ids, p.train_scores) for p in of_folds]
            scores = _join(scores, _mean(parts, cell.episode.train))
        return self._predictions(cell, scores)

    def _row(
        self,
        cell: Cell,
        predictions: Predictions,
        seconds: float,
        params: Mapping[str, Any] | None,
    ) -> Row:
        prepared = self._prepared
        train = None
        if predictions.train_target is not None and predictions.train_scores is not None:
            train = predictions.train_target, predictions.train_scores
        metrics = prepared.kind.score(
            prepared.card.metrics, predictions.target, predictions.scores, train
        )
        events = int(predictions.target[:, 0].sum()) if predictions.survival else None
        n = {"train": len(cell.episode.train), "test": len(predictions.target), "events": events}
        if cell.episode.pool is not None:
            n["pool"] = cell.episode.pool
        row = make_row(
            cell,
            "ok",
            self._context.device,
            seconds,
            metrics=metrics,
            n=n,
        )
        if params is None:
            return row
        selected = ", ".join(f"{k}={v}" for k, v in params.items())
        selected = selected or "defaults: too few cases"
        return replace(row, env={**row.env, "selected": selected})

    def _stored(self, done: Sequence[tuple[Row, Predictions]]) -> None:
        """Store cells: the predictions of each encoder in one file, and then the rows."""
        parts: dict[tuple[str, str, str], dict[str, Predictions]] = {}
        for row, predictions in done:
            parts.setdefault((row.encoder, row.task, row.head), {})[row.run_id] = predictions
        digests: dict[str, str] = {}
        for place, cells in parts.items():
            digests |= write_predictions(self._context.store.out, *place, cells)
        rows = [replace(row, predictions_sha256=digests[row.run_id]) for row, _ in done]
        self._context.store.append(rows)
        self._context.finished.add(rows)
        self._context.done += len(rows)


def _may_be_of_one_cell(error: Exception) -> bool:
    """Whether other cells may finish without the one that fails: settings fail all of them."""
    return isinstance(error, DataError) or not isinstance(error, UserError)


def _over_the_same_bags(todo: Sequence[VariantCells]) -> list[list[VariantCells]]:
    """An encoder's rows with one head over the same bags, such as those with permuted labels.

    What trains together may differ in the last bit from what trains alone, so which other encoders
    a run has does not count.
    """
    out: dict[tuple[str, str, VariantKey], list[VariantCells]] = {}
    for row in todo:
        variant = row.variant
        owner = variant.control_of or variant.label
        out.setdefault((row.head, owner, variant.key), []).append(row)
    return list(out.values())


def _together(work: Sequence[Work]) -> list[list[Work]]:
    """Cells that are trained together: all; of features fitted to a pool, those of one test set."""
    out: dict[tuple[str, ...], list[Work]] = {}
    for one in work:
        out.setdefault(one.cell.episode.test if one.row.variant.fitted else (), []).append(one)
    return list(out.values())


def _cells(alike: Sequence[VariantCells]) -> list[Cell]:
    return [cell for row in alike for cell in row.cells]


def _key(alike: Sequence[VariantCells]) -> str:
    return work_key(alike[0].cells[0], alike[0].variant.key.steps)


def _note(one: Work) -> str:
    return f"{one.row.variant.label} {one.row.head}"


def _join(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    return np.concatenate([first, second])


def _mean(
    parts: Iterable[tuple[Sequence[str], Any]], case_ids: Sequence[str]
) -> NDArray[np.float64]:
    """Mean prediction of each case over the models that said something about it."""
    import numpy as np

    rows: dict[str, list[NDArray[np.float64]]] = {case_id: [] for case_id in case_ids}
    for ids, scores in parts:
        for case_id, prediction in zip(ids, scores, strict=True):
            rows[case_id].append(prediction)
    return np.array([np.mean(rows[case_id], axis=0) for case_id in case_ids])
