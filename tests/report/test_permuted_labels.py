"""Permuted labels in reports: all shuffles count, and what leaves chance is said in words."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_bench.cli.main import main
from spade_bench.files import hash_obj
from spade_bench.report import Resampler, collect, leaderboard
from spade_bench.report import terminal as tables
from spade_bench.report.leaderboard import ReportRow
from spade_bench.results import Predictions, ResultStore, Row
from spade_bench.statistics.evaluate import ALL_METRICS, chance, evaluate
from tests.helpers.stored_cells import store_predictions

PERMUTED = "control:permuted-labels"
N = 60


def _store(out: Path, told: Predictions, shuffle: int, *flags: str, **place: Any) -> None:
    """Store a row of a shuffle; ``place`` is where it belongs."""
    survival = told.survival
    names = ("c_index", "c_index_uno") if survival else ("auroc", "balanced_accuracy", "brier")
    row = Row(
        **{
            "run_id": hash_obj([shuffle, flags, sorted(place.items())]),
            "status": "ok",
            "encoder": "uni",
            "task": "t",
            "head": "cox" if survival else "logistic",
            "protocol": "few-shot",
            "k_shot": 4,
            "draw": 0,
            "metrics": dict.fromkeys(names, 0.0),
            "n": {"train": 8, "test": len(told.case_ids), "pool": 40},
            "inputs": {"features": "x", **({"permutation": shuffle} if shuffle else {})},
            "flags": flags,
            **place,
        }
    )
    row = replace(row, inputs={**row.inputs, "episode": f"{row.draw}-{row.fold}"})
    store_predictions(out, row, told)
    ResultStore(out).append([row])


def _classes(strength: float, seed: int, n_classes: int = 2, fold: int = 0) -> Predictions:
    """Predictions of a strength; 0 knows nothing, below 0 is turned round."""
    rng = np.random.default_rng([seed, fold])
    label = np.arange(N) % n_classes
    known = strength * np.eye(n_classes)[label]
    scores = np.exp(known + rng.normal(size=(N, n_classes)))
    names = tuple(f"c{fold}-{i:02d}" for i in range(N))
    classes = ("a", "b", "c")[:n_classes]
    return Predictions(names, classes, label, scores / scores.sum(axis=1, keepdims=True))


def _survival(strength: float, seed: int) -> Predictions:
    rng = np.random.default_rng(0)
    days = rng.exponential(500, N) + 1
    event = (np.arange(N) % 3 > 0).astype(float)
    noise = np.random.default_rng(seed).normal(size=N)
    risk = noise - strength * np.log(days)
    names = tuple(f"c{i:02d}" for i in range(N))
    target = np.stack([event, days], axis=1)
    train = {"train_ids": names, "train_target": target, "train_scores": risk[:, None]}
    return Predictions(names, (), target, risk[:, None], **train)


def _rows(out: Path, wanted: str = "all") -> list[ReportRow]:
    return leaderboard(collect(out), Resampler(out, n_boot=100), wanted)


PLACES: dict[str, list[dict[str, Any]]] = {
    "one draw": [{}],
    "draws": [{"draw": draw} for draw in range(3)],
    "folds": [{"protocol": "cv", "k_shot": None, "fold": fold} for fold in range(3)],
    "external": [{"protocol": "external", "k_shot": None, "draw": fit} for fit in range(2)],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_the_interval_rests_on_all_shuffles_and_the_row_says_how_many(
    tmp_path: Path, places: list[dict[str, Any]]
) -> None:
    found = {}
    for n in (1, 6):
        out = tmp_path / str(n)
        for place in places:
            fold = place.get("fold") or 0
            _store(out, _classes(1.0, 99, fold=fold), 0, **place)
            for shuffle in range(n):
                told = _classes(0.0, 10 * shuffle + place.get("draw", 0), fold=fold)
                _store(out, told, shuffle, PERMUTED, **place)
        plain, null = (
            next(r for r in _rows(out) if r.metric == "auroc" and (PERMUTED in r.flags) == is_null)
            for is_null in (False, True)
        )
        assert plain.flags == ()
        assert null.flags == (PERMUTED, f"permutations:{n}")  # neither missing nor same-draws
        assert plain.n_draws == null.n_draws == len(places)
        found[n] = null
    one, six = found[1], found[6]
    (series,) = (s for s in collect(tmp_path / "6") if s.control)
    values = Resampler(tmp_path / "6", n_boot=20).values(series, "auroc").plain
    assert len(values) == 6 * len(places)
    assert six.mean == pytest.approx(values.mean())
    assert six.ci_high - six.ci_low < one.ci_high - one.ci_low


@pytest.mark.parametrize("shuffle", [0, 1])
def test_a_shuffle_that_is_not_there_is_missing(tmp_path: Path, shuffle: int) -> None:
    for draw in range(2):
        _store(tmp_path, _classes(1.0, draw), 0, draw=draw)
        for number in range(2):
            if (draw, number) != (1, shuffle):
                _store(tmp_path, _classes(0.0, draw), number, PERMUTED, draw=draw)
    plain, null = (r for r in _rows(tmp_path, "auroc"))
    assert "missing" not in plain.flags
    assert "missing" in null.flags


def test_shots_with_other_numbers_of_shuffles_stay_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for shot, n in ((2, 1), (4, 3)):
        _store(tmp_path, _classes(1.0, 9), 0, k_shot=shot)
        for shuffle in range(n):
            _store(tmp_path, _classes(0.0, shuffle), shuffle, PERMUTED, k_shot=shot)
    tables.print_leaderboard(_rows(tmp_path, "primary"))
    lines = [line for line in capsys.readouterr().out.splitlines() if " pl, " in line]
    assert len(lines) == 1
    assert "P1 (k=2), P3 (k=4)" in lines[0]


KINDS: dict[str, tuple[Any, float]] = {
    "auroc": (_classes, 0.5),
    "balanced_accuracy": (lambda s, seed: _classes(s, seed, 3), 1 / 3),
    "c_index": (_survival, 0.5),
    "c_index_uno": (_survival, 0.5),
}


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("strength", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("metric", KINDS)
def test_an_interval_without_chance_is_pointed_out(
    tmp_path: Path, metric: str, strength: float, n: int
) -> None:
    make, level = KINDS[metric]
    _store(tmp_path, make(3.0, 99), 0)
    for shuffle in range(n):
        _store(tmp_path, make(strength, shuffle), shuffle, PERMUTED)
    plain, null = (r for r in _rows(tmp_path, metric))
    assert plain.note == ""
    assert null.ci_low is not None
    assert null.ci_high is not None
    assert (null.ci_low <= level <= null.ci_high) == (strength == 0)
    if strength == 0:
        assert null.note == ""
        return
    often = "once" if n == 1 else "4 times"
    assert f"the labels were permuted {often} in 1 training set" in null.note
    ends = f"of {metric}, [{null.ci_low:.3f}, {null.ci_high:.3f}], excludes chance ({level:.3g})"
    assert ends in null.note
    assert "something other than the labels may leak" in null.note
    assert null.note.startswith("uni with ")


def test_metrics_without_a_level_are_silent(tmp_path: Path) -> None:
    for shuffle in range(3):
        _store(tmp_path, _classes(4.0, shuffle), shuffle, PERMUTED)
    assert {r.metric for r in _rows(tmp_path) if r.note} == {"auroc", "balanced_accuracy"}


@pytest.mark.parametrize("form", ["", "--json", "--csv", "--markdown"])
@pytest.mark.parametrize("strength", [0.0, 4.0])
def test_every_format_has_the_sentence_or_none(
    tmp_path: Path, strength: float, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for draw in range(2):
        _store(tmp_path, _classes(1.0, 50 + draw), 0, draw=draw)
        for shuffle in range(3):
            told = _classes(strength, 7 * draw + shuffle)
            _store(tmp_path, told, shuffle, PERMUTED, draw=draw)
    arguments = ["report", str(tmp_path), "--no-plots", "--metric", "auroc"]
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, *([form] if form else [])])
    printed = capsys.readouterr().out
    sentence = "the labels were permuted 3 times in each of 2 training sets, and the 95% interval"
    assert printed.count(sentence) == (strength > 0)
    assert "permutations:3" in printed
    if form == "--json":
        told_by = [row["note"] for row in json.loads(printed)["rows"]]
        assert sum(sentence in note for note in told_by) == (strength > 0)
    if form == "--csv":
        lines = list(csv.DictReader(io.StringIO(printed)))
        assert sum(sentence in line["note"] for line in lines) == (strength > 0)
    if not form:
        assert "permutations:3: how often the labels" in printed


@pytest.mark.parametrize("form", ["", "--json", "--csv", "--markdown"])
def test_rows_under_the_older_name_are_shown_as_they_are_stored(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _store(tmp_path, _classes(1.0, 0), 0)
    older = ("control:random-weights", "random-projection")
    _store(tmp_path, _classes(0.5, 1), 0, *older, encoder="uni+random256")
    newer = "control:random-projection"
    _store(tmp_path, _classes(0.5, 1), 0, newer, encoder="uni+random256")
    with pytest.raises(SystemExit, match="0"):
        main(["report", str(tmp_path), "--no-plots", *([form] if form else [])])
    printed = capsys.readouterr().out
    assert "control:random-weights" in printed
    assert newer in printed
    if not form:
        legend = " ".join(printed.partition("flags:\n")[2].split())
        assert "random-projection: stored by an older version" in legend
        assert f"{newer}: a fixed random projection of the same features" in legend


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("metric", ALL_METRICS)
def test_chance_is_what_ignorance_scores(metric: str, n_classes: int) -> None:
    level = chance(metric, n_classes)
    survival = metric in ("c_index", "c_index_uno", "ibs", "auroc_over_time")
    if level is None or metric in {
        "pearson",
        "spearman",
    }:  # of values, of which there are no classes
        assert metric not in {"auroc", "balanced_accuracy", "c_index"}
        return
    found = []
    for seed in range(150):
        told = _survival(0.0, seed) if survival else _classes(0.0, seed, n_classes)
        train = None
        if told.train_target is not None and told.train_scores is not None:
            train = told.train_target, told.train_scores
        found.append(float(evaluate(metric, told.target, told.scores, None, train)[0]))
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert abs(np.mean(found) - level) < 3.5 * error
    assert chance("balanced_accuracy") is None  # a class is not among the test cases
