"""Bootstrap intervals over draws and cases, for one encoder and for a pair of them.

Draws and cases are crossed: the test cases are the same in every draw. The mean over draws of the
metric is evaluated on resampled cases, stratified, and to each resample a normal deviate is added
with the standard error that the spread between draws gives their mean, less the part of that spread
which the resampled cases hold already. Because few draws tell little about their spread, deviations
are widened by the ratio of Student's t to the normal quantile, with the degrees of freedom of Welch
and Satterthwaite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Interval", "case_weights", "interval", "means", "paired_interval", "with_draws"]

N_BOOT = 1000


@dataclass(frozen=True)
class Interval:
    """A mean over draws with its 95% interval and, for a difference, a two-sided p value.

    ``p`` is the bootstrap tail probability of zero, or None where zero means nothing.
    """

    mean: float
    low: float
    high: float
    p: float | None = None


def case_weights(
    label: NDArray[np.int64],
    n_boot: int = N_BOOT,
    seed: int = 0,
    patients: Sequence[str] = (),
) -> NDArray[np.float64]:
    """Draw stratified bootstrap counts of cases.

    Args:
        label: (n,) class of each case; every class keeps its size in every resample.
        n_boot: Number of resamples, B.
        seed: Seed; equal labels and seed give equal counts, which is what pairs comparisons.
        patients: Patient of each case, n of them, where cases are slides. Patients are then drawn
            instead, each with all its slides; what keeps its size is the number of patients of
            each class, those with slides of several classes apart.

    Returns:
        (B, n) counts.
    """
    import numpy as np

    if len(patients):
        _, first, at = np.unique(np.asarray(patients), return_index=True, return_inverse=True)
        at = np.argsort(np.argsort(first))[at]  # (n,) patients numbered as they come
        has = np.zeros((len(first), len(values := np.unique(label))), dtype=bool)  # (P, L)
        has[at, np.searchsorted(values, label)] = True
        # A number for each set of classes, in the order of the classes where it is one.
        groups = has @ 2 ** np.arange(len(values))  # (P,)
        return case_weights(groups, n_boot, seed)[:, at]
    rng = np.random.default_rng([seed, 0])
    weights = np.zeros((n_boot, len(label)))
    for value in np.unique(label):
        members = np.flatnonzero(label == value)
        even = np.full(len(members), 1 / len(members))
        weights[:, members] = rng.multinomial(len(members), even, size=n_boot)
    return weights


def interval(plain: Floats, boot: Floats, seed: int = 0, size: int | None = None) -> Interval:
    """Mean over draws with a 95% percentile interval over draws and cases.

    For many cases of each class: with 5 of one it covers 85%, not 95%. Reports use
    :func:`spade_bench.statistics.score_intervals.score_interval`, which holds there.

    Args:
        plain: (D,) metric per draw.
        boot: (D, B) metric per draw and case resample; resamples in which the metric is undefined
            in some draw are passed over.
        seed: Seed of what stands for the chance of the draws.
        size: Number of cases, for which the interval is widened; None for many.

    Raises:
        DataError: When the metric is undefined in a draw, or in every resample.
    """
    import numpy as np

    samples = _widened(_finite(means(plain, boot, seed)), size)
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(float(np.mean(_finite(plain, every=True))), float(low), float(high))


def paired_interval(
    first: tuple[Floats, Floats],
    second: tuple[Floats, Floats],
    seed: int = 0,
    size: int | None = None,
) -> Interval:
    """Interval of the difference ``first - second`` on the same episodes and cases.

    Args:
        first: (D,) and (D, B) values as :func:`.draws.resampled` returns them.
        second: The same for the other encoder, from the same weights and the same draws.
        seed: Seed of what stands for the chance of the draws.
        size: Cases of the smallest class, for which the interval is widened; None for many.

    Raises:
        DataError: When the two do not cover the same draws, or the metric is undefined in one.
    """
    import numpy as np

    if first[1].shape != second[1].shape:
        raise DataError(
            f"cannot pair {len(first[0])} draws with {len(second[0])}",
            fix="Compare encoders on the same episodes",
        )
    samples = _widened(_finite(means(first[0] - second[0], first[1] - second[1], seed)), size)
    low, high = np.quantile(samples, [0.025, 0.975])
    n = len(samples)
    # The add-one rule keeps a finite bootstrap from reporting p = 0.
    tail = min((samples <= 0).sum() + 1, (samples >= 0).sum() + 1) / (n + 1)
    difference = float(np.mean(_finite(first[0] - second[0], every=True)))
    return Interval(difference, float(low), float(high), float(min(1.0, 2 * tail)))


def means(plain: Floats, boot: Floats, seed: int = 0) -> Floats:
    """Mean over draws on resampled cases, with the chance of the draws added, (B,).

    Args:
        plain: (D,) metric per draw.
        boot: (D, B) metric per draw and case resample.
        seed: Seed of the deviates.
    """
    import numpy as np

    centre = np.asarray(boot.mean(axis=0))  # (B,)
    known = np.isfinite(centre)
    within = boot[:, known].var(axis=1).mean() if known.any() else 0.0
    return with_draws(plain, centre, within, seed)


def with_draws(plain: Floats, centre: Floats, within: Floats | float, seed: int = 0) -> Floats:
    """Add the chance of the draws to means over draws on resampled cases.

    Of one metric, or of many values such as the places of a curve; resamples in which a mean is
    undefined stay undefined and tell nothing.

    Args:
        plain: (D, ...) values per draw, on the cases as they are.
        centre: (B, ...) mean over draws on each case resample.
        within: (...) variance over resamples of the values of one draw, mean over draws.
        seed: Seed of the deviates.

    Returns:
        (B, ...) the means, wider by what other draws would have changed.
    """
    import numpy as np
    from scipy.special import ndtri, stdtrit

    n_draws = len(plain)
    known = np.isfinite(centre)  # (B, ...)
    if n_draws < 2 or not known.any():
        return centre
    count = np.maximum(known.sum(axis=0), 1)  # (...)
    middle = np.where(known, centre, 0.0).sum(axis=0) / count
    across = (np.where(known, centre - middle, 0.0) ** 2).sum(axis=0) / count
    spread = plain.var(axis=0, ddof=1) / n_draws
    # What cases do to one draw and not to all is in the spread of the draws, and in `across` too.
    crossed = (within - across) / (n_draws - 1)
    draws = np.maximum(0.0, spread - crossed)
    varies = spread > 0
    freedom = (draws + across) ** 2 / np.where(varies, spread**2 / (n_draws - 1), 1.0)
    widen = stdtrit(np.where(varies, freedom, 1.0), 0.975) / ndtri(0.975)
    deviates = np.random.default_rng([seed, 1]).standard_normal(len(centre))  # (B,)
    deviates = deviates.reshape(-1, *[1] * (centre.ndim - 1))
    wider = middle + (centre - middle + np.sqrt(draws) * deviates) * widen  # (B, ...)
    return np.asarray(np.where(varies, wider, centre))


def _widened(samples: Floats, size: int | None) -> Floats:
    """Values on resamples of a few cases, moved from their mean by what is too narrow in them."""
    import numpy as np
    from scipy.special import ndtri, stdtrit

    if size is None or size < 2:
        return samples
    # Resamples of m cases vary by (m - 1) / m of what cases do, and m say little about that.
    widen = float(stdtrit(size - 1, 0.975) / ndtri(0.975)) * np.sqrt(size / (size - 1))
    widened: Floats = samples.mean() + (samples - samples.mean()) * widen
    return widened


def _finite(values: Floats, every: bool = False) -> Floats:
    import numpy as np

    known = values[np.isfinite(values)]
    if not len(known) or (every and len(known) < len(values)):
        raise DataError("the metric is undefined, as where a class or all events are absent")
    return known
