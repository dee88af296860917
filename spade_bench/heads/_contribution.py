"""What each patch of a bag adds to a prediction, and how that was computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spade_bench.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = [
    "GRADIENT",
    "Contribution",
    "Linear",
    "Link",
    "gradient_times_input",
    "linear_contribution",
    "no_contributions",
]

Link = Literal["softmax", "log odds", "risk", "value"]
GRADIENT = "gradient x input"
_ROWS = 16384  # patches at a time in products of double precision


@dataclass(frozen=True)
class Contribution:
    """What each patch adds to what the head says of a bag.

    Attributes:
        values: Share of each patch, (n, C): in the logit of each class, or in the risk or the
            value, (n, 1).
            Logits are taken about their mean over the classes, for a softmax does not see a number
            that all of them share, and a patch's sign must not hang on it.
        offset: What no patch added, (C,): the bias, or of a gradient what it leaves unexplained.
        link: What makes the prediction of the sums: `softmax` of logits, `log odds` of each of two
            classes, or the `risk` or `value` itself.
        method: How it was computed, in words.
        attention: Weight of each patch, (n,), which sums to one; None where the head has none.
    """

    values: Floats
    offset: Floats
    link: Link
    method: str
    attention: Floats | None = None

    def __post_init__(self) -> None:
        """Take logits about their mean."""
        if self.link == "softmax":
            centred = self.values - self.values.mean(axis=1, keepdims=True)  # (n, C)
            object.__setattr__(self, "values", centred)
            object.__setattr__(self, "offset", self.offset - self.offset.mean())

    @property
    def total(self) -> Floats:
        """The logits, log odds or risk of the bag, (C,): all shares and the offset."""
        total: Floats = self.values.sum(axis=0) + self.offset
        return total

    def prediction(self) -> Floats:
        """Return the class probabilities, or the risk, that the shares add up to, (C,)."""
        from scipy.special import expit, softmax

        total = self.total
        if self.link == "softmax":
            return softmax(total)  # type: ignore[no-any-return]
        return expit(total) if self.link == "log odds" else total


@dataclass(frozen=True)
class Linear:
    """A head that is linear in the mean of the patches.

    Attributes:
        weights: (dim, C).
        intercept: (C,).
        link: What makes the prediction of ``mean @ weights + intercept``.
    """

    weights: Floats
    intercept: Floats
    link: Link


def no_contributions(name: str, why: str = "") -> UserError:
    """Return the error of a head that cannot say what a patch adds."""
    reason = f": {why}" if why else ""
    return UserError(
        f"The head '{name}' cannot say what each patch adds to its prediction{reason}",
        fix="Use abmil, logistic or mean-mlp; for survival abmil-cox, abmil-nll or cox; for "
        "regression ridge, abmil-mse or mean-mlp",
    )


def linear_contribution(bag: NDArray[np.floating], linear: Linear) -> Contribution:
    """Take a prediction that is linear in the mean patch apart; this is exact.

    A patch's share is what a bag of this patch alone would say, over the number of patches, so
    that the shares add up to the logit, bias included: without the bias the sign of a share would
    depend on where the features have their zero.

    Args:
        bag: Features, (n, dim).
        linear: The head.
    """
    import numpy as np

    n = len(bag)
    values = np.empty((n, len(linear.intercept)))
    for start in range(0, n, _ROWS):
        part = np.asarray(bag[start : start + _ROWS], dtype=np.float64)  # (m, dim)
        values[start : start + _ROWS] = (part @ linear.weights + linear.intercept) / n  # (m, C)
    method = "exact: mean over patches of what each patch alone would say"
    return Contribution(values, np.zeros(len(linear.intercept)), linear.link, method)


def gradient_times_input(
    forward: Callable[[torch.Tensor], torch.Tensor],
    bag: torch.Tensor,
    zero: torch.Tensor,
    link: Link,
) -> Contribution:
    """Multiply the gradient of each output by the patches: what they add to first order.

    Args:
        forward: Maps a bag (n, dim) to its logits or its risk, (C,).
        bag: Features, (n, dim).
        zero: What counts as a patch that adds nothing, (dim,) or (n, dim).
        link: What makes the prediction of the outputs.
    """
    import numpy as np
    import torch

    leaf = bag.detach().clone().requires_grad_()
    with torch.enable_grad():
        outputs = forward(leaf)  # (C,)
        columns = []
        for at in range(len(outputs)):
            last = at == len(outputs) - 1
            (slope,) = torch.autograd.grad(outputs[at], leaf, retain_graph=not last)  # (n, dim)
            columns.append(((leaf.detach() - zero) * slope).sum(dim=1).double())  # (n,)
    values: Floats = torch.stack(columns, dim=1).cpu().numpy()  # (n, C)
    total: Floats = outputs.detach().double().cpu().numpy()  # (C,)
    return Contribution(np.asarray(values), total - values.sum(axis=0), link, GRADIENT)
