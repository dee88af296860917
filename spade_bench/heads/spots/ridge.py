"""Ridge regression whose penalty and width are chosen on training patients.

Features are standardised and turned to principal components, both on the training spots of the
fold; the target is centred, so there is an intercept. Of every width and penalty the correlation is
averaged over inner folds that leave patients out, and the best of them predicts the test spots.

A fold costs one eigendecomposition, whatever the number of widths, penalties and genes: in the
principal axes ridge regression is one division per component, and the correlation on the spots left
out needs second moments alone. The products of features are summed once per group and shared by all
folds. It is proved equal to fitting each pair by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.config import check_ranges
from spade_bench.errors import ConfigError
from spade_bench.heads.spots._spots import SpotFit, SpotTask, check_target, spot_head
from spade_bench.types import HeadCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["RidgeConfig", "inner_groups", "inner_scores", "ridge"]

_MOST_GROUPS = 8  # inner folds; of more patients several share one
_BLOCKS = 2  # of a single section, along each side
_RANK = 1e-10  # share of the largest eigenvalue below which a component is rounding


@dataclass(frozen=True)
class RidgeConfig:
    """Settings of ridge regression.

    Attributes:
        target: `lognorm` for each spot scaled to a total of 10,000 and log1p; or `log1p`.
        genes: `training` for genes chosen on training sections, `task` for the task's own list.
        n_genes: Genes to choose.
        alphas: Penalties to choose from, in units of squared standardised features summed over
            spots.
        widths: Numbers of principal components to choose from; those beyond the rank are cut.
    """

    target: Literal["log1p", "lognorm"] = "lognorm"
    genes: Literal["task", "training"] = "training"
    n_genes: int = 50
    alphas: tuple[float, ...] = (1.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5)
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_target(self)
        if not self.alphas or not self.widths or min(self.widths) < 1 or min(self.alphas) <= 0:
            raise ConfigError(
                "alphas and widths hold numbers above 0, one of each at least",
                fix="Write ridge.alphas=[100,1000] and ridge.widths=[64,256]",
            )
        check_ranges(self, {"n_genes": (1, math.inf)}, "")


CARD = HeadCard(
    name="ridge",
    kinds=("expression",),
    description="Ridge on principal components; penalty and width chosen by leaving patients out",
    input="spot",
    defaults={
        "target": "lognorm",
        "genes": "training",
        "n_genes": 50,
        "alphas": RidgeConfig.alphas,
        "widths": RidgeConfig.widths,
    },
    cheap=True,
    title="Ridge regression",
)


@dataclass(frozen=True, eq=False)
class _Spots:
    """Some spots, with sums over them where features are fewer than spots.

    Attributes:
        x: Features, (n, D).
        y: Expression, (n, G).
        xx: Sums of products of features, (D, D); None where other sums cost less.
    """

    x: Floats
    y: Floats
    xx: Floats | None

    @classmethod
    def of(cls, x: NDArray[np.floating], y: NDArray[np.floating], summed: bool) -> _Spots:
        """Take spots with features (n, D) and expression (n, G)."""
        import numpy as np

        a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
        return cls(a, b, a.T @ a if summed else None)


@dataclass(frozen=True, eq=False)
class _Axes:
    """Standardised principal axes of some spots, with what ridge regression needs of them.

    Attributes:
        n: Number of spots.
        mean: Mean of the features, (D,).
        target: Mean of the expression, (G,).
        axes: Principal axes divided by the standard deviation of each feature, (D, p).
        size: Variance along each axis, largest first, (p,).
        towards: Sums of products of components and centred expression, (p, G).
    """

    n: int
    mean: Floats
    target: Floats
    axes: Floats
    size: Floats
    towards: Floats

    @classmethod
    def of(cls, groups: Sequence[_Spots], width: int) -> _Axes:
        """Find the first ``width`` axes of the spots of some groups, or as many as there are."""
        import numpy as np
        from scipy.linalg import eigh

        n, d = sum(len(one.x) for one in groups), groups[0].x.shape[1]
        mean = np.sum([one.x.sum(axis=0) for one in groups], axis=0) / n  # (D,)
        target = np.sum([one.y.sum(axis=0) for one in groups], axis=0) / n  # (G,)
        squares = np.sum([((one.x - mean) ** 2).sum(axis=0) for one in groups], axis=0)
        spread = np.sqrt(squares / n)  # (D,)
        spread[spread <= 1e-7 * np.maximum(np.abs(mean), 1e-30)] = 1.0  # a constant feature
        summed = [one.xx for one in groups if one.xx is not None]  # (D, D) each
        if len(summed) == len(groups):
            products = np.sum(summed, axis=0) / n - np.outer(mean, mean)
            correlation = products / np.outer(spread, spread)  # (D, D)
            found = min(width, d)
            size, axes = eigh(correlation, subset_by_index=(d - found, d - 1))  # ascending
        else:  # fewer spots than features: the same axes through products of spots
            z = (np.concatenate([one.x for one in groups]) - mean) / spread  # (n, D)
            found = min(width, n)
            size, spots = eigh(z @ z.T / n, subset_by_index=(n - found, n - 1))  # (p,), (n, p)
            axes = z.T @ spots / np.sqrt(n * np.maximum(size, 1e-300))  # (D, p)
        size, axes = size[::-1], axes[:, ::-1]  # (p,), (D, p)
        kept = size > _RANK * max(float(size[0]), 1e-300)
        axes, size = axes[:, kept] / spread[:, None], size[kept]
        towards = np.sum([((one.x - mean) @ axes).T @ (one.y - target) for one in groups], axis=0)
        return cls(n, mean, target, axes, size, towards)

    def weights(self, alpha: float) -> Floats:
        """Return the coefficients of the components, (p, G)."""
        out: Floats = self.towards / (self.n * self.size + alpha)[:, None]
        return out


@spot_head(CARD, RidgeConfig)
def ridge(task: SpotTask, settings: RidgeConfig) -> SpotFit:
    """Choose penalty and width on inner folds, fit all training spots, and predict."""
    import numpy as np

    groups, what = _dealt(task)
    scores, widths = _scores(groups, settings)  # (F, W x A)
    best = int(np.argmax(scores.mean(axis=0)))
    at, alpha = widths[best // len(settings.alphas)], settings.alphas[best % len(settings.alphas)]
    axes = _Axes.of(groups, at)
    weights = axes.axes @ axes.weights(alpha)  # (D, G)
    predicted = axes.target + (np.asarray(task.test, np.float64) - axes.mean) @ weights  # (m, G)
    selected = {"alpha": alpha, "components": len(axes.size), "by": f"{len(groups)} {what}"}
    return SpotFit(predicted, selected)


def inner_groups(task: SpotTask) -> tuple[NDArray[np.int64], str]:
    """Deal training spots into the groups that inner folds leave out, (n,) numbers from 0.

    By patient; of one patient by section; of one section by its quarters.

    Returns:
        The group of each spot, and what the groups are.
    """
    import numpy as np

    for owner, what in ((task.patient, "patients"), (task.section, "sections")):
        names = np.unique(owner)
        if len(names) > 1:
            number = np.searchsorted(names, owner) % _MOST_GROUPS  # (n,)
            grouped = f"groups of {what}" if len(names) > _MOST_GROUPS else what
            return number, grouped
    quarter = np.zeros(len(task.train), dtype=np.int64)
    for axis in range(2):
        order = np.argsort(np.argsort(task.coords[:, axis], kind="stable"), kind="stable")
        quarter = quarter * _BLOCKS + order * _BLOCKS // len(order)
    return np.unique(quarter, return_inverse=True)[1], "quarters of the section"


def inner_scores(task: SpotTask, settings: RidgeConfig) -> tuple[Floats, tuple[int, ...]]:
    """Score every width and penalty on the inner folds.

    Returns:
        (F, W x A) mean over genes of the correlation on each group left out, widths slowest, and
        the W widths that the features have.
    """
    groups, _ = _dealt(task)
    return _scores(groups, settings)


def _dealt(task: SpotTask) -> tuple[list[_Spots], str]:
    """The spots of each group that inner folds leave out, and what the groups are."""
    number, what = inner_groups(task)
    names = range(int(number.max()) + 1)
    largest = max(int((number == one).sum()) for one in names)
    # Products of features are shared by folds; where spots are few, those of spots cost less.
    summed = len(number) - largest >= task.train.shape[1]
    parts = [(task.train[number == one], task.target[number == one]) for one in names]
    return [_Spots.of(x, y, summed) for x, y in parts], what


def _scores(groups: Sequence[_Spots], settings: RidgeConfig) -> tuple[Floats, tuple[int, ...]]:
    import numpy as np

    d = groups[0].x.shape[1]
    widths = tuple(dict.fromkeys(min(width, d) for width in sorted(settings.widths)))
    out = np.zeros((len(groups), len(widths) * len(settings.alphas)))  # (F, W x A)
    if out.shape[1] > 1:  # else there is nothing to choose
        for number, held in enumerate(groups):
            axes = _Axes.of([one for one in groups if one is not held], widths[-1])
            out[number] = _correlations(axes, held, widths, settings.alphas).ravel()
    return out, widths


def _correlations(
    axes: _Axes, held: _Spots, widths: Sequence[int], alphas: Sequence[float]
) -> Floats:
    """Mean correlation over genes on the spots of a group, for every width and penalty, (W, A)."""
    import numpy as np

    z = (held.x - held.x.mean(axis=0)) @ axes.axes  # (n, p) components about the group's mean
    y = held.y - held.y.mean(axis=0)  # (n, G)
    components = z.T @ z / len(z)  # (p, p)
    shared = z.T @ y / len(z)  # (p, G)
    varies = (y * y).mean(axis=0)  # (G,)
    known = varies > 1e-12 * np.maximum((held.y**2).mean(axis=0), 1e-300)
    out = np.zeros((len(widths), len(alphas)))
    for a, alpha in enumerate(alphas):
        weights = axes.weights(alpha)  # (p, G)
        for w, width in enumerate(widths):
            c = weights[:width]  # (k, G)
            along = (c * shared[:width]).sum(axis=0)  # (G,) covariance with what was observed
            square = (c * (components[:width, :width] @ c)).sum(axis=0)  # (G,) its own variance
            size = np.sqrt(np.maximum(square * varies, 0.0))
            r = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
            out[w, a] = r[known].mean() if known.any() else 0.0
    return out
