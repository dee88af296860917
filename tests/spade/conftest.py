"""A small made-up cohort for the tests of SPADE's training and model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from release_files import write_release
from scipy import sparse
from toy_pretraining import write_hest

from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.pretraining.pretrainconfig import TrainingConfig
from spade_bench.encoders.spade.pretraining.training.trainingdata import TrainingData

N_EXPERTS, N_SPOTS, WIDTH, N_GENES = 4, 330, 12, 20


@pytest.fixture(scope="module")
def hest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four toy samples in HEST layout."""
    return write_hest(tmp_path_factory.mktemp("hest"))


@pytest.fixture
def spade_data() -> TrainingData:
    """Spots whose two sides share a latent; expert 2 has one training spot, 3 no validation."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(N_SPOTS, 4))
    features = latent @ rng.normal(size=(4, WIDTH)) + 0.1 * rng.normal(size=(N_SPOTS, WIDTH))
    rates = np.exp(0.5 * latent @ rng.normal(size=(4, N_GENES)))
    expression = np.log1p(rng.poisson(rates)).astype(np.float32)
    expert = np.repeat([0, 1, 2, 3], [200, 90, 1, 39])
    split = np.where(np.arange(N_SPOTS) % 6 == 0, "val", "train")
    split[expert >= 2] = "train"
    split[5] = "test"
    order = rng.permutation(N_SPOTS)
    return TrainingData(
        features[order].astype(np.float32),
        sparse.csr_matrix(expression[order]),
        expert[order].astype(np.int64),
        split[order],
        N_EXPERTS,
    )


@pytest.fixture
def spade_config() -> TrainingConfig:
    """Few epochs, small batches with a partial one at the end."""
    return TrainingConfig(epochs=4, batch_size=32, lr=2e-3, proj_dim=8, layout="sequential")


@pytest.fixture
def spade_experts() -> Experts:
    """Seven centroids of two organs for four experts."""
    rng = np.random.default_rng(3)
    return Experts(
        rng.normal(size=(7, WIDTH)).astype(np.float32),
        np.array([0, 1, 2, 3, 0, 1, 0]),
        ("Breast",) * 4 + ("Liver",) * 3,
        N_EXPERTS,
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Write a complete public release and return its folder."""
    return write_release(tmp_path / "release")
