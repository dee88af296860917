"""MIL heads: what turns the bags of training cases into predictions for test cases.

Every module here that does not start with an underscore registers heads as plugins; importing it
loads neither numpy nor torch. A new head decorates one function with `pooled_head`, or passes its
parameters and forward to `stacked_head`; everything else (grids, stacking, memory, early stopping)
comes with these.
"""

from __future__ import annotations

from spade_bench.heads._base import Fit, HeadOptions, Model, grid_points, parse_memory
from spade_bench.heads._contribution import Contribution, Linear
from spade_bench.heads._fitted import (
    FittedHead,
    FittingHead,
    Head,
    HeadInfo,
    can_be_saved,
    fitting,
)
from spade_bench.heads._outputs import checked_scores, fit, fit_predict
from spade_bench.heads._pooled import Form, PooledHead, Solved, pooled_head
from spade_bench.heads._sklearn import sklearn_head
from spade_bench.heads._stacked import TrainConfig, stacked_head

__all__ = [
    "Contribution",
    "Fit",
    "FittedHead",
    "FittingHead",
    "Form",
    "Head",
    "HeadInfo",
    "HeadOptions",
    "Linear",
    "Model",
    "PooledHead",
    "Solved",
    "TrainConfig",
    "can_be_saved",
    "checked_scores",
    "fit",
    "fit_predict",
    "fitting",
    "grid_points",
    "parse_memory",
    "pooled_head",
    "sklearn_head",
    "stacked_head",
]
