"""From encoders and a table to measured robustness, and the files that keep it."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import UserError
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.evaluation.taskpreparation import prepare
from spade_bench.features.bags import FeatureFolders
from spade_bench.files import write_json
from spade_bench.registry import kinds
from spade_bench.robustness.assessment import Assessed, Gap, assess
from spade_bench.robustness.pathorob import is_pathorob, pathorob_points
from spade_bench.robustness.sitepoints import Kind, Points, PointSet, Sample, cohort_points

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spade_bench.report.pictures import Picture
    from spade_bench.workspace import Workspace

__all__ = ["Question", "Robustness", "measure", "measure_given"]

PER_SLIDE = 30
_KINDS: tuple[Kind, ...] = ("slides", "patches")


@dataclass(frozen=True)
class Question:
    """What points are compared, and how.

    Attributes:
        by: Column of the table that names the centres.
        points: `slides`, the mean patch of each, or sampled `patches`.
        per_slide: Most patches of a slide.
        k: Number of neighbours; None leaves it to the number of points.
    """

    by: str = "site"
    points: str = "slides"
    per_slide: int = PER_SLIDE
    k: int | None = None


class Robustness:
    """How robust encoders are to the centre, at the same points of one cohort.

    Args:
        points: The points.
        rows: One result per encoder and control.
        gaps: Paired differences.
        margins: Margins of usable anchors, by encoder.
        simulated: Whether the data come from the simulator.
    """

    def __init__(
        self,
        points: PointSet,
        rows: Sequence[Assessed],
        gaps: Sequence[Gap],
        margins: Mapping[str, NDArray[np.float64]],
        *,
        simulated: bool = False,
    ) -> None:
        self.points, self.rows, self.gaps = points, tuple(rows), tuple(gaps)
        self.margins, self.simulated = dict(margins), simulated

    def __repr__(self) -> str:
        names = ", ".join(row.encoder for row in self.rows if not row.control)
        return f"<Robustness: {names} at {len(self.points.names)} {self.points.kind}>"

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row per encoder and control, margins and probes as columns of their own."""
        import pandas as pd

        rows = [row.as_dict() for row in self.rows]
        table = pd.json_normalize(rows, sep="_")
        return table.drop(columns=["margins", "performance_drop"], errors="ignore")

    def differences(self) -> pd.DataFrame:
        """Return the paired differences of robustness indices, a row per pair."""
        import pandas as pd

        columns = ["a", "b", "mean", "ci_low", "ci_high", "p", "p_adjusted"]
        return pd.DataFrame([gap.as_dict() for gap in self.gaps], columns=columns)

    @property
    def crossing(self) -> dict[str, dict[str, int]]:
        """Number of points of each class at each centre."""
        counts = Counter(zip(self.points.centre.tolist(), self.points.label.tolist(), strict=True))
        return {
            centre: {label: counts[i, j] for j, label in enumerate(self.points.labels)}
            for i, centre in enumerate(self.points.centres)
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything ready for JSON."""
        return {
            "by": self.points.by,
            "points": self.points.kind,
            "classes": list(self.points.labels),
            "crossing": self.crossing,
            "simulated": self.simulated,
            "rows": [row.as_dict() for row in self.rows],
            "differences": [gap.as_dict() for gap in self.gaps],
        }

    def picture(self) -> Picture:
        """Return the picture of indices and margins, not drawn yet."""
        from spade_bench.robustness.robustnessplot import robustness_picture

        return robustness_picture(self.rows, self.margins, self.points, self.simulated)

    def plot(self) -> Figure:
        """Draw indices with intervals and the distribution of margins.

        Returns:
            A matplotlib figure, ready for `savefig`.
        """
        return self.picture().draw()

    def save(self, folder: str | Path) -> Path:
        """Write `robustness.json` into a folder, and return the file."""
        path = Path(folder) / "robustness.json"
        write_json(path, {"schema": "spade-bench/robustness/1", **self.as_dict()})
        return path


def measure_given(
    encoders: Any,
    question: Question,
    workspace: Workspace | None,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Robustness:
    """Measure what Python hands over by name or in memory; see `spade_bench.api.robustness`.

    Args:
        encoders: Names or loaded encoders.
        question: Which points.
        workspace: Fills in what is left out.
        given: `table`, `features`, `task` and `weights`, None where they are left out.
        settings: Other fields of the settings.
    """
    from spade_bench.evaluation import inputs

    with tempfile.TemporaryDirectory(prefix="spade-bench-") as folder:
        said = EvaluationSettings.of({"seed": settings.get("seed")}, "keywords")
        named = inputs.choose_encoders(encoders, said.resolved(workspace).seed)
        chosen = inputs.settings_of(
            named,
            given["task"] or (),
            Path(folder),
            dict(settings),
            table=given["table"],
            features=given["features"],
            weights=given["weights"],
        )
        return measure(chosen, question, workspace, named.loaded)


def measure(
    settings: EvaluationSettings,
    question: Question,
    workspace: Workspace | None = None,
    loaded: Mapping[str, Any] | None = None,
) -> Robustness:
    """Measure the robustness of encoders, with their controls, on a cohort.

    Args:
        settings: Encoders, at most one task, table and features, as for a run.
        question: Which points.
        workspace: Fills in what the settings leave out.
        loaded: Label -> encoder, of those that run as they are.

    Raises:
        UserError: When the question does not fit, or the task has no classes.
        DataError: When table or features cannot be used.
    """
    _check(question)
    table = settings.tables.get("*") if settings.tables else None
    if table is not None and table.is_file() and is_pathorob(table):
        folders = {name.partition("=")[0]: _folder(settings, name) for name in settings.encoders}
        points, encoders = pathorob_points(table, folders)
        return _measured(points, encoders, question, settings.seed or 0)
    if not settings.tasks and table is not None:
        settings = replace(settings, tasks=(table.stem,))
    request = resolve(settings, workspace, loaded=loaded, dry_run=True)
    if len(request.tasks) > 1:
        raise UserError("Robustness is measured on one task at a time", where="--task")
    task = request.tasks[0]
    if kinds.get(task.card.kind).card.head_kind != "classification":
        raise UserError(
            f"Robustness needs classes, and '{task.card.name}' is of kind {task.card.kind}",
            fix="Name a column of classes with --label-column",
        )
    prepared = prepare(request, task, FeatureFolders(), divide=False)
    kind: Kind = "patches" if question.points == "patches" else "slides"
    sample = Sample(kind, question.per_slide, request.settings.seed)
    points, encoders = cohort_points(prepared, task.table, question.by, sample)
    return _measured(points, encoders, question, request.settings.seed, prepared.cohort.simulated)


def _measured(
    points: PointSet,
    encoders: Sequence[Points],
    question: Question,
    seed: int,
    simulated: bool = False,
) -> Robustness:
    rows, gaps, margins = assess(points, encoders, k=question.k, seed=seed)
    return Robustness(points, rows, gaps, margins, simulated=simulated)


def _check(question: Question) -> None:
    if question.points not in _KINDS:
        raise UserError(
            f"there are no points '{question.points}'",
            where="--points",
            fix="Use slides or patches",
        )
    if question.per_slide < 1:
        raise UserError(f"--per-slide is {question.per_slide}", fix="Use 1 or more")


def _folder(settings: EvaluationSettings, name: str) -> Path:
    """The folder of npz files of an encoder."""
    label, _, encoder = name.partition("=")
    for key in (label, encoder or label, "*"):
        if settings.features and key in settings.features:
            return settings.features[key]
    raise UserError(
        f"no folder of features of '{label}'", fix=f"Give --features {label}=DIR with its npz files"
    )
