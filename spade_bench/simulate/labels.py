"""Cases of the slide cohort: their labels, survival and sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench.simulate.studysettings import PROGRAMMES, LabelSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from spade_bench.simulate.tissuemap import CaseLevels

__all__ = ["LABELS", "Labels", "draw_labels"]

_INDEX = {programme.name: i for i, programme in enumerate(PROGRAMMES)}
LABELS = {
    "crc_braf": ("mapk", "wildtype", "mutant"),
    "sim_subtype": ("secretory", "solid", "glandular"),
}
"""Table -> programme, negative label, positive label."""


@dataclass(frozen=True)
class Labels:
    """What the cohort tables hold, one entry per case, and the scores behind it.

    Attributes:
        classes: Table -> (n,) label names.
        event: (n,) True where death was seen.
        duration_days: (n,) days to death or censoring.
        scores: Table -> (n,) standardised programme that the label follows.
    """

    classes: dict[str, list[str]]
    event: NDArray[np.bool_]
    duration_days: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]

    def describe(self) -> dict[str, Any]:
        """Return the best AUROC that a perfect reading of the programmes could reach."""
        return {
            name: {
                "programme": LABELS[name][0],
                "auroc_of_programme": _auroc(
                    self.scores[name], np.array(labels) == LABELS[name][2]
                ),
            }
            for name, labels in self.classes.items()
        }


def draw_labels(cases: Sequence[CaseLevels], settings: LabelSettings, rng: Generator) -> Labels:
    """Draw labels and survival from the cases' molecular programmes (never from the drawing)."""
    n = len(cases)
    molecular = np.stack([case.molecular for case in cases])
    levels = molecular / np.array([programme.case_sd for programme in PROGRAMMES])
    classes, scores = {}, {}
    for name, (programme, negative, positive) in LABELS.items():
        scores[name] = levels[:, _INDEX[programme]]
        noise = np.sqrt(1 - settings.weight**2) * rng.standard_normal(n)
        rank = np.argsort(np.argsort(settings.weight * scores[name] + noise))
        high = rank >= n - round(settings.positive[name] * n)
        classes[name] = [positive if flag else negative for flag in high]
    scores["sim_survival"] = levels[:, _INDEX["mesenchymal"]]
    hazard = np.log(2) / settings.median_days * np.exp(settings.log_hazard * scores["sim_survival"])
    death = rng.exponential(1 / hazard)
    censoring = rng.uniform(0.2, 1.0, n) * settings.follow_up_days
    return Labels(
        classes=classes,
        event=death <= censoring,
        duration_days=np.maximum(np.ceil(np.minimum(death, censoring)), 1).astype(np.int64),
        scores=scores,
    )


def _auroc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Return the share of (positive, negative) pairs in the right order."""
    better = score[positive][:, None] > score[~positive][None, :]
    return round(float(better.mean()), 4)
