"""Descriptions of a trained model that need no retrieval: experts, routing, soft targets."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from spade_bench.encoders.spade.experts import MASKED
from spade_bench.encoders.spade.pretraining.training.state import kept_epoch
from spade_bench.encoders.spade.pretraining.validation.scoring import Scorable, dense_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["expert_summary", "read_training", "routing_summary", "target_peaks", "target_summary"]

_BATCHES = 8  # batches an expert on which the soft targets are looked at
_ROUTED = 20_000  # spots of a split on which routing is described


def read_training(path: Path) -> list[dict[str, float | None]]:
    """Read `training.csv`; empty cells become None."""
    with path.open(newline="", encoding="utf-8") as handle:
        return [
            {key: _number(value) for key, value in row.items()} for row in csv.DictReader(handle)
        ]


def expert_summary(
    obs: pd.DataFrame, n_experts: int, training: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return per expert its sizes by split, its organs and samples, and its loss curve.

    Args:
        obs: One row a spot with `split`, `expert`, `organ`, `sample`.
        n_experts: K.
        training: Rows of `training.csv`.
    """
    rows: list[dict[str, Any]] = []
    for expert in range(n_experts):
        inside = obs[obs["expert"] == expert]
        train = inside[inside["split"] == "train"]
        curve = sorted(
            (row for row in training if row["expert"] == expert), key=lambda row: row["epoch"]
        )
        rows.append(
            {
                "expert": expert,
                "n": {str(k): int(v) for k, v in inside["split"].value_counts().items()},
                "organs": {str(k): int(v) for k, v in train["organ"].value_counts().items() if v},
                "samples": int(train["sample"].nunique()),
                "curve": {
                    key: [row[key] for row in curve] for key in ("epoch", "train_loss", "val_loss")
                },
                **_best(curve),
            }
        )
    return rows


def routing_summary(
    model: Scorable, features: Any, rows: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """Describe the soft routing of some spots.

    Args:
        model: The model.
        features: (N, D) features, an array or a dataset that takes sorted row numbers.
        rows: Row numbers to describe; at most 20,000 of them are drawn.
        seed: Seed of that draw.

    Returns:
        `entropy_mean` and `entropy_median` in nats, their share of log K, the exponential of the
        mean entropy (experts in use per patch), and each expert's share of the total weight.
    """
    if len(rows) > _ROUTED:
        rows = np.sort(np.random.default_rng(seed).choice(rows, _ROUTED, replace=False))
    blocks = [rows[start : start + 4096] for start in range(0, len(rows), 4096)]
    weights = torch.cat([_route(model, features, block) for block in blocks]).double()
    entropy = -torch.special.xlogy(weights, weights).sum(dim=1)  # (n,)
    log_k = float(np.log(model.n_experts))
    mean = float(entropy.mean())
    return {
        "n_spots": len(rows),
        "entropy_mean": mean,
        "entropy_median": float(entropy.median()),
        "entropy_share_of_log_k": mean / log_k if log_k > 0 else 0.0,
        "experts_per_patch": float(np.exp(mean)),
        "usage": weights.mean(dim=0).tolist(),
    }


def target_peaks(
    image: torch.Tensor,
    spot: torch.Tensor,
    temperature: float,
    group: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the largest probability of each row of the soft targets A of a batch, (n,).

    Args:
        image: Image embeddings I, (n, P).
        spot: Expression embeddings S, (n, P).
        temperature: T, as in `contrastive_loss`.
        group: As there, (n,) or None.
    """
    similarity = (image @ image.T + spot @ spot.T) / 2  # (n, n)
    if group is not None:
        similarity = similarity.masked_fill(group[:, None] != group[None, :], MASKED)  # (n, n)
    return torch.softmax(similarity.float() * temperature, dim=1).amax(dim=1)  # (n,)


def target_summary(
    model: Scorable,
    features: Any,
    expression: Any,
    genes: Sequence[str],
    obs: pd.DataFrame,
    *,
    temperature: float = 1.0,
    batch_size: int = 128,
    seed: int = 0,
) -> dict[str, Any]:
    """Say how peaked the soft targets are on training batches, without dropout.

    A median of 1.0000 means one-hot targets: the loss is then that of plain contrastive learning.

    Args:
        model: A model with expression heads.
        features: (N, D) features.
        expression: (N, G) expression.
        genes: Names of its columns.
        obs: One row a spot with `split` and `expert`, and `panel_group` where spots measure
            different genes, which are then not compared.
        temperature: Contrastive temperature T.
        batch_size: Spots a batch, as in training.
        seed: Seed of the draw of batches.
    """
    rng = np.random.default_rng(seed)
    trained = getattr(model, "heads", range(model.n_experts))
    groups: torch.Tensor | None = None
    if "panel_group" in obs:
        groups = torch.from_numpy(obs["panel_group"].to_numpy(np.int64))  # (N,)
    per_expert: list[float | None] = []
    peaks: list[torch.Tensor] = []
    for expert in range(model.n_experts):
        rows = np.flatnonzero((obs["split"] == "train") & (obs["expert"] == expert))
        if len(rows) < 2 or expert not in trained:
            per_expert.append(None)
            continue
        rows = np.sort(rng.choice(rows, min(len(rows), _BATCHES * batch_size), replace=False))
        order = rng.permutation(len(rows))
        x = torch.from_numpy(dense_rows(features, rows))  # (n, D)
        g = torch.from_numpy(dense_rows(expression, rows))  # (n, G)
        image = model.encode(x, expert=expert)  # (n, P)
        spot = model.encode_expression(g, genes, expert)  # (n, P)
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        group = None if groups is None else groups[torch.from_numpy(rows)]  # (n,)
        batch_peaks = [
            target_peaks(image[b], spot[b], temperature, None if group is None else group[b])
            for b in batches
            if len(b) > 1
        ]
        peaks += batch_peaks
        per_expert.append(float(torch.cat(batch_peaks).median()))
    every = torch.cat(peaks).double() if peaks else torch.full((1,), float("nan"))
    return {
        "batch_size": batch_size,
        "median_largest_probability": float(every.median()),
        "quartiles": [float(every.quantile(q)) for q in (0.25, 0.75)],
        "share_above_0.99": float((every > 0.99).double().mean()),
        "median_by_expert": per_expert,
    }


def _route(model: Scorable, features: Any, rows: np.ndarray) -> torch.Tensor:
    weights: torch.Tensor = model.route(torch.from_numpy(dense_rows(features, rows)))  # (n, K)
    return weights


def _best(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the epoch that training keeps, and its validation loss."""
    losses = {int(row["epoch"]): row["val_loss"] for row in curve if row["val_loss"] is not None}
    if not losses:
        return {"best_epoch": None, "best_val_loss": None}
    best = kept_epoch(losses)
    return {"best_epoch": best, "best_val_loss": losses[best]}


def _number(text: str | None) -> float | None:
    if text is None or text == "":
        return None
    number = float(text)
    return number if np.isfinite(number) else None
