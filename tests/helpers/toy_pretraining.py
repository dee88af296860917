"""Four toy samples in HEST layout, and settings that pretrain on them in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from spade_bench.config import build
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.features.bags import write_features

N, DIM, GENES = 48, 5, 60
SETTINGS: dict[str, Any] = {
    "encoder": "toy",
    "genes": {"n_top": 6},
    "clustering": {"k_organ": 4, "k_experts": 3},
    "training": {"epochs": 2, "lr": 1e-4, "init": "none", "batch_size": 16, "proj_dim": 8},
    "routing": {"tau": 0.1},
    "controls": {"untrained_seeds": 2},
    "split": {"validation": "samples", "test_samples": ["S3"]},
}


def write_hest(root: Path) -> Path:
    """Write four toy samples of four patients and two organs, with precomputed features."""
    (root / "st").mkdir()
    genes = [f"G{i}" for i in range(GENES)]
    lines = ["id,organ,patient,st_technology,species"]
    for seed in range(4):
        rng, name = np.random.default_rng(seed), f"S{seed}"
        state = rng.integers(0, 3, N)  # drives both sides
        rate = np.random.default_rng(99).gamma(0.5, 4.0, (3, GENES))[state]
        data = anndata.AnnData(
            sp.csr_matrix(rng.poisson(rate + 0.2).astype(np.float32)),
            obs=pd.DataFrame(index=[f"b{i}" for i in range(N)]),
            var=pd.DataFrame(index=genes),
            obsm={"spatial": 200.0 * np.stack(np.divmod(np.arange(N), 7), axis=1) + 100},
        )
        data.write_h5ad(root / "st" / f"{name}.h5ad")
        values = np.eye(3, DIM)[state] * 3 + rng.normal(size=(N, DIM))
        path = root / "features" / f"{name}.h5"
        write_features(path, values, slide_id=name, encoder="toy", barcodes=list(data.obs_names))
        lines.append(f"{name},{'Skin' if seed < 3 else 'Lung'},P{seed},Visium,Homo sapiens")
    (root / "HEST_v1_0_0.csv").write_text("\n".join(lines) + "\n")
    return root


def config(hest: Path, **changes: Any) -> PretrainConfig:
    samples = {"hest": hest, "features": hest / "features"}
    return build(PretrainConfig, {**SETTINGS, "samples": samples, **changes})
