"""What a stack is trained for: classes, values, discrete-time survival, or Cox's likelihood."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from spade_bench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.heads._contribution import Link

__all__ = ["OBJECTIVES", "Objective", "target_scale"]


class Objective(Protocol):
    """Targets, loss and prediction of a stack of S models on B cases each.

    Attributes:
        link: What makes the prediction of what `explained` returns.
        direct: Whether `explained` returns the outputs as they are.
        scaled: Whether a model learns its targets less their mean over their spread, which its
            predictions are then put back to; see `target_scale`.
    """

    link: Link
    direct: bool
    scaled: bool

    def width(self, n_outputs: int, settings: Any) -> int:
        """Return the number of values a model puts out for a case, K."""

    def encode(
        self, target: NDArray[Any], train_target: NDArray[Any], n_outputs: int, settings: Any
    ) -> NDArray[np.float64]:
        """Turn targets of `Fit` into rows (n, T); only training targets set weights and bins."""

    def loss(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return one loss a model: (S, B, K) and (S, B, T) -> (S,)."""

    def predict(self, out: torch.Tensor) -> torch.Tensor:
        """Turn (S, B, K) into probabilities (S, B, C), values or risks (S, B, 1)."""

    def explained(self, out: torch.Tensor) -> torch.Tensor:
        """Turn (S, B, K) into what patches add to: logits (S, B, C), values or risks (S, B, 1)."""


class Classes:
    """Cross entropy; with ``balanced`` every class of the training cases weighs alike."""

    link: Link = "softmax"
    direct = True
    scaled = False

    def width(self, n_outputs: int, settings: Any) -> int:
        """One logit a class."""
        return n_outputs

    def encode(
        self, target: NDArray[Any], train_target: NDArray[Any], n_outputs: int, settings: Any
    ) -> NDArray[np.float64]:
        """Class index and weight of each case, (n, 2)."""
        size = np.bincount(train_target, minlength=n_outputs)  # (C,)
        weight = np.ones(n_outputs)
        if settings.balanced:
            present = int((size > 0).sum())
            weight = np.where(size > 0, len(train_target) / (present * np.maximum(size, 1)), 1.0)
        return np.stack([target, weight[target]], axis=1).astype(np.float64)

    def loss(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Weighted cross entropy, averaged over the cases."""
        wanted = target[..., :1].long()  # (S, B, 1)
        entropy = -out.log_softmax(dim=2).gather(2, wanted).squeeze(2)  # (S, B)
        return (entropy * target[..., 1]).mean(dim=1)  # (S,)

    def predict(self, out: torch.Tensor) -> torch.Tensor:
        """Class probabilities."""
        return out.softmax(dim=2)

    def explained(self, out: torch.Tensor) -> torch.Tensor:
        """The logits."""
        return out


class DiscreteTime:
    """Likelihood of the time bin of the event, or of getting through the bin of censoring.

    Zadeh and Schmid, "Bias in cross-entropy-based training of deep survival networks", 2021; the
    bins are cut at quantiles of the event times of the training cases.
    """

    link: Link = "risk"
    direct = False
    scaled = False

    def width(self, n_outputs: int, settings: Any) -> int:
        """One hazard a bin."""
        return int(settings.bins)

    def encode(
        self, target: NDArray[Any], train_target: NDArray[Any], n_outputs: int, settings: Any
    ) -> NDArray[np.float64]:
        """Bin and event of each case, (n, 2)."""
        happened = train_target[train_target[:, 0] > 0, 1]
        times = happened if len(happened) else train_target[:, 1]
        edges = np.quantile(times, np.arange(1, settings.bins) / settings.bins)  # (bins - 1,)
        bins = np.searchsorted(edges, target[:, 1], side="right")  # (n,)
        return np.stack([bins, target[:, 0]], axis=1).astype(np.float64)

    def loss(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Negative log likelihood, averaged over the cases."""
        last = target[..., :1].long()  # (S, B, 1)
        event = target[..., 1]  # (S, B)
        survived = torch.nn.functional.logsigmoid(-out).cumsum(dim=2)  # (S, B, K)
        through = survived.gather(2, last).squeeze(2)  # (S, B), log S up to and with the bin
        logit = out.gather(2, last).squeeze(2)  # (S, B)
        # log S before the bin + log hazard = log S through the bin + the hazard's logit
        return -(through + event * logit).mean(dim=1)  # (S,)

    def predict(self, out: torch.Tensor) -> torch.Tensor:
        """Risk: minus the expected number of bins survived."""
        survival = torch.nn.functional.logsigmoid(-out).cumsum(dim=2).exp()  # (S, B, K)
        return -survival.sum(dim=2, keepdim=True)  # (S, B, 1)

    def explained(self, out: torch.Tensor) -> torch.Tensor:
        """The risk, which is no sum over the bins' logits."""
        return self.predict(out)  # (S, B, 1)


class Cox:
    """Negative partial likelihood (Breslow's ties) of the cases of a step, per event."""

    link: Link = "risk"
    direct = True
    scaled = False

    def width(self, n_outputs: int, settings: Any) -> int:
        """One log risk."""
        return 1

    def encode(
        self, target: NDArray[Any], train_target: NDArray[Any], n_outputs: int, settings: Any
    ) -> NDArray[np.float64]:
        """Event and days, (n, 2), as they are.

        Raises:
            DataError: When no training case has an event, so that there is nothing to learn.
        """
        if not train_target[:, 0].any():
            raise DataError("no event among the training cases", where="Cox partial likelihood")
        return np.asarray(target, dtype=np.float64)

    def loss(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Zero where a step holds no event."""
        risk = out.squeeze(2)  # (S, B)
        event, days = target[..., 0], target[..., 1]  # (S, B) each
        at_risk = days.unsqueeze(1) >= days.unsqueeze(2)  # (S, B, B): [i, j] j still there at i
        others = risk.unsqueeze(1).masked_fill(~at_risk, -math.inf)  # (S, B, B)
        likelihood = (event * (risk - others.logsumexp(dim=2))).sum(dim=1)  # (S,)
        return -likelihood / event.sum(dim=1).clamp_min(1)  # (S,)

    def predict(self, out: torch.Tensor) -> torch.Tensor:
        """The log risk."""
        return out

    def explained(self, out: torch.Tensor) -> torch.Tensor:
        """The log risk."""
        return out


class SquaredError:
    """Mean squared error of a value, in units of its spread among the training cases."""

    link: Link = "value"
    direct = True
    scaled = True

    def width(self, n_outputs: int, settings: Any) -> int:
        """One value."""
        return n_outputs

    def encode(
        self, target: NDArray[Any], train_target: NDArray[Any], n_outputs: int, settings: Any
    ) -> NDArray[np.float64]:
        """Values less the mean of the training cases, over their spread, (n, 1)."""
        mean, spread = target_scale(train_target)
        scaled: NDArray[np.float64] = ((target - mean) / spread)[:, None]  # (n, 1)
        return scaled

    def loss(self, out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Squared error, averaged over the cases."""
        return ((out - target) ** 2).mean(dim=(1, 2))  # (S,)

    def predict(self, out: torch.Tensor) -> torch.Tensor:
        """The scaled value."""
        return out

    def explained(self, out: torch.Tensor) -> torch.Tensor:
        """The scaled value."""
        return out


def target_scale(target: NDArray[Any]) -> tuple[float, float]:
    """Mean and spread of the values of training cases, (n,); a spread of 1 where all are alike."""
    spread = float(np.std(target))
    return float(np.mean(target)), spread if spread > 0 else 1.0


OBJECTIVES: dict[str, Objective] = {
    "classes": Classes(),
    "squared-error": SquaredError(),
    "discrete-time": DiscreteTime(),
    "cox": Cox(),
}
