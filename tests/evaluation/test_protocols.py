"""Cross-validation, ensembles, selection, external cohorts and survival, from files to rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of

from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import EvaluationRequest, run
from spade_bench.evaluation.request import resolve_task
from spade_bench.registry import kinds
from spade_bench.results import ResultStore, Row, read_predictions


def _ask(study: Any, out: Path, **changes: Any) -> EvaluationRequest:
    external = any(task.test_table is not None for task in changes.get("tasks", ()))
    if not external and changes.get("protocol", "few-shot") == "few-shot":
        changes = {"shots": (1, 4), "draws": 2, **changes}
    return request_of(study, out, **{"controls": False, **changes})


def _rows(out: Path, *flags: str) -> list[Row]:
    rows = ResultStore(out).rows()
    return [row for row in rows if all(flag in row.flags for flag in flags)]


def test_cv_tests_every_case_once_and_controls_are_made_per_fold(
    study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = run(_ask(study, out, protocol="cv", folds=4, repeats=2, controls=True))
    assert (summary.done, summary.failed) == (7 * 8, 0)
    for encoder in ("mine", "mine+random256"):
        for repeat in (0, 1):
            own = [r for r in _rows(out) if (r.encoder, r.draw) == (encoder, repeat)]
            own = [r for r in own if "control:permuted-labels" not in r.flags]
            assert [r.fold for r in own] == [0, 1, 2, 3]
            tested = [case for r in own for case in read_predictions(out, r.run_id).case_ids]
            assert len(tested) == len(set(tested)) == 40
            assert all(r.protocol == "cv" and r.k_shot is None for r in own)
    again = run(_ask(study, out, protocol="cv", folds=4, repeats=2, controls=True))
    assert (again.done, again.skipped) == (0, 56)


def test_ensemble_is_the_mean_of_its_fold_models(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(_ask(study, out, protocol="cv", folds=3, holdout=0.25))
    assert (summary.done, summary.failed) == (4, 0)
    (whole,) = _rows(out, "ensemble")
    folds = [row for row in _rows(out) if row.fold is not None]
    told = [read_predictions(out, row.run_id) for row in folds]
    mean = read_predictions(out, whole.run_id)
    assert np.allclose(mean.scores, np.mean([t.scores for t in told], axis=0), atol=0, rtol=1e-14)
    assert {t.case_ids for t in told} == {mean.case_ids}
    assert whole.n == {"train": 30, "test": 10, "events": None}
    # Another number of folds is another ensemble of the same cases, and another series.
    run(_ask(study, out, protocol="cv", folds=2, holdout=0.25))
    assert len({row.run_id for row in _rows(out, "ensemble")}) == 2
    assert len({row.inputs["splits"] for row in _rows(out)}) == 2
    # It can be made from what is stored, after a crash between the folds and it.
    lines = (out / "results.jsonl").read_text().splitlines()
    kept = [line for line in lines[:4] if '"ensemble"' not in line]
    (out / "results.jsonl").write_text("\n".join(kept) + "\n")
    again = run(_ask(study, out, protocol="cv", folds=3, holdout=0.25))
    assert (again.done, again.skipped) == (1, 3)
    assert dict(_rows(out, "ensemble")[0].metrics) == dict(whole.metrics)


def _with_split(study: Any, flip_test: bool = False) -> None:
    """Give the table a hold-out; if asked, turn the labels of the hold-out round."""
    other = {"tumor": "normal", "normal": "tumor"}
    lines = [line.split(",")[:3] for line in study.table.read_text().splitlines()]
    out = ["case_id,slide_id,label,split"]
    for case, slide, label in lines[1:]:
        held = int(case[4:]) % 4 < 2 and int(case[4:]) > 15
        answer = other[label] if held and flip_test else label
        out.append(f"{case},{slide},{answer},{'test' if held else 'train'}")
    study.table.write_text("\n".join(out) + "\n")


@pytest.mark.parametrize(
    "settings",
    [
        {"protocol": "cv", "folds": 3},
        {"protocol": "few-shot", "shots": (1, 8)},
        {"protocol": "external"},
    ],
)
def test_test_labels_change_neither_choice_nor_prediction(
    study: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    found = []
    for name, flip in (("a", False), ("b", True)):
        _with_split(study, flip)
        out = tmp_path / name
        task = resolve_task("my_task", study.table, None)
        ask = {**settings, "select": True, "heads": ("knn", "logistic"), "tasks": (task,)}
        assert run(_ask(study, out, controls=True, **ask)).failed == 0
        rows = _rows(out)
        found.append(
            {
                (r.encoder, r.head, r.flags, r.k_shot, r.draw, r.fold): (
                    r.env.get("selected"),
                    read_predictions(out, r.run_id).scores.tolist(),
                    r.metrics["auroc"],
                )
                for r in rows
            }
        )
    first, second = found
    assert first.keys() == second.keys()
    for key, (chosen, scores, auroc) in first.items():
        assert second[key][:2] == (chosen, scores)
        assert second[key][2] == pytest.approx(1 - auroc)
    chosen = {value[0] for key, value in first.items() if key[3] != 1}
    assert len(chosen) > 1
    if settings["protocol"] == "few-shot":
        assert {v[0] for k, v in first.items() if k[3] == 1} == {"defaults: too few cases"}


def test_folds_of_a_repeat_share_one_choice_that_the_user_can_narrow(
    study: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ask = {"protocol": "cv", "folds": 3, "holdout": 0.25, "select": True}
    run(_ask(study, out, **ask, heads=("knn",), set={"knn": {"metric": "cosine"}}))
    chosen = {r.env["selected"] for r in _rows(out) if "ensemble" not in r.flags}
    assert len(chosen) == 1
    assert "metric" not in chosen.pop()
    plain = tmp_path / "plain"
    run(_ask(study, plain, protocol="cv", folds=3, holdout=0.25, heads=("knn",)))
    assert not {r.run_id for r in _rows(out)} & {r.run_id for r in _rows(plain)}


def test_survival_rows_hold_events_and_predictions_rebuild_the_metrics(
    survival: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    task = resolve_task("mine", survival.table, None)
    assert task.card.kind == "survival"
    summary = run(_ask(survival, out, tasks=(task,), protocol="cv", folds=3, holdout=0.3))
    assert (summary.done, summary.failed) == (4, 0)
    kind = kinds.get("survival").load()
    for row in _rows(out):
        told = read_predictions(out, row.run_id)
        assert row.head == "cox"
        assert row.n["events"] == int(told.target[:, 0].sum()) > 0
        assert len(told.train_ids) == row.n["train"]
        assert not set(told.train_ids) & set(told.case_ids)
        assert told.train_target is not None
        assert told.train_scores is not None
        train = told.train_target, told.train_scores
        assert kind.score(list(row.metrics), told.target, told.scores, train) == dict(row.metrics)
        assert (row.metrics["c_index"] or 0) > 0.6  # higher risk is worse, and learnt


def test_survival_few_shot_and_its_null(survival: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    task = resolve_task("mine", survival.table, None)
    ask = {"shots": (8,), "draws": 12, "controls": True}
    assert run(_ask(survival, out, tasks=(task,), **ask)).failed == 0
    rows = [r for r in _rows(out) if r.encoder == "mine"]
    null = [r.metrics["c_index"] or 0 for r in rows if "control:permuted-labels" in r.flags]
    real = [r.metrics["c_index"] or 0 for r in rows if "control:permuted-labels" not in r.flags]
    error = float(np.std(null, ddof=1) / np.sqrt(len(null)))
    assert abs(np.mean(null) - 0.5) < 3.5 * error
    assert np.mean(real) > np.mean(null) + 4 * error
    assert all(r.n["train"] == 16 for r in rows)


def test_permuted_labels_are_at_chance_in_cv(study: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(_ask(study, out, protocol="cv", folds=2, repeats=20, controls=True, select=True))
    rows = _rows(out, "control:permuted-labels")
    null = [r.metrics["auroc"] or 0 for r in rows]
    assert abs(np.mean(null) - 0.5) < 4 * np.std(null, ddof=1) / np.sqrt(len(null))


def test_external_trains_on_one_table_and_tests_on_another(
    study: Any, tmp_path: Path, other_study: Any
) -> None:
    out = tmp_path / "out"
    task = resolve_task("my_task", study.table, None, test_table=other_study.table)
    ask = {"tasks": (task,), "test_features": {"*": other_study.features}, "controls": True}
    summary = run(_ask(study, out, protocol="external", **ask))
    assert (summary.done, summary.failed) == (7, 0)
    for row in _rows(out):
        assert row.protocol == "external"
        assert row.n == {"train": 40, "test": 24, "events": None}
        told = read_predictions(out, row.run_id)
        assert all(case.startswith("other") for case in told.case_ids)
    # few-shot and cv take the other cohort for their test set.
    assert run(_ask(study, out, protocol="cv", folds=2, **ask)).done == 21
    assert {len(read_predictions(out, r.run_id).case_ids) for r in _rows(out)} == {24}


def test_external_refuses_patients_of_both_cohorts(study: Any, tmp_path: Path) -> None:
    lines = study.table.read_text().splitlines()
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    # case000 has two slides; one of them is put into the other cohort.
    first.write_text("\n".join([lines[0], lines[1], *lines[3:30]]) + "\n")
    second.write_text("\n".join([lines[0], lines[2], *lines[30:]]) + "\n")
    task = resolve_task("my_task", first, None, test_table=second)
    with pytest.raises(DataError, match=r"case000.*--allow-leaky-splits"):
        run(_ask(study, tmp_path / "o", tasks=(task,)))
    out = tmp_path / "out"
    assert run(_ask(study, out, tasks=(task,), allow_leaky_splits=True)).failed == 0
    assert all({"leaky-splits", "unit:slide"} <= set(r.flags) for r in _rows(out))
    for row in _rows(out):
        told = read_predictions(out, row.run_id)
        assert told.patients == tuple(slide[: len("case000")] for slide in told.case_ids)
    task = resolve_task("my_task", first, None, test_table=study.table)
    with pytest.raises(DataError, match="slides in both tables"):
        run(_ask(study, tmp_path / "o", tasks=(task,), allow_leaky_splits=True))


def test_a_metric_that_the_kind_lacks_is_refused_before_anything_runs(
    study: Any, tmp_path: Path
) -> None:
    task = resolve_task("my_task", study.table, None)
    task = replace(task, card=replace(task.card, metrics=("aurocc",)))
    with pytest.raises(UserError, match="Did you mean 'auroc'"):
        run(_ask(study, tmp_path / "o", tasks=(task,)))
