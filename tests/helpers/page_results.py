"""Stored results with everything a page shows, and names that would break a careless one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spade_bench.files import hash_obj
from spade_bench.results import Predictions, ResultStore, Row, write_plan, write_predictions
from spade_bench.results.cohortfiles import LeftOut, StoredCase, StoredCohort, write_cohort

HOSTILE = "<script>alert('encoder')</script>"
HOSTILE_CLASS = "</script><script>alert('class')</script>"
HOSTILE_CASE = "c\"' onmouseover=\"alert('case')\" <img src=x onerror=alert(1)>"
HOSTILE_TASK = "t'\"&lt;{{ 7 * 7 }}<!--"
HOSTILE_ERROR = "broke on <iframe src='http://example.org'></iframe> \u202e$\\frac{"
SHOTS = (1, 4, 8)
SITES = ("north", "<b>south</b>")
N = 40


def _cases(n: int = N) -> tuple[str, ...]:
    return (HOSTILE_CASE, *(f"case-{i:02d}" for i in range(1, n)))


def _row(out: Path, predictions: Predictions, **place: Any) -> Row:
    run_id = hash_obj(sorted(place.items(), key=str))
    survival = predictions.survival
    digests = write_predictions(
        out, place["encoder"], place["task"], place["head"], {run_id: predictions}
    )
    inputs = {
        "cohort": hash_obj(place["task"]),
        "features": place["encoder"],
        "episode": hash_obj([place.get(name) for name in ("k_shot", "draw", "fold")]),
        **place.pop("inputs", {}),
    }
    # A report must not take these stored numbers on trust.
    metrics = ("c_index", "ibs") if survival else ("auroc", "balanced_accuracy", "brier")
    return Row(
        run_id,
        "ok",
        metrics=dict.fromkeys(metrics, -1.0),
        n={"train": 16, "test": len(predictions.case_ids), "events": 5 if survival else None},
        inputs=inputs,
        env={"spade_bench": "0.0", "python": "3", "device": "cpu", "cohort": "40 cases of a table"},
        seconds=0.5,
        created_utc="2026-01-02T03:04:05Z",
        predictions_sha256=digests[run_id],
        **place,
    )


def _classes(strength: float, seed: int) -> Predictions:
    label = np.arange(N) % 2
    noise = np.random.default_rng(7).normal(size=N) + 0.4 * np.random.default_rng(seed).normal(
        size=N
    )
    p = 1 / (1 + np.exp(-(strength * (label - 0.5) + noise)))
    return Predictions(_cases(), ("neg", HOSTILE_CLASS), label, np.stack([1 - p, p], axis=1))


def _risks(strength: float, fold: int) -> Predictions:
    at = np.arange(fold * 20, fold * 20 + 20)
    rng = np.random.default_rng(3)
    hazard = rng.normal(size=N)
    days = rng.exponential(np.exp(-hazard) * 900) + 1
    event = (rng.random(N) < 0.7).astype(float)
    noise = np.random.default_rng(fold).normal(size=N)
    target = np.stack([event, days], axis=1)
    risk = (strength * hazard + noise)[:, None]
    names = np.array(_cases(), dtype=object)
    rest = np.setdiff1d(np.arange(N), at)
    return Predictions(
        tuple(names[at]), (), target[at], risk[at],
        train_ids=tuple(names[rest]), train_target=target[rest], train_scores=risk[rest],
    )  # fmt: skip


def write_hostile_results(out: Path) -> Path:
    """Two encoders, two controls, two heads, a task of classes and one of survival."""
    rows = []
    lineup: tuple[tuple[str, float, dict[str, Any]], ...] = (
        ("uni", 0.3, {}),
        (HOSTILE, 2.5, {"inputs": {"base": "uni"}}),
        (f"{HOSTILE}-k1", 0.8, {"control": "k1", "control_of": HOSTILE}),
        (HOSTILE, 0.0, {"control": "permuted-labels", "control_of": HOSTILE}),
    )
    for label, strength, more in lineup:
        flags = ["simulated", "contamination:TCGA"] if label == "uni" else ["simulated"]
        if more.get("control"):
            flags.append(f"control:{more['control']}")
        for k in SHOTS:
            for draw in range(3):
                for head in ("logistic", "abmil"):
                    rows.append(
                        _row(
                            out, _classes(strength * k**0.3, 100 * k + draw), encoder=label,
                            task=HOSTILE_TASK, head=head, protocol="few-shot", k_shot=k,
                            draw=draw, flags=tuple(flags), **more,
                        )
                    )  # fmt: skip
        for fold in range(2):
            rows.append(
                _row(
                    out, _risks(strength, fold), encoder=label, task="survival", head="cox",
                    protocol="cv", draw=0, fold=fold, flags=tuple(flags), **more,
                )
            )  # fmt: skip
    failed = Row(
        hash_obj("failed"), "failed", "uni", HOSTILE_TASK, "knn", "few-shot", error=HOSTILE_ERROR
    )
    ResultStore(out).append([*rows, failed])
    write_plan(out, HOSTILE_TASK, {f"{HOSTILE}, logistic": ["absent", rows[0].run_id]})
    write_cohort(
        out,
        StoredCohort(
            HOSTILE_TASK,
            hash_obj(HOSTILE_TASK),
            ("<u>table</u>.csv",),
            tuple(StoredCase(case, (f"{case}-s",), SITES[i % 4 // 2])
                  for i, case in enumerate(_cases())),
            (LeftOut("<i>gone</i>", "no label"), LeftOut("gone", "no features of uni")),
        ),
    )  # fmt: skip
    return out
