"""Experts that start from the single expert: better where clusters differ, else no worse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.encoders.spade.pretraining.validation import METRICS, retrieval

D, G, K, LOOKS = 12, 30, 3, 4
GENES = tuple(f"G{i}" for i in range(G))
CONFIG = TrainingConfig(
    epochs=20, batch_size=32, lr=3e-3, proj_dim=16, dropout=0.0, layout="sequential"
)


def _percentiles(seed: int, folder: Path, *, differ: bool, n: int = 600) -> tuple[float, float]:
    """Plant spots, train the single expert and the mixture from it; return both percentiles."""
    rng = np.random.default_rng(seed)
    expert, look = rng.integers(0, K, n), rng.normal(size=(n, LOOKS))
    centres = (4 * rng.normal(size=(K, D))).astype(np.float32)
    relations = rng.normal(size=(K, LOOKS, G))[expert if differ else np.zeros(n, int)]  # (n, L, G)
    x = centres[expert] + look @ rng.normal(size=(LOOKS, D)) + 0.3 * rng.normal(size=(n, D))
    rate = np.exp(1 + 0.4 * np.einsum("nl,nlg->ng", look, relations))
    g = np.log1p(rng.poisson(rate)).astype(np.float32)
    x = x.astype(np.float32)
    split = np.repeat(["train", "val", "test"], [n // 2, n // 6, n - n // 2 - n // 6])
    options = {"seed": seed, "device": "cpu"}
    alone = TrainingData(x, g, np.zeros(n, dtype=np.int64), split, 1)
    single = train_experts(alone, CONFIG, folder / "k1", **options)  # type: ignore[arg-type]
    data = TrainingData(x, g, expert, split, K)
    start = single.weights[0]
    mixture = train_experts(data, CONFIG, folder / "mix", initial=start, **options)  # type: ignore[arg-type]
    table = Experts(centres, np.arange(K), ("Skin",) * K, K)
    one = Experts(centres, np.zeros(K, dtype=np.int64), ("Skin",) * K, 1)
    held_out = [("test", x[split == "test"], g[split == "test"])]
    found = []
    for experts, weights in ((table, mixture.weights), (one, single.weights)):
        model = SpadeModel(ModelInfo(base_encoder="toy", tau=0.5), experts, GENES, weights)
        found.append(retrieval(model, held_out, GENES).mean()[:, METRICS.index("mean_percentile")])
    return float(found[0].mean()), float(found[1].mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_mixture_beats_its_single_expert_where_clusters_differ(
    seed: int, tmp_path: Path
) -> None:
    mixture, single = _percentiles(seed, tmp_path, differ=True)
    assert mixture < single - 0.05
    assert mixture < 0.1


def test_it_is_not_worse_where_there_is_one_relation(tmp_path: Path) -> None:
    mixture, single = _percentiles(0, tmp_path, differ=False)
    assert mixture < single + 0.02
