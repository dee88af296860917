"""Patho-Bench task folders as task cards."""

from __future__ import annotations

from pathlib import Path

from spade_bench.config import read_yaml
from spade_bench.errors import DataError
from spade_bench.types import TaskCard

__all__ = ["PATHO_BENCH", "patho_bench_card"]

PATHO_BENCH = "patho-bench:"

# Patho-Bench's names of metrics -> ours.
_METRICS = {
    "macro-ovr-auc": "auroc",
    "auc": "auroc",
    "bacc": "balanced_accuracy",
    "balanced-accuracy": "balanced_accuracy",
    "weighted-f1": "f1_macro",
    "macro-f1": "f1_macro",
    "quadratic-weighted-kappa": "kappa_quadratic",
    "quadratic-kappa": "kappa_quadratic",
    "weighted_kappa": "kappa_quadratic",
    "cindex": "c_index",
    "c-index": "c_index",
}


def patho_bench_card(path: Path) -> TaskCard:
    """Make the card of a Patho-Bench task from its `config.yaml`.

    Args:
        path: `{source}/{task}`, or `ROOT/{train}=={test}--{task}` for a pair of cohorts.

    Raises:
        DataError: When there is no such folder or it says nothing of the kind of task.
    """
    folder = _first_folder(path)
    if not (folder / "config.yaml").is_file():
        raise DataError(
            "no config.yaml here",
            where=str(folder),
            fix="Name a Patho-Bench task folder: patho-bench:PATH/{source}/{task}",
        )
    settings = read_yaml(folder / "config.yaml")
    survival = settings.get("task_type") == "survival"
    wanted = [_METRICS.get(str(name).lower()) for name in settings.get("metrics") or ()]
    usual = ("c_index", "c_index_uno", "ibs") if survival else ("auroc", "balanced_accuracy")
    metrics = dict.fromkeys([*(name for name in wanted if name), *usual])
    name = path.name if "==" in path.name else f"{folder.parent.name}--{folder.name}"
    return TaskCard(
        name=name,
        kind="survival" if survival else "classification",
        title=f"Patho-Bench {name}",
        cohort=folder.parent.name,
        metrics=tuple(metrics),
        definition="As published in the task folder, splits included.",
    )


def _first_folder(path: Path) -> Path:
    """The folder whose config describes the task; of a pair, that of the training cohort."""
    if "==" not in path.name:
        return path
    train, _, rest = path.name.partition("==")
    _, dashes, task = rest.partition("--")
    if not (train and dashes and task):
        raise DataError(f"'{path.name}' is not TRAIN==TEST--TASK", where=str(path.parent))
    return path.parent / train / task
