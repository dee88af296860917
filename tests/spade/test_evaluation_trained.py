"""Controls with really trained experts: coupling is found, its absence too, shortcuts are not."""

from __future__ import annotations

import numpy as np
import pytest

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.model import SpadeModel
from spade_bench.encoders.spade.modelfolder import ModelInfo
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training import TrainingData, train_experts
from spade_bench.encoders.spade.pretraining.validation import METRICS, retrieval
from spade_bench.encoders.spade.pretraining.validation.partnerranks import partner_ranks

D, G, K, N = 16, 20, 3, 120
GENES = tuple(f"G{i}" for i in range(G))
PERCENTILE = METRICS.index("mean_percentile")
CONFIG = TrainingConfig(
    epochs=25, batch_size=32, lr=3e-3, proj_dim=16, dropout=0.0, layout="sequential"
)
REPEATS = 5


def draw(seed: int, *, coupled: bool) -> tuple[SpadeModel, np.ndarray, np.ndarray]:
    """Train on clusters of spots and return the model with held-out spots.

    Cluster and expression are unrelated. Within a cluster, expression follows the image when
    `coupled`, and is drawn independently of it when not.
    """
    rng = np.random.default_rng(seed)
    expert = rng.integers(0, K, 3 * N)
    latent = rng.normal(size=(3 * N, 3))
    centres = 8 * rng.normal(size=(K, D)).astype(np.float32)
    x = centres[expert] + latent @ rng.normal(size=(3, D)) + 0.2 * rng.normal(size=(3 * N, D))
    behind = latent if coupled else rng.normal(size=latent.shape)
    g = np.log1p(rng.poisson(np.exp(1 + 0.8 * behind @ rng.normal(size=(3, G)))))
    x, g = x.astype(np.float32), g.astype(np.float32)
    split = np.repeat(["train", "train", "test"], N)
    data = TrainingData(x, g, expert, split, K)
    result = train_experts(data, CONFIG, draw.folder / str(seed), seed=seed, device="cpu")
    table = Experts(centres, np.arange(K), ("Breast",) * K, K)
    model = SpadeModel(ModelInfo(base_encoder="toy"), table, GENES, result.weights)
    return model, x[2 * N :], g[2 * N :]


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    draw.folder = tmp_path


def fair(model: SpadeModel, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    return retrieval(model, [("held-out", x, g)], GENES).mean()[:, PERCENTILE]


def by_own_expert(model: SpadeModel, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The shortcut: candidates encoded by the expert of their own image."""
    import torch

    own = model.route(x, "hard").argmax(axis=1)
    spot = np.stack([model.encode_expression(g, GENES, e) for e in range(K)])  # (K, n, P)
    scores = torch.from_numpy(model.encode(x) @ spot[own, np.arange(len(x))].T)
    ranks = partner_ranks(lambda a, b: scores[a:b].clone(), scores.diagonal())
    return ranks.values().mean(axis=2)[:, PERCENTILE]


def test_coupling_is_found_on_held_out_spots():
    for seed in range(2):
        assert np.all(fair(*draw(seed, coupled=True)) < 0.42)


def test_without_coupling_trained_heads_are_at_chance_and_the_shortcut_is_not():
    """The shortcut reads the clusters, for better or worse, where there is nothing to read."""
    drawn = [draw(seed, coupled=False) for seed in range(REPEATS)]
    honest = np.stack([fair(*case) for case in drawn])  # (repeats, 2)
    shortcut = np.stack([by_own_expert(*case) for case in drawn])
    assert np.all(np.abs(honest - 0.5) < 0.06), honest
    assert np.all(np.abs(shortcut - 0.5).mean(axis=0) > 0.12), shortcut
    assert np.all(shortcut.min(axis=0) < 0.3), shortcut
