"""Two-class logistic regression on few cases with many features, in its dual form.

With n cases in D >= n dimensions the weights of scikit-learn's ``LogisticRegression`` are a
combination of the training cases, so only their n x n products matter: Newton's method on the n
combination factors solves all fits of one size at once, whatever D is. The systems it solves are
those of kernel logistic regression (Rasmussen and Williams, "Gaussian Processes for Machine
Learning", 2006, chapter 3), with eigenvalues of one at least, so that equal or collinear cases do
no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.heads._softmax import MAX_NEWTON, TOLERANCE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.heads._base import Fit

    Floats = NDArray[np.float64]

__all__ = ["fit_two_classes", "one_thread"]

FEW = 256  # cases whose products are never worth a second thought
MOST_SHARED = 8  # products of all cases worth computing, for each that the fits need
CLOSE = 1e-6  # spread of a fit's cases, squared, below which it is not taken from all cases


def one_thread() -> AbstractContextManager[Any]:
    """Keep small matrix products on one thread: handing them round takes longer than they do."""
    context: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return context


def fit_two_classes(pooled: Floats, fits: Sequence[Fit], c: float) -> tuple[Floats, Floats]:
    """Fit B models on training cases, centred and scaled as by `Scaler.fit_overall`.

    Args:
        pooled: Features of all cases, (N, D).
        fits: B fits with equally many training cases, n <= D.
        c: Inverse penalty of scikit-learn.

    Returns:
        Weights for features as they are, (D, B), and intercepts, (B,): the logit of class 1 is
        ``pooled @ weights + intercepts``.

    Raises:
        DataError: When Newton's method does not converge, which finite features do not cause.
    """
    import numpy as np

    trains = np.stack([fit.train for fit in fits])  # (B, n)
    cases, at = np.unique(trains, return_inverse=True)  # (U,)
    at = at.reshape(trains.shape)  # (B, n): the place of each training case among them
    x = pooled[cases]  # (U, D)
    origin = x.mean(axis=0)  # (D,)
    x -= origin
    scaled = _scaled_products(x, at, np.abs(origin).max())
    if scaled is None:
        half = len(fits) // 2
        parts = [fit_two_classes(pooled, part, c) for part in (fits[:half], fits[half:])]
        return _joined(parts)
    gram, scale = scaled
    target = np.stack([fit.target for fit in fits]).astype(np.float64)  # (B, n)
    factors, shift = _newton(gram, target, c)  # (B, n), (B,)
    factors /= scale[:, None] ** 2
    factors -= factors.mean(axis=1, keepdims=True)  # a weight on centred cases, as one on cases
    many = len(cases)
    spread = np.stack(
        [np.bincount(*pair, many) for pair in zip(at, factors, strict=True)]
    )  # (B, U)
    mean = np.stack([np.bincount(own, minlength=many) for own in at]) / len(fits[0].train)  # (B, U)
    weights: Floats = spread @ x  # (B, D)
    return weights.T, shift - ((mean @ x + origin) * weights).sum(axis=1)


def _joined(parts: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    import numpy as np

    weights, shifts = zip(*parts, strict=True)
    return np.concatenate(weights, axis=1), np.concatenate(shifts)


def _scaled_products(x: Floats, at: NDArray[np.intp], size: float) -> tuple[Floats, Floats] | None:
    """Products among the training cases of B fits, from those of all cases that any fit has.

    Args:
        x: Features of these U cases minus their mean, (U, D).
        at: Training cases of each fit among them, (B, n).
        size: Largest number in that mean.

    Returns:
        Products of each fit's centred and scaled cases (B, n, n), and the scales (B,). None where
        the fits had better be solved in smaller groups: they share too little, or the cases of one
        lie so close together that digits would be lost.
    """
    import numpy as np

    if len(at) > 1 and len(x) > FEW and len(x) ** 2 > MOST_SHARED * at.size * at.shape[1]:
        return None
    products = x @ x.T  # (U, U)
    gram = products[at[:, :, None], at[:, None, :]]  # (B, n, n)
    rows = gram.mean(axis=2)  # (B, n)
    gram += rows.mean(axis=1)[:, None, None]
    gram -= rows[:, :, None]
    gram -= rows[:, None, :]
    square = np.trace(gram, axis1=1, axis2=2) / (at.shape[1] * x.shape[1])  # (B,)
    if len(at) > 1 and (square <= CLOSE * np.trace(products) / x.size).any():
        return None
    scale = np.sqrt(np.maximum(square, 0.0))  # (B,)
    # Rounding leaves equal cases with a tiny spread; scaling it up would invent signal.
    scale = np.where(scale <= 10 * np.finfo(np.float64).eps * max(size, 1e-30), 1.0, scale)
    gram /= (scale**2)[:, None, None]
    return gram, scale


def _newton(gram: Floats, target: Floats, c: float) -> tuple[Floats, Floats]:
    """Minimise c sum(loss(f)) + a' G a / 2 with f = G a + b over a (B, n) and b (B,)."""
    import numpy as np

    batch, n = target.shape
    factors, shift = np.zeros((batch, n)), np.zeros(batch)
    f = np.zeros((batch, n))
    loss = _loss(f, target, factors, shift, c)
    eye = np.eye(n)
    for _ in range(MAX_NEWTON):
        p = 1 / (1 + np.exp(-f))  # (B, n)
        wanted = c * (target - p)  # what the factors are at the optimum
        off = np.maximum(np.abs(factors - wanted).max(axis=1), np.abs(wanted.sum(axis=1)))  # (B,)
        open_ = off > TOLERANCE * max(1.0, c)
        if not open_.any():
            return factors, shift
        curve = c * np.maximum(p * (1 - p), 1e-14)  # (B, n)
        right = np.stack([curve * f + wanted, curve], axis=2)  # (B, n, 2)
        u, v = np.moveaxis(np.linalg.solve(eye + curve[:, :, None] * gram, right), 2, 0)
        new_shift = u.sum(axis=1) / v.sum(axis=1)  # (B,): the factors sum to zero
        step, shift_step = u - new_shift[:, None] * v - factors, new_shift - shift
        f_step = (gram @ step[:, :, None])[:, :, 0] + shift_step[:, None]  # (B, n)
        # Halve steps until no model gets worse (beyond rounding); the problem is convex.
        size = open_.astype(float)
        for _ in range(40):
            trial = (
                f + size[:, None] * f_step,
                factors + size[:, None] * step,
                shift + size * shift_step,
            )
            trial_loss = _loss(trial[0], target, trial[1], trial[2], c)
            worse = trial_loss > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        else:
            # Already at the bottom to rounding: no step improves these any more.
            size = np.where(worse, 0.0, size)
            if not size.any():
                return factors, shift
            trial = (
                f + size[:, None] * f_step,
                factors + size[:, None] * step,
                shift + size * shift_step,
            )
            trial_loss = np.where(worse, loss, trial_loss)
        f, factors, shift = trial
        loss = trial_loss
    raise DataError("logistic regression did not converge")


def _loss(f: Floats, target: Floats, factors: Floats, shift: Floats, c: float) -> Floats:
    import numpy as np

    entropy = (np.logaddexp(0, f) - target * f).sum(axis=1)  # (B,)
    penalty = 0.5 * (factors * (f - shift[:, None])).sum(axis=1)  # (B,)
    return np.asarray(c * entropy + penalty)


@cache
def _controller() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
