"""One model of a stack on its own: predicts, shows its attention, gives its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spade_bench.device import autocast, resolve_device, small_products
from spade_bench.errors import DataError
from spade_bench.heads._contribution import Contribution, gradient_times_input
from spade_bench.heads._fitted import FittedHead, HeadInfo, no_attention
from spade_bench.heads.training.modelstack import fold_scaling
from spade_bench.heads.training.reader import Reader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags
    from spade_bench.heads._base import Model
    from spade_bench.heads._objectives import Objective

__all__ = ["FittedNetwork", "network_shapes"]

_ATTENTION = "exact: attention x output of each patch"
SCALING = ("input.reference", "input.mean", "input.scale")
TARGET = "target.scale"
_NODES = 32  # of Gauss-Legendre quadrature per panel
_MOST_PANELS = 4096  # enough for outputs of 100,000; the rest of larger ones is in the offset
_EXACT = 1e-10  # of the difference that the shares must make up, relative


class FittedNetwork(FittedHead):
    """One member of a stack.

    Args:
        info: What the head is.
        settings: Its hyperparameters.
        model: Its architecture.
        objective: Turns outputs into predictions.
        weights: Parameters of one model, and under `SCALING` how it scales features, (D,) each;
            under `TARGET` mean and spread of the targets, (2,), where the objective scales them.
        pooled: Whether it sees mean vectors instead of bags.
        device: Where it runs: `auto`, `cpu` or `cuda[:n]`.
    """

    def __init__(
        self,
        info: HeadInfo,
        settings: Any,
        model: Model,
        objective: Objective,
        weights: Mapping[str, torch.Tensor],
        *,
        pooled: bool,
        device: str,
    ) -> None:
        super().__init__(info)
        self._settings, self._model, self._objective = settings, model, objective
        self._weights, self._pooled = dict(weights), pooled
        self._device = resolve_device(device)
        self._reference, mean, scale = (self._weights[name].to(self._device) for name in SCALING)
        own = {k: w for k, w in self._weights.items() if k not in (*SCALING, TARGET)}
        scale_of = self._weights.get(TARGET)
        level, spread = (0.0, 1.0) if scale_of is None else scale_of.tolist()
        self._mean, self._spread = float(level), float(spread)
        stacked = {k: w.to(self._device).unsqueeze(0) for k, w in own.items()}  # S = 1
        shift = mean.unsqueeze(0) if bool(mean.any()) else None
        self._p = fold_scaling(stacked, shift, scale.unsqueeze(0))

    def predict(self, bags: CaseBags, cases: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Predict. See `FittedHead.predict`."""
        self.check_width(bags.dim)
        chosen = list(range(len(bags))) if cases is None else [int(case) for case in cases]
        pooled = bags.pooled().astype("float32")[:, None] if self._pooled else None
        reader = self._reader(
            bags.__getitem__ if pooled is None else pooled.__getitem__,
            len(bags),
            None if self._pooled else bags,
        )
        rows: dict[int, torch.Tensor] = {}
        fast = small_products(self._device) if self._model.small else nullcontext()
        with torch.no_grad(), fast:
            for batch in reader.each_batch(chosen, self._reference):
                with autocast(self._device, self._settings.precision):
                    out = self._model.forward(batch.x, batch.mask, self._p, None)  # (1, B, K)
                rows.update(zip(batch.at, out[0].to(self._reference.dtype), strict=True))
        out = torch.stack([rows[at] for at in range(len(chosen))])  # (m, K)
        found: NDArray[np.float64] = (
            self._objective.predict(out.double().unsqueeze(0))[0].cpu().numpy()
        )
        return self._mean + self._spread * found if self._objective.scaled else found

    def attention(self, bag: NDArray[np.floating]) -> NDArray[np.float64]:
        """Attention over the patches of a bag. See `FittedHead.attention`."""
        if self._model.attention is None:
            raise no_attention(self.info.head)
        self.check_bag(bag)
        reader = self._reader(lambda _: bag.astype("float32"), 1)
        (batch,) = reader.batches([0], self._reference)
        with torch.no_grad(), autocast(self._device, self._settings.precision):
            weights = self._model.attention(batch.x, None, self._p)  # (1, 1, n)
        found: NDArray[np.float64] = weights[0, 0].double().cpu().numpy()
        return found

    def contributions(self, bag: NDArray[np.floating]) -> Contribution:
        """What each patch adds to the logits or the risk. See `FittedHead.contributions`.

        Where outputs are sums over patches (`Model.shares`) and what is explained is the outputs
        themselves, shares are exact. The risk of discrete time is a function of several outputs:
        shares of the outputs are weighed by its mean slope on the way from the biases to the
        outputs (integrated gradients), so that they add up to the risk beyond that of the biases.
        Other models are explained by gradient x input, where a patch like the mean of the training
        patches adds nothing.
        """
        self.check_bag(bag)
        reader = self._reader(lambda _: bag.astype("float32"), 1)
        (batch,) = reader.batches([0], self._reference)
        if self._model.shares is None:
            return self._by_gradient(batch.x)
        with torch.no_grad(), autocast(self._device, self._settings.precision):
            of_patches, bias = self._model.shares(batch.x, self._p)  # (n, K), (K,)
        of_patches, bias = of_patches.double(), bias.double()
        attention = None if self._model.attention is None else self.attention(bag)
        method = "exact: sum over patches" if attention is None else _ATTENTION
        if not self._objective.direct:
            slope, bias = self._slope(of_patches.sum(dim=0), bias)  # (K, C), (C,)
            of_patches = of_patches @ slope  # (n, C)
            method += "; integrated gradients of the risk over the time bins"
        values = self._spread * of_patches.cpu().numpy()  # (n, C)
        offset = self._mean + self._spread * bias.cpu().numpy()  # (C,)
        return Contribution(values, offset, self._objective.link, method, attention)

    def _slope(
        self, patches: torch.Tensor, bias: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """How much what is explained changes with each output between the biases and the outputs.

        Args:
            patches: What all patches add to the outputs, (K,).
            bias: What is added besides, (K,).

        Returns:
            The mean slope (K, C), and what the biases alone give (C,), with what the slope leaves
            unexplained, if anything, so that nothing is lost.
        """
        ends = torch.stack([bias, bias + patches])  # (2, K)
        start, end = self._objective.explained(ends.unsqueeze(0))[0]  # (C,) each
        mean, panels = self._mean_slope(patches, bias, 1), 1  # (K, C)
        # Where outputs are large the risk turns within a small part of the way, which the nodes of
        # one panel would step over.
        while not self._made_up(patches @ mean, end - start) and panels < _MOST_PANELS:
            panels *= 4
            mean = self._mean_slope(patches, bias, panels)
        return mean, end - patches @ mean

    @staticmethod
    def _made_up(shares: torch.Tensor, difference: torch.Tensor) -> bool:
        """Whether shares (C,) add up to the difference that they are shares of (C,)."""
        return bool(((shares - difference).abs() <= _EXACT * difference.abs().clamp(min=1)).all())

    def _mean_slope(self, patches: torch.Tensor, bias: torch.Tensor, panels: int) -> torch.Tensor:
        """Mean slope (K, C) from the biases (K,) to the outputs, over so many equal panels."""
        nodes, sizes = np.polynomial.legendre.leggauss(_NODES)
        starts = np.arange(panels)[:, None]  # (P, 1)
        places = ((starts + (nodes + 1) / 2) / panels).ravel()  # (m,) in 0..1
        steps = torch.from_numpy(places).to(bias)  # (m,)
        weights = torch.from_numpy(np.tile(sizes / 2 / panels, panels)).to(bias)  # (m,)
        with torch.enable_grad():
            points = (bias + steps.unsqueeze(1) * patches).requires_grad_()  # (m, K)
            ends = self._objective.explained(points.unsqueeze(0))[0]  # (m, C)
            slopes = [
                torch.autograd.grad(ends[:, at].sum(), points, retain_graph=True)[0]  # (m, K)
                for at in range(ends.shape[1])
            ]
        return torch.stack([weights @ slope for slope in slopes], dim=1)  # (K, C)

    def _by_gradient(self, x: torch.Tensor) -> Contribution:
        """Gradient x input of a bag minus the reference, (1, n, D)."""

        def forward(bag: torch.Tensor) -> torch.Tensor:  # (n, D) -> (C,)
            seen = bag.mean(dim=0, keepdim=True) if self._pooled else bag
            with autocast(self._device, self._settings.precision):
                out = self._model.forward(seen.unsqueeze(0), None, self._p, None)  # (1, 1, K)
            said = self._objective.explained(out.to(self._reference.dtype))[0, 0]
            return self._mean + self._spread * said

        mean = self._weights["input.mean"].to(self._device)  # beyond the reference, (D,)
        return gradient_times_input(forward, x[0], mean, self._objective.link)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Parameters and scaling, by name."""
        return {name: weight.numpy() for name, weight in self._weights.items()}

    def _reader(self, bag: Any, n_cases: int, bags: CaseBags | None = None) -> Reader:
        return Reader(
            bag,
            n_cases,
            self.info.dim,
            device=self._device,
            dtype=self._reference.dtype,
            resident=0,
            half=self._settings.precision == "bf16",
            bags=bags,
        )


def network_shapes(
    model: Model, objective: Objective, settings: Any, dim: int, n_outputs: int
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor of a `FittedNetwork`.

    Raises:
        DataError: When the sizes are none of a model.
    """
    if dim < 1 or n_outputs < 1:
        raise DataError(f"features of width {dim} and {n_outputs} outputs make no model")
    width = objective.width(n_outputs, settings)
    drawn = model.initial(dim, width, settings, torch.Generator())
    kind = "float64" if settings.precision == "fp64" else "float32"
    shapes = {name: (tuple(w.shape), kind) for name, w in drawn.items()}
    scaled = {TARGET: ((2,), "float64")} if objective.scaled else {}
    return {**dict.fromkeys(SCALING, ((dim,), kind)), **shapes, **scaled}
