"""The ridge regression of HEST-Bench, step by step as its public code has it.

Source: mahmoodlab/HEST, `src/hest/bench` (benchmark.py, trainer.py): features are standardised and
reduced to 256 principal components, both fitted on the training spots; ridge regression by LSQR
without intercept, its penalty 100 / (components x genes) whatever was asked for; the target is
log1p of the counts, without a size factor. The target is not centred, so that errors and R² of
these predictions mean little: correlation is what the benchmark reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spade_bench.heads.spots._spots import SpotFit, SpotTask, check_target, spot_head
from spade_bench.types import HeadCard

__all__ = ["HestRidgeConfig", "hest_ridge"]

_COMPONENTS = 256
_MAX_ITER = 1000


@dataclass(frozen=True)
class HestRidgeConfig:
    """Settings of the ridge regression of HEST-Bench.

    Attributes:
        target: `log1p` as the benchmark has it, or `lognorm`.
        genes: `task` for the list of the task where it has one, else chosen on training sections.
        n_genes: Genes to choose where the task has no list.
        pca: Whether the features are reduced to 256 components.
    """

    target: Literal["log1p", "lognorm"] = "log1p"
    genes: Literal["task", "training"] = "task"
    n_genes: int = 50
    pca: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: Naming the setting and its range.
        """
        check_target(self)


CARD = HeadCard(
    name="hest-ridge",
    kinds=("expression",),
    description="HEST-Bench's own ridge: 256 components, no intercept, penalty 100 / (256 x genes)",
    input="spot",
    defaults={"target": "log1p", "genes": "task", "n_genes": 50, "pca": True},
    cheap=True,
    reference="arXiv 2406.16192 and its code",
    title="HEST ridge",
)


@spot_head(CARD, HestRidgeConfig)
def hest_ridge(task: SpotTask, settings: HestRidgeConfig) -> SpotFit:
    """Fit and predict one fold; see the module."""
    import numpy as np
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    train, test = task.train, task.test  # (n, D), (m, D)
    if settings.pca:
        scaler = StandardScaler()
        train, test = scaler.fit_transform(train), scaler.transform(test)  # (n, D), (m, D)
        # The benchmark has wide features and many spots; of fewer than 256 all are kept.
        components = min(_COMPONENTS, *train.shape)
        reduce = PCA(n_components=components, random_state=task.seed)
        # In one step as the benchmark: fitting first and then projecting rounds otherwise.
        train, test = reduce.fit_transform(train), reduce.transform(test)  # (n, p), (m, p)
    train, test = np.asarray(train, np.float32), np.asarray(test, np.float32)
    ridge = Ridge(
        alpha=100 / (train.shape[1] * task.target.shape[1]),
        solver="lsqr",
        fit_intercept=False,
        max_iter=_MAX_ITER,
        random_state=task.seed,
    )
    predicted = ridge.fit(train, task.target).predict(test)  # (m, G)
    return SpotFit(np.asarray(predicted, dtype=np.float64).reshape(len(test), -1))
