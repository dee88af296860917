"""Sections with planted drivers and the simulator's genes, with features instead of pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from toy_pretraining import SETTINGS

from spade_bench.config import build
from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.features.bags import write_features
from spade_bench.simulate.counts import Genome, draw_genome, sample_counts
from spade_bench.simulate.studysettings import GeneSettings

ORGANS = ("Bowel", "Breast")
SECTIONS, SPOTS, DIM = 14, 64, 24
HELD_OUT = ("S12", "S13")  # one of each organ


@dataclass(frozen=True)
class Planted:
    """Sections, the model that was trained on them, and what was planted.

    Attributes:
        hest: Folder in HEST layout.
        features: Folder of the base features, one file per section.
        model: Folder of the model.
        drivers: Section -> (spots, drivers) planted at each spot.
        organ: Section -> its organ.
        genome: Genes, with the markers of each driver.
    """

    hest: Path
    features: Path
    model: Path
    drivers: dict[str, np.ndarray]
    organ: dict[str, str]
    genome: Genome


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Fourteen sections of two organs; the last of each organ is held out."""
    root = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(0)
    settings = replace(GeneSettings(), n_genes=700, n_markers=8, n_organ=60, n_missing=0)
    genome = draw_genome(settings, len(ORGANS), rng)
    seen = rng.normal(size=(len(genome.loadings), DIM))  # how each driver looks
    looks = 4.0 * rng.normal(size=(len(ORGANS), DIM))  # and each organ
    drivers, organ = {}, {}
    lines = ["id,organ,patient,st_technology,species"]
    (root / "hest" / "st").mkdir(parents=True)
    for i in range(SECTIONS):
        name, o = f"S{i:02d}", i % len(ORGANS)
        planted = np.tanh(rng.normal(size=(SPOTS, len(genome.loadings))))
        counts, present = sample_counts(genome, planted, o, rng)
        barcodes = [f"b{j}" for j in range(SPOTS)]
        spatial = 200.0 * np.stack(np.divmod(np.arange(SPOTS), 8), axis=1) + 100
        anndata.AnnData(
            sp.csr_matrix(counts.astype(np.float32)),
            obs=pd.DataFrame(index=barcodes),
            var=pd.DataFrame(index=[genome.names[g] for g in present]),
            obsm={"spatial": spatial},
        ).write_h5ad(root / "hest" / "st" / f"{name}.h5ad")
        values = looks[o] + planted @ seen + 0.5 * rng.normal(size=(SPOTS, DIM))
        write_features(
            root / "features" / f"{name}.h5", values, (spatial - 100).astype(int), slide_id=name,
            encoder="toy", barcodes=barcodes, attrs={"patch_size_level0": 200, "mpp": 0.5},
        )  # fmt: skip
        drivers[name], organ[name] = planted, ORGANS[o]
        lines.append(f"{name},{ORGANS[o]},P{i},Visium,Homo sapiens")
    (root / "hest" / "HEST_v1_0_0.csv").write_text("\n".join(lines) + "\n")
    _pretrain(root)
    return Planted(root / "hest", root / "features", root / "spade", drivers, organ, genome)


def _pretrain(root: Path) -> None:
    changes: dict[str, Any] = {
        "samples": {"hest": root / "hest", "features": root / "features", "min_genes": 0},
        "genes": {"n_top": 60, "min_shared": 10},
        "clustering": {"k_organ": 1, "k_experts": 2},
        "training": {"epochs": 25, "batch_size": 64, "proj_dim": 32, "lr": 2e-3, "workers": 1},
        "split": {"test_samples": list(HELD_OUT)},
        "controls": {"untrained_seeds": 1},
    }
    run_pretrain(build(PretrainConfig, {**SETTINGS, **changes}), root / "spade", device="cpu")
