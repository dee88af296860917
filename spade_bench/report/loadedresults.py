"""Stored results as one object: tables, predictions, comparisons and figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import UserError
from spade_bench.files import hash_obj
from spade_bench.keywords import says_keywords
from spade_bench.registry import suggest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from spade_bench.report.bylevels import LevelRow
    from spade_bench.report.differences import Difference
    from spade_bench.report.pictures import Picture
    from spade_bench.report.series import Series
    from spade_bench.report.values import Resampler
    from spade_bench.results import Predictions, Row
    from spade_bench.results.spotpredictions import SpotPredictions

__all__ = ["KINDS", "MORE_KINDS", "Results"]

KINDS = ("curve", "cv", "dots", "heat", "ranks", "roc", "pr", "calibration", "survival", "forest")
"""Pictures of classes and survival that :meth:`Results.plot` draws."""
MORE_KINDS = ("scatter", "genes", "spots")
"""Pictures of measured values, and of expression."""

_NEEDED = {
    "cv": "Run cross-validation, and choose a task and head that were run",
    "dots": "Choose a task that was run",
    "heat": "Run two encoders or more on the same task",
    "ranks": "Run two encoders or more on the same two tasks or more",
    "roc": "Choose a task of two classes",
    "pr": "Choose a task of two classes",
    "curve": "Run the few-shot protocol, and choose a task and head that were run",
    "forest": "Choose a task and head that both encoders were run on",
    "scatter": "Choose a task of measured values",
    "calibration": "Choose a task of two classes",
    "survival": "Choose a survival task",
    "genes": "Choose a task of expression",
    "spots": "Choose a task of expression and a head that looks at images",
}
_PLACE = ("encoder", "task", "head", "protocol", "k_shot", "draw", "fold")


class Results:
    """The results of one folder or several, read when they are first asked for.

    Every number is rebuilt from the stored case-level predictions.

    Args:
        folders: Folders that `run` or `evaluate` wrote.
        keep: Whatever must live as long as the results, such as a temporary folder.

    Raises:
        DataError: When a folder holds no results.
    """

    def __init__(self, folders: Sequence[Path], *, keep: object = None) -> None:
        if not folders:
            raise UserError("no folder of results is given")
        self.folders = tuple(folders)
        self.problems: list[str] = []
        """Sentences on stored results that are damaged and were left out."""
        self._keep = keep
        self._predictions: dict[str, Predictions] = {}
        self.series  # noqa: B018 - what cannot be read is said here and not later

    def __repr__(self) -> str:
        cells = sum(len(one.rows) for one in self.series)
        finished = {one.encoder for one in self.series if one.rows and not one.control}
        names = ", ".join(sorted(finished))
        places = ", ".join(map(str, self.folders))
        return f"<Results: {cells} finished cells of {names} in {places}>"

    @cached_property
    def series(self) -> list[Series]:
        """The draws or folds of each encoder, task, head and number of shots."""
        from spade_bench.memory import without_cycle_search
        from spade_bench.report.series import collect

        with without_cycle_search():
            return collect(self.folders, self.problems, self._predictions)

    @cached_property
    def resampler(self) -> Resampler:
        """Evaluates metrics on the stored predictions, each once."""
        from spade_bench.report.values import Resampler

        return Resampler(self.folders[0], stored=self._predictions)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per cell: where it belongs, its status and its metrics.

        A metric that a task does not have, or that is undefined, is NaN.
        """
        import pandas as pd

        rows = [(row, one) for one in self.series for row in (*one.rows, *one.failed)]
        names = list(dict.fromkeys(name for row, _ in rows for name in row.metrics))
        table = pd.DataFrame(
            [{**_cell(row, names), "condition": ", ".join(one.condition)} for row, one in rows]
        )
        return table.sort_values([*_PLACE], kind="stable", ignore_index=True)

    @says_keywords
    def predictions(self, *, control: str | None = "", **wanted: Any) -> pd.DataFrame:
        """Return a row per case and cell: its true label or outcome, and what was predicted.

        Args:
            control: Name of a control; empty for the encoders themselves, None for all.
            **wanted: Values that cells must have, such as `encoder="spade"`, `task=`, `head=`,
                `protocol=`, `k_shot=8`, `draw=0`, `fold=`.

        Returns:
            Where the cell belongs, `case_id`, and for classes `label` and a column
            `score:CLASS` per class; for regression `value` and `predicted`; for survival
            `event`, `duration_days` and `risk`; for expression a row per spot and gene, with
            `barcode`, `observed` and `predicted`.

        Raises:
            UserError: When a column is unknown or no cell has these values.
        """
        import pandas as pd

        unknown = [name for name in wanted if name not in _PLACE]
        if unknown:
            raise UserError(
                f"cells have no '{unknown[0]}'", fix=f"Use {', '.join((*_PLACE, 'control'))}"
            )
        if control is not None:
            wanted["control"] = control
        parts = []
        for one in self.series:
            for row in one.rows:
                place = {name: getattr(row, name) for name in _PLACE}
                place |= {"control": one.control, "condition": ", ".join(one.condition)}
                if all(place[name] == value for name, value in wanted.items()):
                    parts.append(_cases(self.resampler.predictions(row), place))
        if not parts:
            values = ", ".join(f"{name}={value!r}" for name, value in wanted.items())
            raise UserError(
                f"no finished cell has {values}", fix="See what there is with to_dataframe()"
            )
        return pd.concat(parts, ignore_index=True)

    @says_keywords
    def genes(self, metric: str = "pearson", *, control: str | None = "") -> pd.DataFrame:
        """Return a row per gene of every encoder and head on tasks of expression, best first.

        Args:
            metric: A metric of expression.
            control: Name of a control; empty for the encoders themselves, None for all.

        Returns:
            Where the series belongs, `gene`, the mean over the folds that predicted it with its
            95% interval, `folds`, `constant_folds` (left out of the mean), and `units`: how many
            `patients`, or `sections` of one patient, the interval is over.

        Raises:
            UserError: When no finished cell is of expression.
        """
        import pandas as pd

        from spade_bench.report.spotvalues import gene_scores, units_of

        rows = []
        for one in self.series:
            of_rows = [self.resampler.predictions(row) for row in one.rows]
            unlike = control is not None and one.control != control
            if unlike or not of_rows or of_rows[0].spots is None:
                continue
            place = {name: getattr(one, name) for name in ("encoder", "task", "head", "protocol")}
            what = units_of(of_rows)[1]
            for score in gene_scores(of_rows, metric):
                known = score.interval
                rows.append(
                    {
                        **place,
                        "control": one.control,
                        "condition": ", ".join(one.condition),
                        "gene": score.gene,
                        metric: float("nan") if known is None else known.mean,
                        "ci_low": float("nan") if known is None else known.low,
                        "ci_high": float("nan") if known is None else known.high,
                        "folds": len(score.folds),
                        "constant_folds": score.constant,
                        "units": score.units,
                        "covers": what,
                    }
                )
        if not rows:
            raise UserError("no finished cell here is of expression", fix="Run a task hest:PATH")
        return pd.DataFrame(rows)

    @says_keywords
    def leaderboard(self, metric: str = "primary") -> pd.DataFrame:
        """Return means over draws or folds with 95% intervals, controls beside them.

        Args:
            metric: `primary`, `all`, or the name of a metric.

        Raises:
            UserError: When no task has the metric.
        """
        import pandas as pd

        from spade_bench.report.leaderboard import leaderboard

        self.check_metric(metric)
        rows = leaderboard(self.series, self.resampler, metric)
        return pd.DataFrame([row.as_dict() for row in rows])

    @says_keywords
    def compare(self, a: str, b: str, metric: str = "primary") -> pd.DataFrame:
        """Compare two encoders, a minus b, on the same episodes and test cases.

        Args:
            a: First encoder.
            b: Second encoder.
            metric: `primary`, `all`, or the name of a metric.

        Returns:
            A row per task, head and number of shots; `attrs["verdict"]` says in a sentence what
            it amounts to.

        Raises:
            DataError: When an encoder has no results or the two share no episode.
        """
        import pandas as pd

        _, shown, sentence = self.differences(a, b, metric)
        table = pd.DataFrame([difference.as_dict() for difference in shown])
        table.attrs["verdict"] = sentence
        return table

    @says_keywords
    def differences(
        self, a: str, b: str, metric: str = "primary"
    ) -> tuple[list[Difference], list[Difference], str]:
        """Return all differences of two encoders, those of a metric, and the verdict.

        See :meth:`compare`.
        """
        from spade_bench.report.differences import compare
        from spade_bench.report.leaderboard import chosen
        from spade_bench.report.verdict import verdict

        self.check_metric(metric)
        every = compare(self.series, self.resampler, a, b)
        metrics = {one.task: one.metrics for one in self.series}
        shown = [one for one in every if one.metric in chosen(metrics[one.task], metric)]
        return every, shown, verdict(every)

    @says_keywords
    def by(
        self, column: str, *, metric: str = "primary", table: str | Path | None = None
    ) -> pd.DataFrame:
        """Return a metric within each level of a column of the cohort table.

        Args:
            column: Such as `site`, `sex` or `stage`; many different numbers are cut into quarters.
            metric: `primary`, or the name of a metric.
            table: The table, where it is not where the run had it.

        Returns:
            A row per encoder and level, with the difference to all other levels.

        Raises:
            DataError: When no table has the column.
            UserError: When no task has test cases of two levels.
        """
        import pandas as pd

        return pd.DataFrame([row.as_dict() for row in self.levels(column, metric, table)])

    @says_keywords
    def levels(
        self, column: str, metric: str = "primary", table: str | Path | None = None
    ) -> list[LevelRow]:
        """Return what :meth:`by` shows, row by row."""
        from spade_bench.report.bylevels import by_levels, read_levels

        self.check_metric(metric)
        path = None if table is None else Path(table)
        levels = read_levels(self.folders, column, path, self.problems)
        return by_levels(self.series, self.resampler, column, levels, metric)

    def coverage(self) -> pd.DataFrame:
        """Return what is missing: a row per task, encoder and head that is not complete.

        `planned` cells are those that `run` set out to do; `absent` ones have no row at all.
        """
        import pandas as pd

        from spade_bench.results.plans import read_plans

        finished = {row.run_id for one in self.series for row in one.rows}
        failed = {row.run_id for one in self.series for row in one.failed}
        rows: dict[tuple[str, str], tuple[str, str, str, int, int, int, int]] = {}
        for folder in self.folders:
            for plan in read_plans(folder, self.problems):
                for name, run_ids in plan.cells.items():
                    encoder, _, head = name.rpartition(", ")
                    done = len(finished.intersection(run_ids))
                    lost = len(failed.intersection(run_ids) - finished)
                    counts = (len(run_ids), done, lost, len(run_ids) - done - lost)
                    key = (plan.task, hash_obj(list(run_ids)))  # several folders may share a plan
                    rows[key] = (plan.task, encoder, head, *counts)
        columns = ["task", "encoder", "head", "planned", "finished", "failed", "absent"]
        table = pd.DataFrame(list(rows.values()), columns=columns)
        return table[table["finished"] < table["planned"]].reset_index(drop=True)

    @says_keywords
    def plot(
        self,
        kind: str = "curve",
        *,
        task: str | None = None,
        head: str | None = None,
        protocol: str | None = None,
        condition: str | None = None,
        a: str | None = None,
        b: str | None = None,
    ) -> Figure:
        """Draw one picture.

        Args:
            kind: `curve` (metric against shots), `cv` (folds), `dots` and `heat` (encoders x
                tasks), `ranks` (mean ranks, and which no test tells apart), `roc`, `pr` and
                `calibration` of binary tasks, `scatter` (predicted against true values),
                `survival` (Kaplan-Meier curves by risk), `genes` (genes ranked) and `spots`
                (sections observed and predicted) of expression, or `forest` (a minus b on every
                task).
            task: Which task, where there are several.
            head: Which head, where there are several.
            protocol: Which protocol, where there are several.
            condition: What sets results apart, where there are several: the words that tables
                show, such as `3 folds`, or some of them.
            a: First encoder, for `forest`.
            b: Second encoder, for `forest`.

        Returns:
            A matplotlib figure, ready for `savefig`.

        Raises:
            UserError: When the kind is unknown, nothing can be drawn, or several pictures can.
        """
        known = (*KINDS, *MORE_KINDS)
        if kind not in known:
            near = suggest(kind, known)
            raise UserError(
                f"there is no picture '{kind}'",
                fix=f"Did you mean {near}?" if near else f"Use {', '.join(known)}",
            )
        pictures = self.pictures(
            kind, task=task, head=head, protocol=protocol, condition=condition, a=a, b=b
        )
        if not pictures:
            raise UserError(f"nothing here can be drawn as '{kind}'", fix=_NEEDED[kind])
        if len(pictures) > 1:
            names = "; ".join(", ".join(picture.words) for picture in pictures)
            raise UserError(
                f"{len(pictures)} pictures fit ({names})",
                fix="Choose one with task=, head=, protocol= or condition=",
            )
        return pictures[0].draw()

    def pictures(
        self,
        kind: str,
        *,
        task: str | None = None,
        head: str | None = None,
        protocol: str | None = None,
        condition: str | None = None,
        a: str | None = None,
        b: str | None = None,
    ) -> list[Picture]:
        """Return every picture of a kind, not drawn yet; see :meth:`plot`."""
        from spade_bench.report.differences import compare
        from spade_bench.report.figures import (
            calibration_plot,
            curves,
            foldplot,
            forest,
            geneplots,
            grids,
            rankdiagram,
            rocpr,
            scatterplot,
            survival_plot,
        )
        from spade_bench.report.leaderboard import leaderboard
        from spade_bench.report.pictures import Look

        look = Look.of(self.series)
        wanted = {"task": task, "head": head, "protocol": protocol}
        shown = [
            one
            for one in self.series
            if all(value in (None, getattr(one, name)) for name, value in wanted.items())
            and (condition is None or condition in ", ".join(one.condition))
        ]
        if kind == "forest":
            if not a or not b:
                raise UserError("a forest plot compares two encoders", fix="Give a= and b=")
            return [forest.forest_picture(compare(shown, self.resampler, a, b), look)]
        if kind == "curve":
            rows = leaderboard(shown, self.resampler, "primary")
            return curves.curve_pictures(rows, look)
        if kind in rocpr.KINDS:
            return rocpr.rocpr_pictures(kind, shown, self.resampler, look)
        of_series = {
            "cv": foldplot.fold_pictures,
            "dots": grids.dot_pictures,
            "heat": grids.heat_pictures,
            "ranks": rankdiagram.rank_pictures,
            "scatter": scatterplot.scatter_pictures,
            "calibration": calibration_plot.calibration_pictures,
            "survival": survival_plot.survival_pictures,
            "genes": geneplots.gene_pictures,
            "spots": geneplots.spot_pictures,
        }
        return of_series[kind](shown, self.resampler, look)

    def to_html(self, path: str | Path, *, maps: str | Path | None = None) -> None:
        """Write the whole report as one page that opens in any browser and needs no network.

        Args:
            path: The file.
            maps: Folder that `explain` wrote, to which the worst-predicted cases are linked.

        Raises:
            DataError: When the folder of maps is not there or empty.
        """
        from spade_bench.report.page.reportpage import write_page

        write_page(self, Path(path), None if maps is None else Path(maps))

    def check_metric(self, metric: str, more: Sequence[str] = ()) -> None:
        """Refuse a metric that no task here has.

        Args:
            metric: `primary`, `all`, or a name.
            more: Names that are known beside those of the tasks.

        Raises:
            UserError: Naming the nearest one.
        """
        known = {*more, *(name for one in self.series for name in one.metrics)}
        if metric in {"all", "primary", *known}:
            return
        if not known:
            raise UserError(
                f"no metric '{metric}' here, because no cell has finished",
                where="--metric",
                fix="Leave --metric out to see why, then repeat the `spade-bench run` command",
            )
        near = suggest(metric, known)
        raise UserError(
            f"no metric '{metric}' here",
            where="--metric",
            fix=f"Did you mean {near}?"
            if near
            else f"Use primary, all, {', '.join(sorted(known))}",
        )


def _cell(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    values = {name: row.metrics.get(name) for name in metrics}
    counts = {f"n_{name}": row.n.get(name) for name in ("train", "test", "events")}
    return {
        **{name: getattr(row, name) for name in _PLACE},
        "status": row.status,
        **{name: float("nan") if value is None else value for name, value in values.items()},
        **counts,
        "control": row.control,
        "control_of": row.control_of,
        "identity": row.identity,
        "flags": row.flags,
        "seconds": row.seconds,
        "error": row.error,
        "run_id": row.run_id,
    }


def _spots(spots: SpotPredictions, place: dict[str, Any]) -> pd.DataFrame:
    """A row per spot and gene."""
    import numpy as np
    import pandas as pd

    m, g = spots.observed.shape
    sections = np.asarray(spots.sections, dtype=object)[spots.section]  # (m,)
    table = pd.DataFrame(
        {
            "case_id": np.repeat(sections, g),
            "patient_id": np.repeat(np.asarray(spots.patients, dtype=object)[spots.section], g),
            "barcode": np.repeat(np.asarray(spots.barcodes, dtype=object), g),
            "gene": np.tile(np.asarray(spots.genes, dtype=object), m),
            "observed": spots.observed.ravel(),
            "predicted": spots.predicted.ravel(),
        }
    )
    for at, (name, value) in enumerate(place.items()):
        table.insert(at, name, value)
    return table


def _cases(predictions: Predictions, place: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    if predictions.spots is not None:
        return _spots(predictions.spots, place)
    table = pd.DataFrame({"case_id": list(predictions.case_ids)})
    if predictions.kind == "regression":
        table["value"] = predictions.target
        table["predicted"] = predictions.scores[:, 0]
    elif predictions.survival:
        table["event"] = predictions.target[:, 0].astype(bool)
        table["duration_days"] = predictions.target[:, 1]
        table["risk"] = predictions.scores[:, 0]
    else:
        table["label"] = [predictions.classes[i] for i in predictions.target]
        for at, name in enumerate(predictions.classes):
            table[f"score:{name}"] = predictions.scores[:, at]
    if predictions.patients:
        table["patient_id"] = list(predictions.patients)
    for at, (name, value) in enumerate(place.items()):
        table.insert(at, name, value)
    return table
