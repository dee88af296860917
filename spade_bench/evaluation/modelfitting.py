"""Train a head on all cases of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from spade_bench.cohorts.folds import assign_folds
from spade_bench.cohorts.tables import keep_covered
from spade_bench.console import say, warn
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.encoderfeatures import (
    find_features,
    matched,
    source_bags,
)
from spade_bench.evaluation.hyperparameters import Job, choose, grid_of, ranking_metric
from spade_bench.evaluation.request import EvaluationRequest
from spade_bench.evaluation.restriction import Restriction
from spade_bench.evaluation.taskcohort import load_cases
from spade_bench.evaluation.trainedmodel import (
    ModelInfo,
    TrainedModel,
    features_identity,
)
from spade_bench.features.bagmemory import BagMemory, bag_bytes
from spade_bench.features.bags import FeatureFolders
from spade_bench.features.casebags import scan_bags
from spade_bench.heads import Fit, FittedHead, Head, HeadOptions, fit, fitting
from spade_bench.registry import heads, kinds
from spade_bench.version import package_versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.cohorts.tables import Coverage
    from spade_bench.evaluation.encoderfeatures import EncoderFeatures
    from spade_bench.evaluation.request import EncoderRequest, TaskRequest
    from spade_bench.evaluation.taskcohort import TaskCases
    from spade_bench.evaluation.trainedmodel import FeaturesIdentity
    from spade_bench.features.casebags import BagInfo, CaseBags
    from spade_bench.regions.regionbags import PatchRule
    from spade_bench.tasks.kind import TaskKind
    from spade_bench.types import Cohort, TaskCard

__all__ = ["fit_model"]

THRESHOLD_FOLDS = 5


@dataclass(frozen=True)
class TrainingData:
    """All cases of a task.

    Attributes:
        kind: The kind of the task.
        card: The task.
        cohort: Its cases.
        bags: Their bags, by position.
        patient_of: Slide -> patient where slides are the units; empty where patients are.
    """

    kind: TaskKind
    card: TaskCard
    cohort: Cohort
    bags: CaseBags
    patient_of: Mapping[str, str]


def fit_model(request: EvaluationRequest) -> TrainedModel:
    """Train a head on all cases of a task's table.

    Args:
        request: One encoder, one task and at most one head; with `select`, hyperparameters are
            chosen on inner folds of these cases.

    Raises:
        UserError: When it names several of them, or the head cannot be fitted or kept.
        DataError: When table or features are unsound, or slides lack features and this was not
            allowed.
    """
    encoder, task = _one_of_each(request)
    device = resolve_device(request.settings.device)
    setup_numerics(device)
    kind: TaskKind = kinds.get(task.card.kind).load()
    head = _head(request, task.card, kind, str(device))
    cases = load_cases(request, task, kind)
    found = _found(request, encoder, task, cases)
    cohort = found.cohort
    bags = source_bags(
        found.source,
        [case.slide_ids for case in cohort.cases],
        found.width,
        infos=found.infos,
        memory=BagMemory(bag_bytes(request.settings.memory)),
    )
    data = TrainingData(kind, task.card, cohort, bags, cases.patient_of)
    fitted, thresholds = _fit(request, head, data)
    info = ModelInfo(
        encoder=encoder.name,
        options=dict(encoder.options),
        task=task.card.name,
        kind=task.card.kind,
        features=found.identity,
        trained_on={case.case_id: case.slide_ids for case in cohort.cases},
        regions=found.rule,
        thresholds=thresholds,
        seed=request.settings.seed,
        simulated=cohort.simulated or task.card.simulated,
        flags=found.flags,
        versions=package_versions(),
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return TrainedModel(info, fitted.with_classes(cohort.classes), encoder.weights)


def _one_of_each(request: EvaluationRequest) -> tuple[EncoderRequest, TaskRequest]:
    """The encoder and the task of a request.

    Raises:
        UserError: When it names several, several heads, or a task of spots.
    """
    heads_asked_for = request.given.heads or ()
    if len(request.encoders) != 1 or len(request.tasks) != 1 or len(heads_asked_for) > 1:
        raise UserError("A model has one encoder, one task and one head")
    task = request.tasks[0]
    if kinds.get(task.card.kind).card.units == "spots":
        raise UserError(
            "expression is predicted spot by spot, and only `run` does that",
            where=f"task {task.card.name}",
            fix="Use `spade-bench run`; its predictions of all genes are stored beside the results",
        )
    return request.encoders[0], task


class _Found(NamedTuple):
    """The cases of a table that have features, and these.

    Attributes:
        cohort: The cases.
        source: Features of their slides.
        infos: What is known about each feature file.
        width: Width of the features.
        identity: Identity of the features of the whole slides: the parts inside regions are as many
            things as there are outlines.
        rule: How patches inside regions are chosen; None without regions.
        flags: What must be seen beside the model.
    """

    cohort: Cohort
    source: EncoderFeatures
    infos: Mapping[str, BagInfo]
    width: int
    identity: FeaturesIdentity
    rule: PatchRule | None
    flags: tuple[str, ...]


def _found(
    request: EvaluationRequest, encoder: EncoderRequest, task: TaskRequest, cases: TaskCases
) -> _Found:
    """Find the features of the cases.

    Raises:
        DataError: When features are unsound, or slides lack them and this was not allowed.
    """
    wanted = [slide for case in cases.cohort.cases for slide in case.slide_ids]
    folders = FeatureFolders()
    source = find_features(request, encoder, task.card, folders)
    files, loose = matched(request, source.files, wanted, source.label)
    whole = {slide: files[slide] for slide in wanted if slide in files}
    inside = Restriction.of(request, wanted, folders)
    source = inside.features(replace(source, files=whole))
    infos = scan_bags(source.files, f"Reading features for {source.label}")
    unusable = {slide: info.problem for slide, info in infos.items() if info.problem}
    cohort, coverage = keep_covered(cases.cohort, source.files, unusable)
    _check_coverage(coverage, request.settings.allow_missing)
    kept = [slide for case in cohort.cases for slide in case.slide_ids]
    if not kept:
        raise DataError("no case of the table has features", where=cohort.name)
    source = replace(source, files={slide: source.files[slide] for slide in kept})
    width = infos[kept[0]].dim
    if source.dim is not None and source.base is None and width != source.dim:
        raise DataError(
            f"features are {width} wide, encoder '{source.label}' makes {source.dim}",
            fix="Name the folder with this encoder's features",
        )
    return _Found(
        cohort,
        source,
        infos,
        width,
        features_identity(replace(source, files={slide: whole[slide] for slide in kept})),
        None if inside.choice is None else inside.choice.rule,
        _flags(source, (*inside.flags, *cases.flags), loose, coverage),
    )


def _head(request: EvaluationRequest, card: TaskCard, kind: TaskKind, device: str) -> Head:
    name = request.heads_of(card)[0]
    plugin = heads.get(name)
    wanted = kind.card.head_kind
    if wanted not in plugin.card.kinds:
        serving = [other.name for other in heads if wanted in other.card.kinds]
        raise UserError(
            f"head '{name}' does not serve {wanted}",
            where="--head",
            fix=f"Use {', '.join(serving)}",
        )
    options = HeadOptions(device, request.settings.set.get(name, {}), request.settings.memory)
    head: Head = plugin.load(options)
    return head


def _check_coverage(coverage: Coverage, allow_missing: bool) -> None:
    if coverage.complete:
        return
    if not allow_missing:
        raise DataError(
            coverage.describe(),
            fix="Add the features, or leave these slides out with --allow-missing",
        )
    warn(f"{coverage.describe()}; going on without them")


def _flags(
    source: EncoderFeatures, of_cases: tuple[str, ...], loose: tuple[str, ...], coverage: Coverage
) -> tuple[str, ...]:
    absent = () if coverage.complete else ("missing-slides",)
    return tuple(dict.fromkeys((*source.flags, *of_cases, *loose, *absent)))


def _fit(
    request: EvaluationRequest, head: Head, data: TrainingData
) -> tuple[FittedHead, dict[str, float]]:
    """The fitted head, and thresholds for two classes."""
    import numpy as np

    kind, cohort, bags = data.kind, data.cohort, data.bags
    name, n = head.card.name, kind.n_outputs(cohort)
    everybody, target = np.arange(len(cohort.cases)), kind.targets(cohort)
    nobody = np.empty(0, dtype=np.int64)
    point = _chosen(request, head, data) if request.settings.select else {}
    jobs = [Fit(everybody, target, nobody, request.settings.seed, point)]
    parts = _threshold_folds(head, cohort, request.settings.seed)
    jobs += [Fit(train, target[train], test, request.settings.seed, point) for train, test in parts]
    fitted = fit(head, bags, jobs, n, name=name)
    if len(cohort.classes) != 2:
        return fitted[0], {}
    thresholds = {"default": 0.5}
    if parts:
        scores = np.zeros(len(everybody))
        for (_, test), one in zip(parts, fitted[1:], strict=True):
            scores[test] = one.predict(bags, test.tolist())[:, 1]
        thresholds["youden"] = youden(target, scores)
    else:
        say(f"{name}: the threshold is 0.5; others need cross-fitting, which is not cheap here")
    return fitted[0], thresholds


def _chosen(request: EvaluationRequest, head: Head, data: TrainingData) -> dict[str, Any]:
    """Hyperparameters from the head's grid, chosen on inner folds of the training cases."""
    import numpy as np

    name, kind = head.card.name, data.kind
    grid = grid_of(head, request.settings.set.get(name, {}))
    if not grid:
        say(f"head {name} leaves nothing to select")
        return {}
    target, nobody = kind.targets(data.cohort), np.empty(0, dtype=np.int64)
    metric = ranking_metric(kind, data.card)
    everything = Job(
        np.arange(len(target)), target, nobody, target[:0], request.settings.seed, "all"
    )
    point = choose(
        head,
        kind,
        metric,
        grid=grid,
        bags=data.bags,
        jobs=[everything],
        cases=data.cohort.cases,
        n_outputs=kind.n_outputs(data.cohort),
        group_by_site=request.settings.group_by_site,
        patient_of=data.patient_of,
    ).get("all", {})
    chosen = ", ".join(f"{k}={v}" for k, v in point.items())
    say(f"{name}: {chosen or 'defaults, too few cases to choose'} (by {metric}, inner folds)")
    return point


def _threshold_folds(
    head: Head, cohort: Cohort, seed: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Training and held-out positions, for heads that cost next to nothing and two classes."""
    import numpy as np

    if len(cohort.classes) != 2 or not head.card.cheap or fitting(head) is None:
        return []
    sizes = [sum(case.label == name for case in cohort.cases) for name in cohort.classes]
    n = min(THRESHOLD_FOLDS, *sizes)
    if n < 2:
        return []
    folds = assign_folds(cohort.cases, n, [seed, 8], group_by_site=False, where="threshold")
    ids = [case.case_id for case in cohort.cases]
    held_out = [np.isin(ids, list(fold)) for fold in folds]
    return [(np.flatnonzero(~inside), np.flatnonzero(inside)) for inside in held_out]


def youden(target: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Return the threshold with the largest sensitivity + specificity - 1.

    Args:
        target: 1 for positive cases, (n,).
        scores: Probability of the positive class, (n,).

    Returns:
        The middle between the scores that it parts, so that neither lies on it.
    """
    import numpy as np

    values = np.unique(scores)  # (u,)
    cuts = np.concatenate([[values[0]], (values[1:] + values[:-1]) / 2])  # (u,)
    over = scores[None] >= cuts[:, None]  # (u, n)
    positive = target == 1  # (n,)
    index = over[:, positive].mean(axis=1) - over[:, ~positive].mean(axis=1)  # (u,)
    return float(cuts[int(index.argmax())])
