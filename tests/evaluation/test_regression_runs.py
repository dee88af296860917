"""Runs on measured values: several targets of one table, stored, reported, fitted and explained."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

import spade_bench as sb
from spade_bench.errors import UserError
from spade_bench.evaluation.resolve import resolve
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.features.bags import write_features
from spade_bench.features.casebags import CaseBags
from spade_bench.report.page.reportpage import render_page
from spade_bench.results import ResultStore, read_predictions

DIM = 6
QUICK = {"abmil-mse": {"epochs": 2, "min_steps": 30, "hidden": 16},
         "mean-mlp": {"epochs": 2, "min_steps": 30, "hidden": 16}}  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> tuple[Path, Path]:
    """Sixty cases whose age and score follow the first and the second feature; a site each."""
    folder = tmp_path_factory.mktemp("measured")
    rng = np.random.default_rng(0)
    lines = ["case_id,slide_id,site,age,score"]
    for i in range(60):
        x = rng.normal(size=(int(rng.integers(3, 8)), DIM)) + rng.normal(size=DIM)
        age, score = 60 + 10 * x[:, 0].mean(), x[:, 1].mean() + 0.1 * rng.normal()
        coords = 256 * np.stack([np.arange(len(x)), np.zeros(len(x))], axis=1).astype(np.int64)
        write_features(folder / "features_mine" / f"s{i:02d}.h5", x, coords, slide_id=f"s{i:02d}",
                       encoder="mine", attrs={"patch_size_level0": 256})  # fmt: skip
        lines.append(f"c{i:02d},s{i:02d},S{i % 4},{age:.3f},{score:.4f}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv", folder / "features_mine"


def _evaluate(measured, tasks, **settings):
    table, features = measured
    given = {"protocol": "cv", "folds": 3, "device": "cpu", "controls": False, **settings}
    quick = {name: QUICK[name] for name in settings.get("heads", ()) if name in QUICK}
    return sb.evaluate("mine", tasks, table=table, features=features, set=quick, **given)


def test_several_targets_of_one_table_share_one_reading(measured, tmp_path, monkeypatch) -> None:
    made: list[int] = []
    from_files = CaseBags.from_files.__func__

    def counted(cls, *args, **kwargs):
        made.append(1)
        return from_files(cls, *args, **kwargs)

    monkeypatch.setattr(CaseBags, "from_files", classmethod(counted))
    results = _evaluate(measured, ["regression:age", "regression:score"], out=tmp_path / "runs")
    assert len(made) == 1
    table = results.leaderboard("all")
    assert set(table["task"]) == {"age", "score"}
    assert set(table["metric"]) == {"pearson", "spearman", "r2", "mae"}
    r = table[table["metric"] == "pearson"].set_index("task")["mean"]
    assert (r > 0.8).all()
    age = table[(table["task"] == "age") & (table["metric"] == "mae")].iloc[0]
    assert 0 <= age["ci_low"] <= age["mean"] <= age["ci_high"] < 10


def test_a_target_alone_has_the_numbers_that_it_has_in_company(measured, tmp_path) -> None:
    tasks = ["regression:age", "regression:score"]
    both = _evaluate(measured, tasks, out=tmp_path / "both").predictions(task="score")
    alone = _evaluate(measured, tasks[1], out=tmp_path / "alone").predictions(task="score")
    assert both["predicted"].tolist() == alone["predicted"].tolist()


@pytest.mark.parametrize("head", ["ridge", "abmil-mse", "mean-mlp"])
def test_every_head_runs_and_is_stored_to_the_bit(measured, tmp_path, head) -> None:
    results = _evaluate(measured, "regression:age", heads=(head,), out=tmp_path / "runs",
                        protocol="few-shot", folds=None, shots=(4,), draws=2)  # fmt: skip
    (row, *_) = [row for row in ResultStore(tmp_path / "runs").rows() if row.status == "ok"]
    stored = read_predictions(tmp_path / "runs", row.run_id, sha256=row.predictions_sha256)
    assert stored.kind == "regression"
    assert stored.target.dtype == np.float64
    again = stored.scores[:, 0]
    assert row.metrics["mae"] == pytest.approx(np.abs(again - stored.target).mean(), abs=1e-12)
    assert row.n["train"] == 16  # four of each quarter
    assert results.leaderboard()["mean"].notna().all()


def test_controls_shuffle_and_choose_and_test_elsewhere(measured, tmp_path) -> None:
    results = _evaluate(measured, "regression:age", controls=True, permutations=2, select=True,
                        out=tmp_path / "controls")  # fmt: skip
    board = results.leaderboard()
    permuted = board[board["control"] == "permuted-labels"].iloc[0]
    assert permuted["ci_low"] < 0 < permuted["ci_high"]
    table, features = measured
    other = tmp_path / "other.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    lines = ["case_id,slide_id,age", *(f"{r['case_id']},{r['slide_id']},{r['age']}" for r in rows)]
    train = tmp_path / "train.csv"
    train.write_text("\n".join(lines[:41]) + "\n")
    other.write_text("\n".join([lines[0], *lines[41:]]) + "\n")
    external = sb.evaluate("mine", "regression:age", table=train, features=features,
                           test_table=other, controls=False, device="cpu",
                           out=tmp_path / "external")  # fmt: skip
    assert external.leaderboard()["protocol"].tolist() == ["external"]


def test_report_pictures_and_page_know_the_kind(measured, tmp_path) -> None:
    results = _evaluate(measured, "regression:age", out=tmp_path / "runs")
    (picture,) = results.pictures("scatter")
    drawn = picture.drawn()
    assert len(drawn.numbers) == 60
    assert results.pictures("survival") == []
    assert results.pictures("calibration") == []
    page = render_page(results)
    assert "Predicted values" in page
    assert "cases are nearer" in page


def test_fit_predicts_values_and_explains_them(measured, tmp_path) -> None:
    table, features = measured
    for head in ("ridge", "abmil-mse"):
        model = sb.fit("mine", "regression:age", table=table, features=features, head=head,
                       device="cpu", set={head: QUICK.get(head, {})})  # fmt: skip
        frame = model.predict(features)
        assert "predicted" in frame
        assert "risk" not in frame
        again = type(model).load(model.save(tmp_path / head))
        assert again.predict(features)["predicted"].tolist() == frame["predicted"].tolist()
        shown = sb.explain(again, slide_id="s07", features=features, device="cpu")
        assert shown.classes == ("value",)
        expected = frame.set_index("slide_id")["predicted"]["s07"]
        assert shown.predicted == pytest.approx((expected,), rel=1e-5)


@pytest.mark.parametrize(
    ("tasks", "more", "words"),
    [
        (
            ["regression:age", "regression:age2"],
            {"label_column": "age"},
            "both read its column age",
        ),
        ("regression:", {}, "no column is named"),
        ("regression:age", {"positive": "old"}, "--positive is an option of classification"),
        ("regression:age", {"event_column": "age"}, "--event-column is an option of survival"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(measured, tmp_path, tasks, more, words) -> None:
    table, features = measured
    given = EvaluationSettings.of({"encoders": "mine", "tasks": tasks, "tables": table,
                                   "features": features, "out": tmp_path, **more})  # fmt: skip
    with pytest.raises(UserError, match=words):
        resolve(given, None)


def test_heads_of_classes_are_refused_by_name(measured, tmp_path) -> None:
    with pytest.raises(UserError, match="does not serve regression"):
        _evaluate(measured, "regression:age", heads=("logistic",), out=tmp_path)
