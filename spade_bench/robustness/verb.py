"""`sb.robustness`: what Python calls; nothing heavy is imported before it is called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.keywords import says_keywords
from spade_bench.surroundings import left_unchanged

if TYPE_CHECKING:
    from spade_bench.robustness.measuring import Robustness
    from spade_bench.workspace import Workspace

__all__ = ["robustness"]


@says_keywords
def robustness(
    encoders: Any,
    *,
    table: Any = None,
    features: Any = None,
    task: Any = None,
    by: str = "site",
    points: str = "slides",
    per_slide: int = 30,
    k: int | None = None,
    weights: Any = None,
    workspace: str | os.PathLike[str] | Workspace | None = None,
    **settings: Any,
) -> Robustness:
    """Measure how far class beats centre in the features of encoders, with their controls.

    Args:
        encoders: As for `evaluate`; of a PathoROB data set labels of your own.
        table: Cohort table with classes and centres, or the csv of a PathoROB data set.
        features: As for `evaluate`; of a PathoROB data set the folder of npz files.
        task: Task whose classes count; None takes the labels of the table.
        by: Column of the centre, such as a scanner.
        points: `slides`, or `patches`, of which a sample is taken.
        per_slide: Most patches of a slide.
        k: Number of neighbours; None for 11, or fewer where there are few points.
        weights: As for `evaluate`.
        workspace: As for `evaluate`.
        **settings: Fields of `spade_bench.evaluation.EvaluationSettings` that speak of table and
            features, such as `controls=False`, `seed=1`, `label_column="subtype"`.

    Returns:
        Indices, margins, probes and paired differences: see `to_dataframe`, `differences`, `plot`.

    Raises:
        UserError: When class and centre are not crossed, or what is given does not fit together.
        DataError: When table or features cannot be used.
    """
    from spade_bench import workspace as workspaces
    from spade_bench.robustness.measuring import Question, measure_given

    given = {"table": table, "features": features, "task": task, "weights": weights}
    question = Question(by, points, per_slide, k)
    space: Workspace | None = None
    if isinstance(workspace, (str, os.PathLike)):
        space = workspaces.load(Path(workspace))
    elif workspace is not None:
        space = workspace
    with left_unchanged():
        return measure_given(encoders, question, space, given, settings)
