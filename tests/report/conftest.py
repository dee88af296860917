"""Stored results of survival and of binary tasks, made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.files import hash_obj
from spade_bench.results import Predictions, ResultStore, Row
from tests.helpers.stored_cells import store_predictions


def _store(out: Path, place: dict[str, Any], predictions: Predictions, **changes: Any) -> Row:
    """Store a finished row with these predictions; ``place`` says where it belongs."""
    at = {"encoder": "uni", "task": "t", "protocol": "few-shot", "draw": 0, "fold": None, **place}
    survival = predictions.survival
    at.setdefault("head", "cox" if survival else "logistic")
    at.setdefault("k_shot", 4 if at["protocol"] == "few-shot" else None)
    run_id = hash_obj([sorted(at.items(), key=str), list(changes.get("flags", ()))])
    metrics = ("c_index",) if survival else ("auroc", "brier")
    row = Row(
        run_id=run_id,
        status="ok",
        metrics=dict.fromkeys(metrics, 0.0),
        n={"train": 50, "test": len(predictions.case_ids)},
        inputs={"features": at["encoder"], "episode": hash_obj(list(predictions.case_ids))},
        **at,
        **changes,
    )
    store_predictions(out, row, predictions)
    ResultStore(out).append([row])
    return row


def _risks(risk: Sequence[float] | np.ndarray, seed: int = 0, **changes: Any) -> Predictions:
    """Survival predictions of as many cases as there are risks; outcomes by seed alone."""
    n = len(risk)
    rng = np.random.default_rng(seed)
    hazard = rng.normal(size=n)
    death, leaving = rng.exponential(np.exp(-hazard) * 900), rng.exponential(1500, n)
    target = np.stack([(death <= leaving).astype(float), np.minimum(death, leaving) + 1], axis=1)
    names = tuple(f"c{i:03d}" for i in range(n))
    return Predictions(names, (), target, np.asarray(risk, dtype=float)[:, None], **changes)


def _classes(p: Sequence[float] | np.ndarray, label: np.ndarray, **changes: Any) -> Predictions:
    """Binary predictions: probability of the second class."""
    scores = np.stack([1 - np.asarray(p), np.asarray(p)], axis=1)
    names = tuple(f"c{i:03d}" for i in range(len(label)))
    return Predictions(names, ("neg", "pos"), np.asarray(label, dtype=np.int64), scores, **changes)


@pytest.fixture(scope="session")
def store() -> Callable[..., Row]:
    return _store


@pytest.fixture(scope="session")
def risks() -> Callable[..., Predictions]:
    return _risks


@pytest.fixture(scope="session")
def classes() -> Callable[..., Predictions]:
    return _classes
