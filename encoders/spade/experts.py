"""SPADE's experts: two projection heads each, and the contrastive loss that ties them together.

Source: "SPADE: Spatial Transcriptomics and Pathology Alignment Using a Mixture of Data Experts for
an Expressive Latent Space" (arXiv 2506.21857), section on contrastive learning; the loss with
soft targets is that of BLEEP (arXiv 2306.01859).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.encoders.spade.streams import torch_generator

__all__ = [
    "DROPOUT",
    "MLP_NAMES",
    "PARAMETER_NAMES",
    "PROJECTION_DIM",
    "ExpertPair",
    "ProjectionHead",
    "contrastive_loss",
    "head_parameters",
    "linear",
    "project",
    "refine",
]

PROJECTION_DIM = 256
DROPOUT = 0.1
LAYER_NORM_EPS = 1e-5
MASKED = -1e30
"""Far below any logit, and still finite once two of them are added."""
PARAMETER_NAMES = (
    "projection.weight",  # (P, in)
    "projection.bias",  # (P,)
    "fc.weight",  # (P, P)
    "fc.bias",  # (P,)
    "layer_norm.weight",  # (P,)
    "layer_norm.bias",  # (P,)
)
# The head that the public release's routing script expects; imported models only.
MLP_NAMES = (
    "net.0.weight",  # (H, in)
    "net.0.bias",  # (H,)
    "net.2.weight",  # (P, H)
    "net.2.bias",  # (P,)
)


def linear(z: Tensor, weight: Tensor, bias: Tensor, low_precision: bool = False) -> Tensor:
    """Apply a linear layer, its inputs rounded to bfloat16 when ``low_precision`` is set.

    The result is in the precision of ``bias`` either way, so that whatever follows (LayerNorm, the
    n x n products) stays in float32.

    Args:
        z: Inputs (n, in).
        weight: Weights (out, in).
        bias: Biases (out,).
        low_precision: Whether to multiply in bfloat16.

    Returns:
        (n, out).
    """
    if not low_precision:
        return functional.linear(z, weight, bias)  # (n, out)
    product = functional.linear(z.to(torch.bfloat16), weight.to(torch.bfloat16))  # (n, out)
    return product.to(bias.dtype) + bias  # (n, out)


def project(
    z: Tensor,
    parameters: Mapping[str, Tensor],
    keep: Tensor | None = None,
    low_precision: bool = False,
) -> Tensor:
    """Run one projection head: p = W1 z + b1; h = LayerNorm(Dropout(W2 GELU(p) + b2) + p).

    Heads with the parameters of :data:`MLP_NAMES` are h = W2 ReLU(W1 z + b1) + b2 instead.

    Args:
        z: Features or expression (n, in).
        parameters: Tensors by the names of :data:`PARAMETER_NAMES` or :data:`MLP_NAMES`.
        keep: Dropout multipliers (n, P), 0 or 1 / (1 - rate); None means no dropout.
        low_precision: Whether the linear layers multiply in bfloat16.

    Returns:
        Embeddings (n, P).
    """
    if "net.0.weight" in parameters:
        w1, b1, w2, b2 = (parameters[name] for name in MLP_NAMES)
        hidden = functional.relu(linear(z, w1, b1, low_precision))  # (n, H)
        return linear(hidden, w2, b2, low_precision)  # (n, P)
    first = parameters["projection.weight"], parameters["projection.bias"]
    return refine(linear(z, *first, low_precision), parameters, keep, low_precision)  # (n, P)


def refine(
    p: Tensor,
    parameters: Mapping[str, Tensor],
    keep: Tensor | None = None,
    low_precision: bool = False,
) -> Tensor:
    """Run what follows the first layer of a residual head on p (n, P); see :func:`project`."""
    second = parameters["fc.weight"], parameters["fc.bias"]
    h = linear(functional.gelu(p), *second, low_precision)  # (n, P)
    if keep is not None:
        h = h * keep  # (n, P)
    norm = parameters["layer_norm.weight"], parameters["layer_norm.bias"]
    return functional.layer_norm(h + p, (p.shape[-1],), *norm, LAYER_NORM_EPS)  # (n, P)


def head_parameters(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the parameters of one head, `image` or `spot`, out of an expert's, by short name."""
    start = f"{head}."
    return {key[len(start) :]: value for key, value in tensors.items() if key.startswith(start)}


class ProjectionHead(nn.Module):
    """One head of an expert; maps a modality of width ``in_dim`` to ``dim`` (P).

    Args:
        in_dim: Width of the input: D for images, G for expression.
        dim: Projection width P.
        generator: Source of the initial weights; None draws from torch's global generator.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int = PROJECTION_DIM,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_dim = in_dim
        self.dim = dim
        # The layers draw weights of their own first; the global stream must not notice.
        with torch.random.fork_rng(devices=[], enabled=generator is not None):
            self.projection = nn.Linear(in_dim, dim)
            self.fc = nn.Linear(dim, dim)
        self.layer_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.reset(generator)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw new weights: uniform within +-1/sqrt(fan in), torch's own rule for linear layers."""
        for layer in (self.projection, self.fc):
            bound = 1 / math.sqrt(layer.in_features)
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        self.layer_norm.weight.fill_(1.0)
        self.layer_norm.bias.zero_()

    def forward(self, z: Tensor, keep: Tensor | None = None, low_precision: bool = False) -> Tensor:
        """Embed (n, in) as (n, P); see :func:`project`."""
        return project(z, dict(self.named_parameters()), keep, low_precision)


class ExpertPair(nn.Module):
    """An expert: a head for image features and one for expression.

    Args:
        image: Head of width D.
        spot: Head of width G; None in an import that came without its gene side.
    """

    def __init__(self, image: ProjectionHead, spot: ProjectionHead | None) -> None:
        super().__init__()
        self.image = image
        self.spot = spot

    @classmethod
    def create(
        cls, feature_dim: int, n_genes: int, dim: int = PROJECTION_DIM, *, seed: int, expert: int
    ) -> ExpertPair:
        """Build an untrained expert whose weights depend on ``seed`` and ``expert`` alone."""
        return cls(
            ProjectionHead(feature_dim, dim, torch_generator(seed, expert, "init", "image")),
            ProjectionHead(n_genes, dim, torch_generator(seed, expert, "init", "spot")),
        )


def contrastive_loss(
    image: Tensor,
    spot: Tensor,
    temperature: float = 1.0,
    detach_targets: bool = False,
    group: Tensor | None = None,
) -> Tensor:
    """Symmetric cross-entropy between the two modalities, with targets softened by similarity.

    With L = S I^T / T and A = softmax_rows(T (I I^T + S S^T) / 2), the loss is the mean over i of
    half the sum of -sum_j A_ij log softmax_rows(L)_ij and -sum_j A_ji log softmax_rows(L^T)_ij.
    The n x n products and both softmaxes are formed in float32 at least, because rows of norm
    about sqrt(P) give logits of hundreds.

    Args:
        image: Image embeddings I (n, P), not normalised.
        spot: Expression embeddings S (n, P), row i from the same spot as row i of ``image``.
        temperature: T.
        detach_targets: Whether A is held constant in the backward pass.
        group: Which genes of the panel each spot measures, as a number, (n,). Spots are then told
            only from those that measure the same genes, in both softmaxes and in the targets;
            else what is not measured would give the section away. None: all measure the same.

    Returns:
        Scalar loss.

    Raises:
        ValueError: When the two do not have the same two-dimensional shape.
    """
    if image.ndim != 2 or image.shape != spot.shape:
        raise ValueError(
            f"image and spot must both be (n, P); got {tuple(image.shape)}, {tuple(spot.shape)}"
        )
    with exact_float32(image.device):
        pair = _at_least_float32(image), _at_least_float32(spot)
        return _loss(*pair, temperature, detach_targets, group)


def _loss(
    image: Tensor, spot: Tensor, temperature: float, detach_targets: bool, group: Tensor | None
) -> Tensor:
    logits = spot @ image.T / temperature  # (n, n)
    similarity = (image @ image.T + spot @ spot.T) / 2  # (n, n)
    if group is not None:
        apart = group[:, None] != group[None, :]  # (n, n)
        logits = logits.masked_fill(apart, MASKED)  # (n, n)
        similarity = similarity.masked_fill(apart, MASKED)  # (n, n)
    targets = torch.softmax(similarity * temperature, dim=1)  # (n, n)
    if detach_targets:
        targets = targets.detach()
    loss_spot = -(targets * torch.log_softmax(logits, dim=1)).sum(dim=1)  # (n,)
    # softmax_rows(L^T)_ij A_ji, summed over j, is a column sum once transposed back.
    loss_image = -(targets * torch.log_softmax(logits, dim=0)).sum(dim=0)  # (n,)
    return (loss_spot + loss_image).mean() / 2


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
