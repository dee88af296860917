"""Routing: how much each expert counts for a patch, and the weighted sum of their heads.

Source: arXiv 2506.21857, inference. With d_c the Euclidean distance of a patch to step-1 centroid c
and q = softmax(-d / tau), the weight of expert e is the sum of q_c over its centroids.

``soft`` is that. ``hard`` takes the expert of the nearest centroid and ``mean`` weighs all experts
alike; both are compared in the paper. ``random`` (a fixed expert per patch, a hash of its features)
and ``concat`` (all experts side by side) are controls of ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from spade_bench.encoders.spade.numerics import exact_float32
from spade_bench.errors import ConfigError

__all__ = ["NEGLIGIBLE", "ROUTINGS", "expert_weights", "mix_all", "mix_experts", "mix_sparse",
           "nearest_centroid", "rows_that_matter"]  # fmt: skip

ROUTINGS = ("soft", "hard", "mean", "random", "concat")
NEGLIGIBLE = 1e-6
_DENSE_ABOVE = 0.5  # share of active (patch, expert) pairs from which gathering rows stops paying
_BLOCK = 4096
_GATE_BLOCK = 512  # patches whose features stay in cache between the three passes over them

Head = Callable[[int, Tensor], Tensor]


def expert_weights(
    features: Tensor,
    centroids: Tensor,
    centroid_expert: Tensor,
    n_experts: int,
    *,
    routing: str = "soft",
    tau: float = 0.1,
) -> Tensor:
    """Return the weight of each expert for each patch.

    Args:
        features: Base features (n, D).
        centroids: Step-1 centroids (C, D) float32.
        centroid_expert: Expert of each centroid (C,) int64.
        n_experts: K.
        routing: One of :data:`ROUTINGS`; ``concat`` gives every expert weight 1.
        tau: Temperature of ``soft``.

    Returns:
        (n, K) float32; rows sum to 1 except for ``concat``.

    Raises:
        ConfigError: When the routing is unknown or tau is not positive.
    """
    if routing not in ROUTINGS:
        raise ConfigError(
            f"unknown routing '{routing}'", where="routing", fix=f"Use one of {', '.join(ROUTINGS)}"
        )
    if not tau > 0:
        raise ConfigError(f"tau must be positive, not {tau}", where="routing.tau")
    n = len(features)
    if routing in {"mean", "concat"}:
        value = 1.0 if routing == "concat" else 1.0 / n_experts
        return torch.full((n, n_experts), value, device=features.device)
    if routing == "random":
        return functional.one_hot(_row_hash(features) % n_experts, n_experts).float()
    with exact_float32(features.device):
        distances = _distances(features.float(), centroids)  # (n, C)
    if routing == "hard":
        return functional.one_hot(centroid_expert[distances.argmin(dim=1)], n_experts).float()
    share = torch.softmax(distances / -tau, dim=1)  # (n, C)
    weights = torch.zeros(n, n_experts, device=features.device)  # (n, K)
    return weights.index_add_(1, centroid_expert, share)


def nearest_centroid(features: Tensor, centroids: Tensor) -> Tensor:
    """Return the nearest step-1 centroid of each patch and its Euclidean distance.

    Args:
        features: Base features (n, D).
        centroids: Step-1 centroids (C, D) float32.

    Returns:
        (n, 2) float32: row of the centroid, which float32 holds exactly, and distance.
    """
    with exact_float32(features.device):
        distance, row = _distances(features.float(), centroids).min(dim=1)  # (n,) each
    return torch.stack([row.float(), distance], dim=1)  # (n, 2)


def mix_experts(features: Tensor, weights: Tensor, head: Head, dim: int) -> Tensor:
    """Return sum_e w_e head_e(x), computing no more experts than matter.

    Experts with weight up to :data:`NEGLIGIBLE` are left out, which moves the result by at most
    K * 1e-6 times the norm of an embedding. Where more than half of the pairs are active, all are
    computed instead; so they are on a GPU, where asking which matter costs more than computing all.

    Args:
        features: (n, D).
        weights: (n, K).
        head: Maps (expert, rows of features (m, D)) to embeddings (m, P).
        dim: P.

    Returns:
        (n, P) float32.
    """
    if features.device.type == "cuda":
        return mix_all(features, weights, head, dim)
    out = torch.empty(len(features), dim, device=features.device)
    for start in range(0, len(features), _BLOCK):
        x, w = features[start : start + _BLOCK], weights[start : start + _BLOCK]
        dense = bool((w > NEGLIGIBLE).float().mean() > _DENSE_ABOVE)
        out[start : start + _BLOCK] = (mix_all if dense else mix_sparse)(x, w, head, dim)
    return out


def mix_all(features: Tensor, weights: Tensor, head: Head, dim: int) -> Tensor:
    """Return sum_e w_e head_e(x) over every expert; see :func:`mix_experts`."""
    out = torch.zeros(len(features), dim, device=features.device)  # (n, P)
    for expert in range(weights.shape[1]):
        out.addcmul_(head(expert, features), weights[:, expert, None])  # (n, P)
    return out


def mix_sparse(features: Tensor, weights: Tensor, head: Head, dim: int) -> Tensor:
    """Return sum_e w_e head_e(x) over the experts that matter; see :func:`mix_experts`."""
    out = torch.zeros(len(features), dim, device=features.device)  # (n, P)
    for expert in range(weights.shape[1]):
        rows = rows_that_matter(weights[:, expert], NEGLIGIBLE)  # (m,)
        if len(rows):
            h = head(expert, features.index_select(0, rows))  # (m, P)
            out.index_add_(0, rows, h * weights[rows, expert, None])  # (n, P)
    return out


def rows_that_matter(weight: Tensor, least: float) -> Tensor:
    """Return the rows (m,) in which an expert's weight (n,) is above ``least``.

    On a GPU these are all rows: to ask which matter costs a wait per expert, and computing the
    others less than that.
    """
    if weight.is_cuda:
        return torch.arange(len(weight), device=weight.device)
    return torch.nonzero(weight > least).squeeze(1)


def _distances(features: Tensor, centroids: Tensor) -> Tensor:
    """Return Euclidean distances (n, C), by one matrix product.

    Both sides are moved to the centroids' mean first: |x|^2 - 2 x c + |c|^2 cancels far fewer
    digits near the origin.
    """
    origin = centroids.mean(dim=0)  # (D,)
    c = centroids - origin  # (C, D)
    norms = (c * c).sum(dim=1)  # (C,)
    out = torch.empty(len(features), len(c), device=features.device)  # (n, C)
    step = _GATE_BLOCK if features.device.type == "cpu" else max(1, len(features))
    for start in range(0, len(features), step):
        x = features[start : start + step] - origin  # (b, D)
        squared = torch.addmm(norms, x, c.T, alpha=-2.0)  # (b, C)
        squared += torch.linalg.vector_norm(x, dim=1, keepdim=True).square()  # (b, C)
        out[start : start + step] = squared.clamp_(min=0).sqrt_()  # (b, C)
    return out


def _row_hash(features: Tensor) -> Tensor:
    """Return a non-negative hash of each row's bits, (n,) int64.

    It depends on the row alone, so a patch keeps its expert whatever bag or batch it comes in.
    """
    bits = features.float().contiguous().view(torch.int32).long() & 0xFFFFFFFF  # (n, D)
    place = torch.arange(features.shape[1], device=features.device) * 0x9E3779B1 + 0x7F4A7C15
    x = ((bits ^ (place & 0xFFFFFFFF)) * 0x7FEB352D) & 0xFFFFFFFF  # (n, D)
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF  # (n, D)
    total = (x ^ (x >> 16)).sum(dim=1) & 0xFFFFFFFF  # (n,)
    total = (total ^ (total >> 16)) * 0x7FEB352D & 0xFFFFFFFF  # (n,)
    return total ^ (total >> 15)
