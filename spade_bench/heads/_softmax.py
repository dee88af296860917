"""Penalised logistic regression for many small training sets at once, in float64.

The problem of scikit-learn's ``LogisticRegression`` (cross entropy times C plus half the squared
norm of the weights, intercept free) is solved by damped Newton steps, all fits at once, or one by
one with L-BFGS where many classes make the Hessian large. The penalty is invariant to
rotations, so the features of n cases in D > n dimensions are first replaced by n coordinates that
span them: the dual form, exact and independent of D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spade_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["Scaler", "coordinates", "solve"]

MAX_NEWTON = 100
TOLERANCE = 1e-9
NEWTON_UNKNOWNS = 120  # beyond that many, with three classes or more, L-BFGS is faster
LOOSEST = 1e-5  # gradient at which L-BFGS, stopped by rounding, still counts as converged


@dataclass(frozen=True)
class Scaler:
    """Mean (B, 1, D) and scale (B, 1, 1 or D) of the training cases."""

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, x: Floats) -> Scaler:
        """Measure each feature of (B, n, D); constant features keep scale 1."""
        import numpy as np

        mean = x.mean(axis=1, keepdims=True)  # (B, 1, D)
        scale = x.std(axis=1, keepdims=True)  # (B, 1, D)
        # Rounding leaves constant columns with a tiny spread; scaling it up would invent signal.
        tiny = 10 * np.finfo(np.float64).eps * np.maximum(np.abs(mean), 1e-30)
        return cls(mean, np.where(scale <= tiny, 1.0, scale))

    @classmethod
    def fit_overall(cls, x: Floats) -> Scaler:
        """Measure (B, n, D) by one number per fit, the root mean square over cases and features.

        Few cases say little about the spread of each feature: two cases would scale every feature,
        noise and signal alike, to the same size. One number keeps what stands out, and makes the
        penalty mean the same for encoders of any scale.
        """
        import numpy as np

        mean = x.mean(axis=1, keepdims=True)  # (B, 1, D)
        scale = np.sqrt(((x - mean) ** 2).mean(axis=(1, 2), keepdims=True))  # (B, 1, 1)
        # Rounding leaves equal cases with a tiny spread; scaling it up would invent signal.
        size = np.abs(mean).max(axis=2, keepdims=True)  # (B, 1, 1)
        tiny = 10 * np.finfo(np.float64).eps * np.maximum(size, 1e-30)
        return cls(mean, np.where(scale <= tiny, 1.0, scale))

    def __call__(self, x: Floats) -> Floats:
        """Scale (B, n, D) or (n, D) features."""
        return (x - self.mean) / self.scale


def coordinates(x: Floats) -> tuple[Floats, Floats]:
    """Replace wide features by coordinates in the space that the training cases span.

    Args:
        x: (B, n, D) scaled training features.

    Returns:
        (B, n, r) coordinates and the (B, D, r) orthonormal basis, r = min(n, D), so that any
        other case enters as ``case @ basis``.
    """
    import numpy as np

    _, n, width = x.shape
    if width <= n:
        basis = np.broadcast_to(np.eye(width), (len(x), width, width))
        return x, basis
    q, r = np.linalg.qr(np.swapaxes(x, 1, 2))  # (B, D, n), (B, n, n)
    return np.swapaxes(r, 1, 2), q


def solve(z: Floats, target: NDArray[np.int64], n_classes: int, c: float) -> Floats:
    """Fit B logistic regressions.

    Args:
        z: (B, n, r) training features.
        target: (B, n) class index.
        n_classes: Number of classes, C.
        c: Inverse penalty of scikit-learn.

    Returns:
        (B, r + 1, K) weights with the intercept last; K = 1 (the logit of class 1) for two
        classes, else K = C.

    Raises:
        DataError: When Newton's method does not converge, which finite features do not cause.
    """
    import numpy as np

    ones = np.ones((*z.shape[:2], 1))
    design = np.concatenate([z, ones], axis=2)  # (B, n, r + 1)
    wanted = np.eye(n_classes)[target]  # (B, n, C)
    if n_classes == 2:
        wanted = wanted[:, :, 1:]  # (B, n, 1)
    weights = np.zeros((len(z), design.shape[2], wanted.shape[2]))  # (B, r + 1, K)
    if n_classes > 2 and weights[0].size > NEWTON_UNKNOWNS:
        return np.stack([_lbfgs(*pair, c) for pair in zip(design, wanted, strict=True)])
    loss = _loss(design, wanted, weights, c)  # (B,)
    for _ in range(MAX_NEWTON):
        gradient, step = _newton(design, wanted, weights, c)
        open_ = np.abs(gradient).max(axis=(1, 2)) > TOLERANCE * max(1.0, c)  # (B,)
        if not open_.any():
            return weights
        # Halve steps until no model gets worse (beyond rounding); the problem is convex.
        size = open_.astype(float)
        for _ in range(40):
            trial = weights - size[:, None, None] * step
            trial_loss = _loss(design, wanted, trial, c)
            worse = trial_loss > loss + 1e-12 * np.abs(loss)
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        else:
            # Already at the bottom to rounding: no step improves these any more.
            trial = np.where(worse[:, None, None], weights, trial)
            if not (open_ & ~worse).any():
                return trial
            trial_loss = np.where(worse, loss, trial_loss)
        weights, loss = trial, trial_loss
    raise DataError("logistic regression did not converge")


def _lbfgs(design: Floats, wanted: Floats, c: float) -> Floats:
    """Fit one multiclass model, (n, r + 1) and (n, C) -> (r + 1, C)."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    shape = design.shape[1], wanted.shape[1]

    def objective(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(shape)  # (r + 1, C)
        logits = design @ weights  # (n, C)
        norm = logsumexp(logits, axis=1, keepdims=True)  # (n, 1)
        total = weights[-1].sum()  # the intercepts' common shift, held at zero
        slopes = weights[:-1]
        loss = c * (norm.sum() - (wanted * logits).sum())
        loss += 0.5 * (slopes * slopes).sum() + 0.5 * total**2
        gradient = c * design.T @ (np.exp(logits - norm) - wanted)  # (r + 1, C)
        gradient[:-1] += slopes
        gradient[-1] += total
        return float(loss), gradient.ravel()

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": 1e-8 * max(1.0, c)}
    found = minimize(
        objective, np.zeros(shape).ravel(), jac=True, method="L-BFGS-B", options=options
    )
    if not np.abs(found.jac).max() <= LOOSEST * max(1.0, c):
        raise DataError(f"logistic regression did not converge ({found.message})")
    return np.asarray(found.x).reshape(shape)


def _probabilities(logits: Floats) -> Floats:
    import numpy as np
    from scipy.special import expit, softmax

    if logits.shape[-1] == 1:
        return np.asarray(expit(logits))
    return np.asarray(softmax(logits, axis=-1))


def _loss(design: Floats, wanted: Floats, weights: Floats, c: float) -> Floats:
    import numpy as np
    from scipy.special import logsumexp

    logits = design @ weights  # (B, n, K)
    if wanted.shape[2] == 1:
        entropy = np.logaddexp(0, logits) - wanted * logits  # (B, n, 1)
    else:
        entropy = logsumexp(logits, axis=2, keepdims=True) - (wanted * logits).sum(2, keepdims=True)
    penalty = 0.5 * (weights[:, :-1] ** 2).sum(axis=(1, 2))
    gauge = 0.5 * weights[:, -1].sum(axis=1) ** 2 if wanted.shape[2] > 1 else 0.0
    return np.asarray(c * entropy.sum(axis=(1, 2)) + penalty + gauge)


def _newton(design: Floats, wanted: Floats, weights: Floats, c: float) -> tuple[Floats, Floats]:
    """Gradient and Newton step, both (B, r + 1, K)."""
    import numpy as np

    batch, _, width = design.shape
    k = wanted.shape[2]
    p = _probabilities(design @ weights)  # (B, n, K)
    ridge = np.r_[np.ones(width - 1), 0.0]  # (r + 1,): the intercept is free
    gradient = c * np.swapaxes(design, 1, 2) @ (p - wanted) + ridge[:, None] * weights
    hessian = np.empty((batch, width, k, width, k))
    for a in range(k):
        for b in range(a, k):
            curve = c * p[:, :, a] * ((a == b) - p[:, :, b])  # (B, n)
            block = np.swapaxes(design, 1, 2) @ (design * curve[:, :, None])  # (B, r+1, r+1)
            hessian[:, :, a, :, b] = hessian[:, :, b, :, a] = block
        hessian[:, :, a, :, a] += np.diag(ridge)
    if k > 1:
        # A common shift of the intercepts changes nothing; hold their sum at zero.
        hessian[:, -1, :, -1, :] += 1.0
        gradient[:, -1] += weights[:, -1].sum(axis=1, keepdims=True)
    square = hessian.reshape(batch, width * k, width * k)
    # With every case fitted perfectly the intercept's curvature can vanish to rounding.
    square += 1e-12 * np.eye(width * k)
    step = np.linalg.solve(square, gradient.reshape(batch, width * k, 1))
    return gradient, step.reshape(batch, width, k)
