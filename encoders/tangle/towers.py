"""TANGLE's two towers and their loss.

Source: arXiv 2405.11618; gated attention is that of Ilse et al., ICML 2018 (arXiv 1802.04712), the
loss the symmetric InfoNCE of CLIP (arXiv 2103.00020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ExpressionTower", "SlideTower", "Tangle", "info_nce"]


class SlideTower(nn.Module):
    """Patch features of a slide to one vector: two layers, then gated attention.

    Args:
        in_dim: Width of the patch features, D.
        hidden: Width of the vector, H.
        attention: Width of the gate, A.
        dropout: Dropout after each layer; the gate's is twice that.
    """

    def __init__(self, in_dim: int, hidden: int, attention: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(in_dim, hidden)
        self.first_norm = nn.LayerNorm(hidden)
        self.second = nn.Linear(hidden, hidden)
        self.second_norm = nn.LayerNorm(hidden)
        self.value = nn.Linear(hidden, attention)
        self.gate = nn.Linear(hidden, attention)
        self.score = nn.Linear(attention, 1)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode bags.

        Args:
            x: Patch features, (B, n, D).
            mask: True at real patches, (B, n); None when all are.

        Returns:
            (B, H).
        """
        drop = self.dropout if self.training else 0.0
        h = functional.gelu(self.first_norm(self.first(x)))  # (B, n, H)
        h = functional.dropout(h, drop)  # (B, n, H)
        h = functional.gelu(self.second_norm(self.second(h)))  # (B, n, H)
        h = functional.dropout(h, drop)  # (B, n, H)
        value = functional.dropout(torch.tanh(self.value(h)), 2 * drop)  # (B, n, A)
        gate = functional.dropout(torch.sigmoid(self.gate(h)), 2 * drop)  # (B, n, A)
        score = self.score(value * gate).squeeze(-1)  # (B, n)
        if mask is not None:
            score = score.masked_fill(~mask, float("-inf"))  # (B, n)
        weight = torch.softmax(score, dim=1)  # (B, n)
        return torch.einsum("bn,bnh->bh", weight, h)  # (B, H)


class ExpressionTower(nn.Module):
    """A case's expression to one vector: three layers.

    Args:
        n_genes: Genes, G.
        hidden: Width of the vector, H.
        dropout: Dropout after each of the first two layers.
    """

    def __init__(self, n_genes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Linear(n_genes, hidden)
        self.first_norm = nn.LayerNorm(hidden)
        self.second = nn.Linear(hidden, hidden)
        self.second_norm = nn.LayerNorm(hidden)
        self.third = nn.Linear(hidden, hidden)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Encode standardised expression, (B, G) -> (B, H)."""
        drop = self.dropout if self.training else 0.0
        h = functional.relu(self.first_norm(self.first(x)))  # (B, H)
        h = functional.dropout(h, drop)  # (B, H)
        h = functional.relu(self.second_norm(self.second(h)))  # (B, H)
        h = functional.dropout(h, drop)  # (B, H)
        out: Tensor = self.third(h)  # (B, H)
        return out


class Tangle(nn.Module):
    """Both towers.

    Args:
        in_dim: Width of the patch features, D.
        n_genes: Genes, G.
        hidden: Width of both vectors, H.
        attention: Width of the gate, A.
        dropout: Dropout of the slide tower; the expression tower's is twice that.
    """

    def __init__(
        self, in_dim: int, n_genes: int, hidden: int, attention: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.slide = SlideTower(in_dim, hidden, attention, dropout)
        self.expression = ExpressionTower(n_genes, hidden, 2 * dropout)


def info_nce(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between paired vectors.

    Args:
        a: (B, H).
        b: (B, H), row i the partner of row i of ``a``.
        temperature: Divides the cosines.

    Returns:
        The mean of both directions' cross entropies, a scalar.
    """
    cosine = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T  # (B, B)
    logits = cosine / temperature  # (B, B)
    pairs = torch.arange(len(a), device=a.device)  # (B,)
    return (functional.cross_entropy(logits, pairs) + functional.cross_entropy(logits.T, pairs)) / 2
