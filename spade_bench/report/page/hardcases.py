"""The cases that are predicted worst: of each task, by its encoders, over all draws or folds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.report.mainseries import main_series
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler
from spade_bench.results import Predictions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["CaseFits", "HardCase", "HardCases", "hard_cases"]

MOST_CASES = 20


@dataclass(frozen=True)
class CaseFits:
    """How one encoder did on a case.

    Attributes:
        predicted: What it mostly predicted: a class, a value, or a rank of the risk such as
            `rank 0.12`.
        wrong: How often it was wrong: predictions of another class, the share of the other cases
            whose value is predicted with a smaller error, or the share of comparable pairs of
            cases that the risks put in the wrong order.
        n: Predictions of the case.
        probability: Mean probability of the true class; None where there are no classes.
    """

    predicted: str
    wrong: float
    n: int
    probability: float | None


@dataclass(frozen=True)
class HardCase:
    """A case and how each encoder did on it.

    Attributes:
        case_id: The case.
        truth: Its label, or its outcome.
        fits: One for each encoder, in the order of the table; None where it was not tested.
    """

    case_id: str
    truth: str
    fits: tuple[CaseFits | None, ...]

    @property
    def wrong(self) -> float:
        """Mean over encoders of how often they were wrong."""
        there = [fit.wrong for fit in self.fits if fit is not None]
        return sum(there) / len(there)

    @property
    def doubt(self) -> float:
        """One minus the mean probability of the true class, to tell equals apart."""
        there = [1 - fit.probability for fit in self.fits if fit and fit.probability is not None]
        return sum(there) / len(there) if there else 0.0


@dataclass(frozen=True)
class HardCases:
    """The cases of one task that are predicted worst.

    Attributes:
        title: Task, head, protocol and condition.
        task: Name of the task.
        kind: What is predicted, as `Predictions.kind` says it.
        encoders: Labels, in the order of the columns.
        cases: The worst first: those that are wrong more often than not.
        n_cases: Distinct test cases, of which these are some.
    """

    title: str
    task: str
    kind: str
    encoders: tuple[str, ...]
    cases: tuple[HardCase, ...]
    n_cases: int


def hard_cases(series: Sequence[Series], resampler: Resampler) -> list[HardCases]:
    """List the cases that are predicted worst, of each task by the main head of each encoder.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
    """
    out = []
    for place, shown in main_series(series, resampler).items():
        if resampler.predictions(shown[0].rows[0]).spots is not None:
            continue  # sections, of which spots are predicted: there is no right or wrong case
        by_encoder = [_fits(one, resampler) for one in shown]
        truths = {case: truth for _, known in by_encoder for case, truth in known.items()}
        cases = [
            HardCase(case, truth, tuple(fits.get(case) for fits, _ in by_encoder))
            for case, truth in truths.items()
        ]
        cases.sort(key=lambda one: (-one.wrong, -one.doubt, one.case_id))
        shot = shown[0].k_shot
        out.append(
            HardCases(
                title=", ".join((*place, *((f"k={shot}",) if shot else ()))),
                task=place[0],
                kind=resampler.predictions(shown[0].rows[0]).kind,
                encoders=tuple(one.encoder for one in shown),
                cases=tuple(one for one in cases[:MOST_CASES] if one.wrong > 0.5),
                n_cases=len(cases),
            )
        )
    return out


def _fits(one: Series, resampler: Resampler) -> tuple[Mapping[str, CaseFits], Mapping[str, str]]:
    """What an encoder predicted of each case, and what is true of it."""
    made: dict[str, list[tuple[str, float, float | None]]] = {}
    truths: dict[str, str] = {}
    for row in one.rows:
        predictions = resampler.predictions(row)
        for case, truth, fit in _READ[predictions.kind](predictions):
            truths[case] = truth
            made.setdefault(case, []).append(fit)
    fits = {}
    for case, several in made.items():
        names = [name for name, _, _ in several]
        known = [p for _, _, p in several if p is not None]
        fits[case] = CaseFits(
            predicted=max(dict.fromkeys(names), key=names.count)
            if known
            else _mean_of(names, predictions.kind),
            wrong=sum(wrong for _, wrong, _ in several) / len(several),
            n=len(several),
            probability=sum(known) / len(known) if known else None,
        )
    return fits, truths


_Fit = tuple[str, float, float | None]


def _of_classes(predictions: Predictions) -> list[tuple[str, str, _Fit]]:
    best = predictions.scores.argmax(axis=1)  # (m,)
    out: list[tuple[str, str, _Fit]] = []
    for at, (case, target) in enumerate(zip(predictions.case_ids, predictions.target, strict=True)):
        fit = (
            predictions.classes[best[at]],
            float(best[at] != target),
            float(predictions.scores[at, target]),
        )
        out.append((case, predictions.classes[target], fit))
    return out


def _of_survival(predictions: Predictions) -> list[tuple[str, str, _Fit]]:
    import numpy as np

    from spade_bench.statistics.ranks import middle_ranks

    risk = predictions.scores[:, 0]  # (m,)
    rank = (middle_ranks(risk) - 0.5) / len(risk)  # (m,)
    wrong = discordant_share(predictions.target, risk)  # (m,)
    out: list[tuple[str, str, _Fit]] = []
    for case, (event, days), place, share in zip(
        predictions.case_ids, predictions.target, rank, wrong, strict=True
    ):
        if np.isfinite(share):  # a case without a comparable pair says nothing
            truth = f"{'event' if event else 'no event'} after {days:.0f} days"
            out.append((case, truth, (f"{place:.3f}", float(share), None)))
    return out


def _of_values(predictions: Predictions) -> list[tuple[str, str, _Fit]]:
    import numpy as np

    from spade_bench.statistics.ranks import middle_ranks

    error = np.abs(predictions.scores[:, 0] - predictions.target)  # (m,)
    nearer = (middle_ranks(error) - 1) / max(1, len(error) - 1)  # (m,)
    rows = zip(predictions.case_ids, predictions.target, predictions.scores, nearer, strict=True)
    return [
        (case, f"{value:.4g}", (repr(float(said[0])), float(share), None))
        for case, value, said, share in rows
    ]


def _mean_of(numbers: Sequence[str], kind: str) -> str:
    """Mean of what was predicted of a case, in words."""
    mean = sum(map(float, numbers)) / len(numbers)
    return f"rank {mean:.2f}" if kind == "survival" else f"{mean:.4g}"


_READ: Mapping[str, Callable[[Predictions], list[tuple[str, str, _Fit]]]] = {
    "classification": _of_classes,
    "regression": _of_values,
    "survival": _of_survival,
}


def discordant_share(target: Floats, risk: Floats) -> Floats:
    """Share of the comparable pairs of each case that its risk puts in the wrong order.

    Two cases are comparable where the one with the shorter time had the event (Harrell), also
    where the other was last seen on the same day; equal risks count a half.

    Args:
        target: (m, 2) event and days.
        risk: (m,) risk, higher is worse.

    Returns:
        (m,) shares in 0..1; NaN for a case without a comparable pair.
    """
    import numpy as np

    event, days = target[:, 0] > 0, target[:, 1]
    alive = (days[:, None] == days[None]) & ~event[None]  # (m, m) left just after
    sooner = event[:, None] & ((days[:, None] < days[None]) | alive)  # (m, m) the row had it before
    lower = (risk[:, None] < risk[None]) + 0.5 * (risk[:, None] == risk[None])  # (m, m)
    pairs = sooner.sum(axis=1) + sooner.sum(axis=0)  # (m,)
    bad = (sooner * lower).sum(axis=1) + (sooner * lower).sum(axis=0)  # (m,)
    return np.where(pairs > 0, bad / np.maximum(pairs, 1), np.nan)
