from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from spade_bench.encoders.tangle.pretraining.tangleconfig import (
    GeneConfig,
    SplitConfig,
    TangleConfig,
    TrainingConfig,
)
from spade_bench.features.bags import write_features

D, LATENT, GENES = 16, 3, 60


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TangleConfig]:
    """Return a writer of cases whose patches and bulk counts follow the same latent values."""

    def write(n: int = 90, seed: int = 0, epochs: int = 30, **more: object) -> TangleConfig:
        root = tmp_path_factory.mktemp("planted")
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(n, LATENT))  # of the cases
        to_patch = rng.normal(size=(LATENT, D))
        to_gene = rng.normal(size=(LATENT, GENES))
        rows = []
        for i in range(n):
            for slide in ("A", "B")[: 2 if i % 5 == 0 else 1]:
                local = z[i] + rng.normal(size=(int(rng.integers(15, 30)), LATENT))
                x = local @ to_patch + 0.5 * rng.normal(size=(len(local), D))
                name = f"C{i:03d}-{slide}"
                write_features(
                    root / "features_base" / f"{name}.h5",
                    x.astype(np.float32),
                    rng.integers(0, 9000, size=(len(x), 2)),
                    slide_id=name,
                    encoder="base",
                    attrs={"mpp": 0.5, "patch_size": 224, "patch_size_level0": 448},
                )
            rate = np.exp(0.7 * z[i] @ to_gene + 5)
            rows.append([f"C{i:03d}", *rng.poisson(rate)])
        table = root / "bulk.csv"
        columns = ["case_id", *(f"G{g}" for g in range(GENES))]
        pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
        return TangleConfig(
            features=root / "features_base",
            table=table,
            genes=GeneConfig(n_top=40),
            split=SplitConfig(val=0.15, test=0.3),
            training=TrainingConfig(
                epochs=epochs, batch_size=32, patches=16, lr=2e-3, hidden=32, attention=16
            ),
            **more,
        )

    return write
