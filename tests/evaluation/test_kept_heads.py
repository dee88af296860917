"""`run --keep-heads`: what is stored predicts what the cell predicted, and nothing trains twice."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of, run_main

from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import run
from spade_bench.evaluation.keptheads import kept_head
from spade_bench.features.bags import find_bags
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import FittedHead
from spade_bench.heads._stacked import StackedHead
from spade_bench.results import ResultStore, read_predictions

QUICK = {"abmil": {"epochs": 2, "min_steps": 5, "hidden": 16}}
CV: dict[str, Any] = {"protocol": "cv", "folds": 3, "heads": ("abmil",), "set": QUICK}


def kept(out: Path) -> set[str]:
    folder = out / "heads"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_folds_of_cv_are_kept_and_predict_what_was_stored(
    study, tmp_path, capsys, monkeypatch
) -> None:
    calls = []
    real = StackedHead._train
    monkeypatch.setattr(
        StackedHead, "_train", lambda self, *args: (calls.append(1), real(self, *args))[1]
    )
    out = tmp_path / "o"
    run(request_of(study, out, controls=False, **CV))
    assert len(calls) == 1  # predictions and heads come from one training
    rows = [row for row in ResultStore(out).rows() if row.fold is not None]
    assert kept(out) == {row.run_id for row in rows}
    assert "3 fitted heads kept in" in capsys.readouterr().err
    files = find_bags(study.features)
    for row in rows:
        stored = read_predictions(out, row.run_id)
        cases = [[p for s, p in files.items() if s.startswith(case)] for case in stored.case_ids]
        fitted = FittedHead.load(kept_head(out, row.run_id))
        got = fitted.predict(CaseBags.from_files(cases, 12))
        assert got == pytest.approx(stored.scores, abs=2e-6)
        assert fitted.info.classes == stored.classes
        about = json.loads((kept_head(out, row.run_id) / "cell.json").read_text())
        assert tuple(about["test"]) == stored.case_ids
        assert not set(about["train"]) & set(about["test"])


@pytest.mark.parametrize(
    ("keep", "protocol", "wanted"),
    [("none", "cv", 0), ("folds", "cv", 3), ("folds", "few-shot", 0), ("all", "few-shot", 12)],
)
def test_what_is_kept(keep, protocol, wanted, study, tmp_path) -> None:
    out = tmp_path / "o"
    run(
        request_of(
            study, out, protocol=protocol, heads=("logistic",), keep_heads=keep, permutations=2,
            **({"folds": 3} if protocol == "cv" else {"shots": (2,), "draws": 2}),
        )
    )  # fmt: skip
    rows = {row.run_id: row for row in ResultStore(out).rows()}
    found = kept(out)
    if keep == "all":
        assert found == set(rows)
    else:
        assert len(found) == wanted
        assert not any(flag.startswith("control") for id_ in found for flag in rows[id_].flags)


def test_keeping_heads_changes_no_number(study, tmp_path) -> None:
    scores = {}
    for keep in ("none", "all"):
        out = tmp_path / keep
        run(request_of(study, out, controls=False, keep_heads=keep, **CV))
        scores[keep] = {
            row.run_id: read_predictions(out, row.run_id).scores for row in ResultStore(out).rows()
        }
    assert scores["none"].keys() == scores["all"].keys()
    for run_id, values in scores["none"].items():
        assert np.array_equal(values, scores["all"][run_id])


def test_an_unknown_choice_is_refused(study, tmp_path, capsys) -> None:
    with pytest.raises(UserError, match="--keep-heads"):
        run(request_of(study, tmp_path / "o", keep_heads="some"))
    arguments = ["run", "--encoder", "mine", "--task", "t", "--table", study.table, "--features",
                 study.features, "--out", tmp_path / "o", "--keep-heads", "some"]  # fmt: skip
    assert run_main(*arguments) == 2
    assert "none, folds, all" in capsys.readouterr().err


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


DAMAGE = {
    "missing": shutil.rmtree,
    "tensors": lambda folder: flip(folder / "head.safetensors"),
    "description": lambda folder: (folder / "head.json").write_text("{}"),
    "cell": lambda folder: (folder / "cell.json").unlink(),
}
LOGISTIC: dict[str, Any] = {"protocol": "cv", "folds": 3, "heads": ("logistic",), "controls": False}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_head_that_is_missing_or_damaged_is_trained_again_where_heads_are_asked_for(
    damage, study, tmp_path
) -> None:
    out = tmp_path / "o"
    run(request_of(study, out, **LOGISTIC))
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    lost, *whole = sorted(kept(out))
    damage(out / "heads" / lost)
    unasked = run(request_of(study, out, **LOGISTIC))
    assert (unasked.done, unasked.skipped) == (0, 3)
    planned = run(request_of(study, out, keep_heads="folds", dry_run=True, **LOGISTIC)).planned
    assert [row[4:] for row in planned] == [(3, 2)]
    modified = {name: (out / "heads" / name / "head.json").stat().st_mtime_ns for name in whole}
    again = run(request_of(study, out, keep_heads="folds", **LOGISTIC))
    assert (again.done, again.skipped, again.failed) == (0, 3, 0)
    after = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert after == before  # rows, predictions and heads, to the byte
    assert modified == {
        name: (out / "heads" / name / "head.json").stat().st_mtime_ns for name in whole
    }


def test_heads_of_a_run_that_kept_none_are_kept_later(study, tmp_path, capsys) -> None:
    out = tmp_path / "o"
    run(request_of(study, out, keep_heads="none", **LOGISTIC))
    rows = (out / "results.jsonl").read_bytes()
    assert not kept(out)
    run(request_of(study, out, keep_heads="all", **LOGISTIC))
    said = capsys.readouterr().err
    assert "3 finished cells are trained again to keep their heads" in said
    assert "3 fitted heads kept in" in said
    assert len(kept(out)) == 3
    assert (out / "results.jsonl").read_bytes() == rows


def test_a_head_that_predicts_otherwise_than_the_row_is_not_kept(
    study, tmp_path, capsys, monkeypatch
) -> None:
    out = tmp_path / "o"
    run(request_of(study, out, **LOGISTIC))
    lost = sorted(kept(out))[0]
    flip(out / "heads" / lost / "head.safetensors")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr("spade_bench.evaluation.keptheads.SAME_PREDICTION", -1.0)
    summary = run(request_of(study, out, keep_heads="folds", **LOGISTIC))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert f"the head of {lost} predicts something else" in capsys.readouterr().err
    with pytest.raises(DataError, match=lost):
        summary.keeper.check()


def test_a_head_that_cannot_be_saved_is_not_trained_in_vain(study, tmp_path, monkeypatch) -> None:
    out = tmp_path / "o"
    run(request_of(study, out, keep_heads="none", **LOGISTIC))
    monkeypatch.setattr("spade_bench.evaluation.keptheads.can_be_saved", lambda head: False)
    (row,) = run(request_of(study, out, keep_heads="all", dry_run=True, **LOGISTIC)).planned
    assert row[4] == row[5]


def test_the_files_of_a_head_have_one_mode(study, tmp_path) -> None:
    out = tmp_path / "o"
    run(request_of(study, out, **LOGISTIC))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (out / "heads").glob("*/*")}
    assert modes == {stat.S_IMODE(next((out / "predictions").glob("*/*/*")).stat().st_mode)}
