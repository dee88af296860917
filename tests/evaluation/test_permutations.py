"""Permuted labels are shuffled several times where that is cheap; untrained controls by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import request_of

from spade_bench.cli.main import main
from spade_bench.evaluation import EvaluationRequest, run
from spade_bench.evaluation import taskcells as taskrun
from spade_bench.evaluation.controls import n_permutations
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.features.bags import write_features
from spade_bench.heads import HeadOptions
from spade_bench.registry import encoders, heads
from spade_bench.results import ResultStore, Row, read_predictions

PERMUTED = "control:permuted-labels"
SMALL = {"abmil": {"hidden": 8, "attention": 4, "min_steps": 20, "epochs": 2}}
# What the version that shuffled once stored for the first episodes.
FIRST = {
    "few-shot": {"8856cfca42772eae", "87f9d248c3c50e79", "3084cae577bf1e32", "7fcdd6222bcc3e67"},
    "cv": {"2d60d37e77ee1b52", "5b101933888a0f82", "5e4035cd2b22cc67"},
}
PLACES: dict[str, dict[str, Any]] = {
    "few-shot": {"shots": (1, 2), "draws": 2},
    "cv": {"protocol": "cv", "folds": 2, "holdout": 0.25},
}


def _ask(study: Any, out: Path, **changes: Any) -> EvaluationRequest:
    return request_of(study, out, **{"set": SMALL, **changes})


def _permuted(out: Path) -> list[Row]:
    return [row for row in ResultStore(out).rows() if PERMUTED in row.flags]


def _by_place(rows: list[Row]) -> dict[tuple[Any, ...], dict[int, Row]]:
    found: dict[tuple[Any, ...], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row.k_shot, row.draw, row.fold), {})[row.permutation] = row
    return found


def _scores(out: Path, rows: list[Row]) -> dict[str, list[Any]]:
    return {row.run_id: read_predictions(out, row.run_id).scores.tolist() for row in rows}


@pytest.mark.parametrize("name", heads.names())
def test_the_card_of_a_head_says_how_often(name: str) -> None:
    head = heads.get(name).load(HeadOptions())
    row: Any = SimpleNamespace(permute=True)
    other: Any = SimpleNamespace(permute=False)
    assert head.card.cheap == (name in {"logistic", "cox", "knn", "prototype", "ridge"})
    assert n_permutations(row, head, None) == (5 if head.card.cheap else 1)
    assert n_permutations(row, head, 3) == 3
    assert n_permutations(other, head, 3) == 1


@pytest.mark.parametrize("place", PLACES)
def test_shuffles_are_rows_of_their_own_and_the_first_is_that_of_older_versions(
    study: Any, tmp_path: Path, place: str
) -> None:
    run(_ask(study, tmp_path, **PLACES[place]))
    rows = _permuted(tmp_path)
    for shuffles in _by_place(rows).values():
        assert set(shuffles) == {0, 1, 2, 3, 4}
        assert len({row.inputs["episode"] for row in shuffles.values()}) == 1
    told = _scores(tmp_path, rows)
    assert len({str(scores) for scores in told.values()}) > len(_by_place(rows))
    first = {row.run_id for row in rows if row.permutation == 0}
    assert first == FIRST[place]
    assert all("permutation" not in row.inputs for row in rows if row.permutation == 0)
    others = [row for row in ResultStore(tmp_path).rows() if row not in rows]
    assert all(row.permutation == 0 for row in others)


@pytest.mark.parametrize(
    ("head", "select"), [("logistic", False), ("logistic", True), ("abmil", False)]
)
@pytest.mark.parametrize("place", PLACES)
def test_more_shuffles_only_add(
    study: Any, tmp_path: Path, place: str, head: str, select: bool
) -> None:
    ask = {**PLACES[place], "heads": (head,), "select": select}
    run(_ask(study, tmp_path / "whole", permutations=3, **ask))
    run(_ask(study, tmp_path / "parts", permutations=1, **ask))
    before = (tmp_path / "parts" / "results.jsonl").read_bytes()
    run(_ask(study, tmp_path / "parts", permutations=3, **ask))
    assert (tmp_path / "parts" / "results.jsonl").read_bytes().startswith(before)
    whole, parts = (_scores(tmp_path / n, _permuted(tmp_path / n)) for n in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for run_id, scores in whole.items():
        assert np.allclose(scores, parts[run_id], atol=1e-5)


def test_an_ensemble_averages_the_folds_of_its_own_shuffle(study: Any, tmp_path: Path) -> None:
    run(_ask(study, tmp_path, **PLACES["cv"]))
    rows = _permuted(tmp_path)
    told = _scores(tmp_path, rows)
    for number in range(5):
        own = [row for row in rows if row.permutation == number]
        folds = [told[row.run_id] for row in own if row.fold is not None]
        (whole,) = (told[row.run_id] for row in own if row.fold is None)
        assert np.allclose(whole, np.mean(folds, axis=0), rtol=1e-14, atol=0)


@pytest.mark.parametrize("head", ["logistic", "abmil"])
def test_shuffles_train_in_one_pass_with_their_encoder(
    study: Any, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, calls = taskrun.fit_predict, []

    def counted(head: Any, bags: Any, fits: Any, *args: Any, **rest: Any) -> Any:
        calls.append(len(fits))
        return fit(head, bags, fits, *args, **rest)

    monkeypatch.setattr(taskrun, "fit_predict", counted)
    run(_ask(study, tmp_path, heads=(head,), permutations=3, shots=(1, 2), draws=2))
    assert calls == [4 + 3 * 4, 4]  # with the encoder; then the projection


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--permutations", "0"), "--permutations"),
        (("--permutations", "3", "--no-controls"), "--no-controls leaves them out"),
        (("--config", "zero.yaml"), "--permutations is 0. Use 1 or more."),
    ],
)
def test_numbers_of_shuffles_that_make_no_sense_are_refused_in_one_line(
    study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("zero.yaml").write_text("permutations: 0\n")
    ask = ["--table", str(study.table), "--features", str(study.features), "--out", "o"]
    with pytest.raises(SystemExit) as done:
        main(["run", "--encoder", "mine", "--task", "t", *ask, "--device", "cpu", *given])
    assert done.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not Path("o").exists()


def test_the_option_reaches_the_run(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ask = ["--table", str(study.table), "--features", str(study.features), "--out", "o"]
    ask += ["--shots", "1", "--draws", "1", "--device", "cpu", "--permutations", "2"]
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--encoder", "mine", "--task", "t", *ask])
    assert sorted(row.permutation for row in _permuted(Path("o"))) == [0, 1]


@pytest.fixture
def random_named(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Make features of the slides under the name of a registered encoder called `random-mine`."""
    added: list[str] = []

    def make(study: Any, **card: Any) -> Path:
        known = encoders.get("random-lite0").card
        encoders.add(replace(known, name="random-mine", dim=12, **card), lambda options: None)
        added.append("random-mine")
        for slide in study.slides:
            x = np.random.default_rng(len(slide)).normal(size=(4, 12))
            path = tmp_path / "random" / f"{slide}.h5"
            write_features(path, x, slide_id=slide, encoder="random-mine")
        return tmp_path / "random"

    yield make
    for name in added:
        del encoders._plugins[name]


def _untrained(out: Path) -> set[tuple[str, str]]:
    rows = ResultStore(out).rows()
    return {(r.encoder, f) for r in rows for f in r.flags if "random-" in f}


def test_features_alone_get_a_projection_that_is_not_called_random_weights(
    study: Any, half: str, weights: Path, tmp_path: Path
) -> None:
    both = (EncoderRequest("mine", "mine"), EncoderRequest(half, half, weights))
    run(_ask(study, tmp_path / "o", encoders=both, shots=(1,), draws=1))
    name = "control:random-projection"
    assert _untrained(tmp_path / "o") == {("mine+random256", name), ("mine+random6", name)}


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ({}, {("random-mine", "control:random-weights")}),
        # A name alone makes no untrained encoder.
        ({"pretrained_on": ("TCGA",)}, {("mine+random256", "control:random-projection")}),
        ({"input": "features"}, {("mine+random256", "control:random-projection")}),
        ({"untrained": False}, {("mine+random256", "control:random-projection")}),
    ],
)
def test_random_weights_are_those_of_an_untrained_encoder_of_images(
    study: Any,
    random_named: Callable[..., Path],
    tmp_path: Path,
    card: dict[str, Any],
    found: set[tuple[str, str]],
) -> None:
    folder = random_named(study, **card)
    features = {"mine": study.features, "random-mine": folder}
    ask = {"features": features, "shots": (1,), "draws": 1}
    run(_ask(study, tmp_path / "o", **ask))
    assert _untrained(tmp_path / "o") == found
