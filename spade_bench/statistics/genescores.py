"""Scores of predicted expression: gene by gene over spots, then over genes, folds and patients.

Every function takes what one fold observed and predicted, (n, G) over n spots and G genes. A gene
whose observed values are all alike has no correlation and no share of variance explained: it is
left out of those means, and named by :func:`constant_genes`. A prediction that is all alike for a
gene that does vary tells nothing of it: its correlation counts as 0, unless that is so of every
gene, as where a head predicts the mean; then the correlation is undefined.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from spade_bench.errors import ConfigError
from spade_bench.statistics.intervals import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["GENE_METRICS", "constant_genes", "gene_values", "jackknife", "over_genes"]

_ALIKE = 1e-12  # spread, relative to the size of the values, below which values are all alike


def gene_values(
    metric: str, observed: NDArray[np.floating], predicted: NDArray[np.floating],
    section: NDArray[np.int64],
) -> Floats:  # fmt: skip
    """Score each gene of one fold.

    Args:
        metric: One of `GENE_METRICS`.
        observed: (n, G) what was measured.
        predicted: (n, G) what was predicted.
        section: (n,) section of each spot; `pearson_per_sample` looks at one after the other.

    Returns:
        (G,) values; NaN where the metric is not defined for the gene.

    Raises:
        ConfigError: When there is no such metric.
    """
    import numpy as np

    if metric not in _OF_GENES:
        raise ConfigError(
            f"expression has no metric '{metric}'", fix=f"Use {', '.join(GENE_METRICS)}"
        )
    if not len(observed):
        return np.full(observed.shape[1], np.nan)
    y, z = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    return _OF_GENES[metric](y, z, section)


def over_genes(values: Floats) -> float:
    """Return the mean over the genes for which a metric is defined; NaN where it is for none."""
    import numpy as np

    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def constant_genes(observed: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which genes have the same value in all spots, (n, G) -> (G,)."""
    import numpy as np

    y = np.asarray(observed, dtype=np.float64)
    return _spread(y)[1] if len(y) else np.ones(y.shape[1], dtype=bool)


def jackknife(whole: float, left_out: Sequence[float]) -> Interval:
    """Return an estimate with its 95% interval over units, from leaving each unit out in turn.

    Student's t on the pseudo-values of Tukey (1958), with U - 1 degrees of freedom. Where the
    estimate is a mean over units, that is the usual interval of a mean. With one unit, or where an
    estimate is undefined, the ends are NaN.

    Args:
        whole: The estimate from all U units.
        left_out: The estimate without each of them, U values.

    Returns:
        The estimate, its interval and the two-sided p value of the hypothesis that it is zero.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    values = np.asarray(left_out, dtype=np.float64)  # (U,)
    n, nan = len(values), float("nan")
    if n < 2 or not np.isfinite(values).all() or not np.isfinite(whole):
        return Interval(float(whole), nan, nan)
    pseudo = n * whole - (n - 1) * values  # (U,)
    error = float(pseudo.std(ddof=1) / np.sqrt(n))
    margin = float(stdtrit(n - 1, 0.975)) * error
    p = 2 * float(stdtr(n - 1, -abs(whole) / error)) if error > 0 else 1.0 if whole == 0 else 0.0
    return Interval(float(whole), float(whole) - margin, float(whole) + margin, p)


def _pearson(y: Floats, z: Floats, section: NDArray[np.int64]) -> Floats:
    """Correlation of each gene over all spots of the fold, pooled as HEST-Bench pools them."""
    import numpy as np

    (a, flat), (b, told) = _spread(y), _spread(z)
    size = np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0))  # (G,)
    defined = ~flat & ~told
    out = np.divide((a * b).sum(axis=0), size, out=np.zeros(y.shape[1]), where=defined)  # (G,)
    out[flat] = np.nan
    return out if not told[~flat].all() else np.full(y.shape[1], np.nan)


def _per_sample(y: Floats, z: Floats, section: NDArray[np.int64]) -> Floats:
    """Correlation within each section, mean over the sections in which the gene varies."""
    import numpy as np

    parts = [_pearson(y[at], z[at], section[at]) for at in _members(section)]  # (G,) each
    stacked = np.stack(parts)  # (S, G)
    counted = np.isfinite(stacked).sum(axis=0)  # (G,)
    total = np.nansum(stacked, axis=0)  # (G,)
    mean: Floats = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    return mean


def _spearman(y: Floats, z: Floats, section: NDArray[np.int64]) -> Floats:
    """Correlation of ranks over all spots of the fold; ties share their mean rank."""
    from spade_bench.statistics.ranks import middle_ranks

    return _pearson(middle_ranks(y, axis=0), middle_ranks(z, axis=0), section)


def _r2(y: Floats, z: Floats, section: NDArray[np.int64]) -> Floats:
    """Share of the variance about the fold's own mean that is explained; below 0 where none is."""
    import numpy as np

    a, flat = _spread(y)
    missed, there = ((y - z) ** 2).sum(axis=0), (a * a).sum(axis=0)  # (G,) both
    share = np.divide(missed, there, out=np.zeros(y.shape[1]), where=~flat)  # (G,)
    explained: Floats = np.where(flat, np.nan, 1.0 - share)
    return explained


def _mae(y: Floats, z: Floats, section: NDArray[np.int64]) -> Floats:
    """Mean absolute error, in the unit of what is predicted."""
    import numpy as np

    out: Floats = np.abs(y - z).mean(axis=0)  # (G,)
    return out


_OF_GENES: dict[str, Callable[[Floats, Floats, NDArray[np.int64]], Floats]] = {
    "pearson": _pearson,
    "pearson_per_sample": _per_sample,
    "spearman": _spearman,
    "r2": _r2,
    "mae": _mae,
}
GENE_METRICS = tuple(_OF_GENES)
"""Metrics of expression, the first one ranks."""


def _spread(x: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Values about the mean of their gene, (n, G), and which genes do not vary at all, (G,)."""
    import numpy as np

    apart: Floats = x - x.mean(axis=0)  # (n, G)
    size = np.abs(x).max(axis=0)  # (G,)
    return apart, np.abs(apart).max(axis=0) <= _ALIKE * np.maximum(size, 1e-300)


def _members(section: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    import numpy as np

    return [np.flatnonzero(section == one) for one in np.unique(section)]
