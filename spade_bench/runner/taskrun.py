"""The cells of one task: fit, predict, score, store."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spade_bench import console
from spade_bench.errors import DataError, SpadeBenchError, UserError
from spade_bench.heads import Fit, Head
from spade_bench.results import (
    Predictions,
    ResultStore,
    Row,
    environment,
    read_predictions,
    write_predictions,
)
from spade_bench.results.rows import now
from spade_bench.runner.cells import Cell, Group, fit_seed
from spade_bench.runner.select import Job, choose, ranking_metric

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.data.casebags import CaseBags
    from spade_bench.runner.prepare import Prepared

__all__ = ["Context", "TaskRun", "make_row"]


@dataclass
class Context:
    """What all tasks of a run share.

    Attributes:
        store: Where rows go.
        finished: Run ids that need not run again.
        device: Name of the device.
        grids: Head -> grid to choose from; no entry without a choice.
        group_by_site: Whether inner folds keep sites together.
        done: Cells that finished.
        skipped: Cells that had been finished before.
        failed: Cells that failed.
        first_error: What went wrong first.
    """

    store: ResultStore
    finished: set[str]
    device: str
    grids: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    group_by_site: bool = False
    done: int = 0
    skipped: int = 0
    failed: int = 0
    first_error: str = ""

    def fail(self, cells: Sequence[Cell], error: Exception, seconds: float) -> None:
        """Store failed rows; the rest of the run goes on."""
        expected = isinstance(error, SpadeBenchError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        console.warn(f"{cells[0].encoder} {cells[0].head} on {cells[0].task} failed: {text}")
        self.store.append(
            [make_row(cell, "failed", self.device, seconds, error=text) for cell in cells]
        )
        self.failed += len(cells)
        self.first_error = self.first_error or text


class TaskRun:
    """The cells of one task; base bags are shared by all rows that start from them."""

    def __init__(self, prepared: Prepared, made: Mapping[str, Head], context: Context) -> None:
        self._prepared = prepared
        self._made = made
        self._context = context
        self._base: dict[int, CaseBags] = {}
        self._bags: tuple[object, CaseBags] | None = None
        self._at = {case.case_id: i for i, case in enumerate(prepared.cohort.cases)}

    def run(self, todo: Sequence[Group]) -> None:
        """Run groups in order: all heads of a row before the next row."""
        total = sum(len(group.cells) for group in todo)
        with console.progress(f"Running {self._prepared.card.name}", total, "cells") as bar:
            for group in todo:
                finished = self._context.finished
                pending = [cell for cell in group.cells if cell.run_id not in finished]
                self._context.skipped += len(group.cells) - len(pending)
                bar.advance(len(group.cells) - len(pending))
                for cells in _together([c for c in pending if not c.members], group.row.fitted):
                    self._fit(group, cells)
                    bar.advance(len(cells), _note(group, cells[0]))
                for cell in (cell for cell in pending if cell.members):
                    self._average(cell)
                    bar.advance(1, _note(group, cell))

    def _fit(self, group: Group, cells: list[Cell]) -> None:
        """Fit cells together; when that fails, one by one, so that only the culprit is lost."""
        started = time.perf_counter()
        try:
            fits, chosen = self._fits(group, cells)
            outputs = self._prepared.kind.n_outputs(self._prepared.cohort)
            bags = self._bags_of(group, cells)
            scores = self._made[group.head].fit_predict(bags, fits, outputs)
        except Exception as error:
            if len(cells) > 1 and not isinstance(error, UserError):
                for cell in cells:
                    self._fit(group, [cell])
                return
            self._context.fail(cells, error, time.perf_counter() - started)
            return
        seconds = (time.perf_counter() - started) / len(cells)
        rows = []
        for cell, own, params in zip(cells, scores, chosen, strict=True):
            try:
                rows.append(self._row(cell, self._predictions(cell, own), seconds, params))
            except DataError as error:  # such as a risk that is not finite
                self._context.fail([cell], error, seconds)
        self._stored(rows)

    def _fits(
        self, group: Group, cells: Sequence[Cell]
    ) -> tuple[list[Fit], list[dict[str, Any] | None]]:
        """Jobs of the head, and the hyperparameters chosen for each; None without a choice."""
        chosen = self._chosen(group, cells)
        fits, params = [], []
        for cell in cells:
            job = self._job(group, cell)
            own = None if chosen is None else chosen.get(job.shared, {})
            test = self._positions(cell.episode.test)
            if self._prepared.kind.card.scores_training:
                test = _join(test, job.train)
            fit = Fit(job.train, job.target, test, job.seed, own or {})
            if len(job.tune):
                fit = replace(fit, tune=job.tune, tune_target=job.tune_target)
            fits.append(fit)
            params.append(own)
        return fits, params

    def _chosen(self, group: Group, cells: Sequence[Cell]) -> dict[Hashable, dict[str, Any]] | None:
        grid = self._context.grids.get(group.head)
        if not grid:
            return None
        prepared = self._prepared
        wanted = {self._job(group, cell).shared for cell in cells}
        # A choice that folds share needs all of them, also those that had finished before.
        jobs = [self._job(group, cell) for cell in group.cells if not cell.members]
        return choose(
            self._made[group.head],
            prepared.kind,
            ranking_metric(prepared.kind, prepared.card),
            grid=grid,
            bags=self._bags_of(group, cells),
            jobs=[job for job in jobs if job.shared in wanted],
            cases=prepared.cohort.cases,
            n_outputs=prepared.kind.n_outputs(prepared.cohort),
            group_by_site=self._context.group_by_site,
            patient_of=prepared.patient_of,
        )

    def _job(self, group: Group, cell: Cell) -> Job:
        prepared, episode = self._prepared, cell.episode
        train, tune = self._positions(episode.train), self._positions(episode.tune)
        target, tune_target = prepared.target[train], prepared.target[tune]
        seed = fit_seed(cell.seed, episode)
        if group.row.permute:
            target = prepared.kind.permute(target, seed)
            tune_target = prepared.kind.permute(tune_target, seed)
        ensemble = any(episode.draw == other.episode.draw for other in group.cells if other.members)
        place = (episode.k_shot, episode.draw, None if ensemble else episode.fold)
        return Job(train, target, tune, tune_target, seed, place)

    def _bags_of(self, group: Group, cells: Sequence[Cell]) -> CaseBags:
        row = group.row
        episodes = [cell.episode for cell in cells] if row.fitted else self._prepared.episodes
        pool = self._prepared.pool(episodes).tolist() if row.fitted else []
        key = id(row.files)
        # Encoders whose features are used as they are share `make`: the files tell them apart.
        wanted = (key, row.make, pool)
        if self._bags is None or self._bags[0] != wanted:
            if key not in self._base:
                self._base[key] = self._prepared.base_bags(row)
            self._bags = wanted, row.make(self._base[key], pool)
        return self._bags[1]

    def _positions(self, case_ids: Iterable[str]) -> NDArray[np.int64]:
        import numpy as np

        return np.array([self._at[case_id] for case_id in case_ids], dtype=np.int64)

    def _predictions(self, cell: Cell, scores: NDArray[np.float64]) -> Predictions:
        """Test predictions, and for survival those on the training cases behind them."""
        prepared, episode = self._prepared, cell.episode
        n = len(episode.test)
        target = prepared.target[self._positions(episode.test)]
        found = Predictions(episode.test, prepared.cohort.classes, target, scores[:n])
        if prepared.patient_of:
            found = replace(found, patients=tuple(prepared.patient_of[c] for c in episode.test))
        if not prepared.kind.card.scores_training:
            return found
        train = prepared.target[self._positions(episode.train)]
        return replace(found, train_ids=episode.train, train_target=train, train_scores=scores[n:])

    def _average(self, cell: Cell) -> None:
        """The ensemble: the mean of what the fold models said, from their stored predictions."""
        started = time.perf_counter()
        try:
            told = [read_predictions(self._context.store.out, m.run_id) for m in cell.members]
            scores = _mean([(p.case_ids, p.scores) for p in told], cell.episode.test)
            if self._prepared.kind.card.scores_training:
                parts = [(p.train_ids, p.train_scores) for p in told]
                scores = _join(scores, _mean(parts, cell.episode.train))
            predictions = self._predictions(cell, scores)
            row = self._row(cell, predictions, time.perf_counter() - started, None)
        except DataError as error:
            self._context.fail([cell], error, time.perf_counter() - started)
            return
        self._stored([row])

    def _row(
        self,
        cell: Cell,
        predictions: Predictions,
        seconds: float,
        params: Mapping[str, Any] | None,
    ) -> Row:
        prepared = self._prepared
        write_predictions(self._context.store.out, cell.run_id, predictions)
        train = None
        if predictions.train_target is not None and predictions.train_scores is not None:
            train = predictions.train_target, predictions.train_scores
        metrics = prepared.kind.score(
            prepared.card.metrics, predictions.target, predictions.scores, train
        )
        events = int(predictions.target[:, 0].sum()) if predictions.survival else None
        n = {"train": len(cell.episode.train), "test": len(predictions.target), "events": events}
        row = make_row(cell, "ok", self._context.device, seconds, metrics=metrics, n=n)
        if params is None:
            return row
        told = ", ".join(f"{k}={v}" for k, v in params.items()) or "defaults: too few cases"
        return replace(row, env={**row.env, "selected": told})

    def _stored(self, rows: Sequence[Row]) -> None:
        self._context.store.append(rows)
        self._context.done += len(rows)


def make_row(cell: Cell, status: Any, device: str, seconds: float, **rest: Any) -> Row:
    """Make the row of a cell."""
    episode = cell.episode
    return Row(
        run_id=cell.run_id,
        status=status,
        encoder=cell.encoder,
        task=cell.task,
        head=cell.head,
        protocol=episode.protocol,
        k_shot=episode.k_shot,
        draw=episode.draw,
        fold=episode.fold,
        seed=cell.seed,
        inputs=cell.inputs,
        flags=cell.flags,
        env=environment(device),
        seconds=round(seconds, 4),
        created_utc=now(),
        **rest,
    )


def _together(cells: Sequence[Cell], fitted: bool) -> list[list[Cell]]:
    """Cells that are trained together: of one shot and, for fitted features, one test set."""
    out: dict[Any, list[Cell]] = {}
    for cell in cells:
        test = cell.episode.test if fitted else ()
        out.setdefault((cell.episode.k_shot, test), []).append(cell)
    return list(out.values())


def _note(group: Group, cell: Cell) -> str:
    episode = cell.episode
    place = f" k={episode.k_shot}" if episode.k_shot else ""
    return f"{group.row.label} {group.head}{place}"


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
        for case_id, own in zip(ids, scores, strict=True):
            rows[case_id].append(own)
    return np.array([np.mean(rows[case_id], axis=0) for case_id in case_ids])
