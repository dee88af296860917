"""Controls: what an encoder brings, what rows say of them, and which cells share bags."""

from __future__ import annotations

import ast
import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of, run_main

import spade_bench
from spade_bench.errors import DataError, PluginError
from spade_bench.evaluation import controls as harness_controls
from spade_bench.evaluation import encoderfeatures, run, taskcells, taskpreparation
from spade_bench.evaluation.cells import fit_seed
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.features.casebags import CaseBags
from spade_bench.heads._pooled import PooledHead
from spade_bench.registry import encoders
from spade_bench.results import ResultStore, Row, read_predictions
from spade_bench.types import Control, EncoderCard, Episode, LoadOptions

# Of the commit before encoders brought their own controls: rows of then must be found as finished.
PINNED: dict[tuple[str, str], str] = {
    ("mine", ""): "1ecffcc47d0ac7d6",
    ("mine", "permuted-labels"): "304200fedbab77d9",
    ("mine+pca6", "pca"): "9ea0697fd5f9116a",
    ("mine+random256", "random-projection"): "6289b4ad430815b7",
    ("mine+random6", "random-projection"): "d917248b9e3da96f",
}
PINNED_SPADE: dict[tuple[str, str], str] = {
    ("spade", ""): "c220824c1a9a83ef",
    ("spade", "permuted-labels"): "98389efa83c0a6a6",
    ("bleep", ""): "aaf5aa735690dae5",
    ("bleep", "permuted-labels"): "2d82a4b8b5ad104a",
    ("mine", "base"): "b2602c04480cb429",
    ("mine+pca8", "pca"): "f20668280f00c78d",
    ("spade-k1", "k1"): "d9e926af6e3d89e3",
    ("spade-random-routing", "random-routing"): "48d731cdc05a979b",
    ("mine+random8", "random-projection"): "81b7f17a804cab33",
}


def _control(flags: Any) -> str:
    return next((f.removeprefix("control:") for f in flags if f.startswith("control:")), "")


def _first_ids(out: Path) -> dict[tuple[str, str], str]:
    """Run id of the first draw of every encoder and control."""
    return {
        (row.encoder, _control(row.flags)): row.run_id
        for row in ResultStore(out).rows()
        if row.draw == 0 and not row.permutation
    }


def test_run_ids_are_those_of_stored_results(
    study: Any, half: str, weights: Path, tmp_path: Path
) -> None:
    asked = (EncoderRequest("mine", "mine"), EncoderRequest(half, "x", weights, {"o": 1}))
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(4,), draws=1))
    ids = _first_ids(tmp_path / "out")
    # The code of a plugin is part of its ids: those of `x` follow the file that defines it.
    assert {name: one for name, one in ids.items() if name[0] not in {"x", "x-k1"}} == PINNED


def test_run_ids_of_spade_are_those_of_stored_results(
    study: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (encoderfeatures, harness_controls):  # weights differ between versions of torch
        monkeypatch.setattr(module, "weights_hash", lambda path: path.name)
    asked = (
        EncoderRequest("spade", "spade", folders["a"], {"routing": "hard"}),
        EncoderRequest("bleep", "bleep", folders["a"]),
    )
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(4,), draws=1))
    assert _first_ids(tmp_path / "out") == PINNED_SPADE


def _rows(out: Path) -> dict[tuple[str, str], Row]:
    return {(row.encoder, row.control): row for row in ResultStore(out).rows()}


def test_rows_say_which_control_they_are_and_of_what(
    study: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    spade = EncoderRequest("spade", "my-k1", folders["a"])  # called like a control
    run(request_of(study, tmp_path / "out", encoders=(spade,), shots=(4,), draws=1))
    rows = _rows(tmp_path / "out")
    assert {name: row.control_of for name, row in rows.items()} == {
        ("my-k1", ""): "",
        ("my-k1", "permuted-labels"): "my-k1",
        ("mine", "base"): "my-k1",
        ("mine+pca8", "pca"): "my-k1",
        ("my-k1-k1", "k1"): "my-k1",
        ("my-k1-random-routing", "random-routing"): "my-k1",
        ("mine+random8", "random-projection"): "my-k1",
    }
    for (_, control), row in rows.items():
        assert (f"control:{control}" in row.flags) == bool(control)
        assert bool(row.identity) == (control != "base")  # the files do not say what made them
    identities = [
        row.identity for (_, control), row in rows.items() if control != "permuted-labels"
    ]
    assert len(set(identities)) == len(identities)
    assert rows["my-k1-k1", "k1"].env["control"] == "the same training with a single expert"


PLUGIN = """
import numpy as np

from spade_bench import EncoderCard
from spade_bench.registry import encoders
from spade_bench.types import Control

CARD = EncoderCard("scaled", "features", None, "Features times a number.", upstream="mine",
                   pretrained_on=())


class Scaled:
    card, dim = CARD, 12

    def __init__(self, factors):
        self.factors = np.asarray(factors, dtype=np.float32)

    def encode(self, features):
        return np.asarray(features, dtype=np.float32) * self.factors

    def controls(self, seed):
        mixed = Scaled(np.random.default_rng(seed).normal(size=12))
        return [Control("mixed", "-mixed", mixed, identity={"mixed": seed},
                        description="each feature times a random number")]


@encoders.register(CARD)
def load(options):
    return Scaled(np.linspace(1, 2, 12))
"""


def test_an_encoder_of_a_plugin_brings_its_own_control(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plugin, weights = tmp_path / "scaled.py", tmp_path / "none.pt"
    plugin.write_text(PLUGIN)
    weights.write_bytes(b"nothing")
    arguments = ["--plugin", plugin, "--encoder", "scaled", "--weights", f"scaled={weights}",
                 "--task", "t", "--table", study.table, "--features", study.features,
                 "--head", "logistic", "--shots", "4", "--draws", "2", "--device", "cpu",
                 "--out", "o"]  # fmt: skip
    try:
        assert run_main("run", *arguments) == 0
        rows = _rows(Path("o"))
        assert set(rows) == {
            *{("scaled", ""), ("scaled", "permuted-labels"), ("scaled-mixed", "mixed")},
            *{("mine", "base"), ("mine+pca12", "pca"), ("mine+random12", "random-projection")},
        }
        mixed = rows["scaled-mixed", "mixed"]
        assert (mixed.control_of, mixed.flags[0]) == ("scaled", "control:mixed")
        assert mixed.identity != rows["scaled", ""].identity
        capsys.readouterr()
        assert run_main("report", "o", "--no-plots") == 0
        shown = capsys.readouterr().out
        assert "control:mixed: each feature times a random number" in shown
        lines = [line for line in shown.partition("minus")[0].splitlines() if "logistic" in line]
        names = [line.split("│")[1] for line in lines]
        assert names[0].strip() == "scaled"
        assert all(name.startswith("   ") for name in names[1:])
        assert run_main("report", "o", "--no-plots", "--csv") == 0
        lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        said = {(one["encoder"], one["control"], one["control_of"]) for one in lines}
        assert ("scaled-mixed", "mixed", "scaled") in said
        assert ("scaled", "", "") in said
        assert run_main("run", *arguments[2:-1], "alone", "--no-controls") == 0
        assert set(_rows(Path("alone"))) == {("scaled", "")}
    finally:
        del encoders._plugins["scaled"]


class FirstHalf:
    """What a control may send features through."""

    card, dim = EncoderCard("first-half", "features", 6, "Half."), 6

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(features[:, :6], dtype=np.float32)


GOOD = Control("c", "-c", FirstHalf())


@pytest.mark.parametrize(
    ("brought", "message"),
    [
        (["k1"], "is not a spade_bench.types.Control"),
        ([replace(GOOD, name="K 1")], "lower-case letters"),
        ([replace(GOOD, name="")], "lower-case letters"),
        ([replace(GOOD, name="pca")], "control that every encoder has"),
        ([replace(GOOD, label="")], "needs a label"),
        ([replace(GOOD, encoder=object())], "no encoder with card"),
        ([replace(GOOD, identity={"a": object()})], "JSON cannot hold"),
        ([GOOD, GOOD], "has the name of another one"),
        ([GOOD, replace(GOOD, name="d")], "has the label of another one"),
    ],
)
def test_a_control_that_cannot_be_used_is_named(
    study: Any,
    half: str,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    brought: Any,
    message: str,
) -> None:
    kind = type(encoders.get(half).load(LoadOptions()))
    monkeypatch.setattr(kind, "controls", lambda self, seed: brought)
    ask = {"encoders": (EncoderRequest(half, half, weights),), "shots": (1,), "draws": 1}
    with pytest.raises(PluginError, match=message) as caught:
        run(request_of(study, tmp_path / "out", **ask))
    assert "encoder 'half'" in str(caught.value)
    assert run(request_of(study, tmp_path / "out", controls=False, **ask)).failed == 0


def test_a_slide_encoder_may_bring_controls(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: Any = encoders.get("mean-pool").load(LoadOptions())

    def controls(self: Any, seed: int) -> list[Control]:
        return [Control("first", "-first", First()), replace(GOOD, name="patches", label="-half")]

    class First:
        card, dim = loaded.card, None

        def encode_slide(self, features: Any, coords: Any = None, side: Any = None) -> Any:
            return np.asarray(features[0], dtype=np.float32)

    monkeypatch.setattr(type(loaded), "controls", controls, raising=False)
    ask = {"encoders": (EncoderRequest("mean-pool", "mean-pool"),), "shots": (4,), "draws": 1}
    assert run(request_of(study, tmp_path / "out", **ask)).failed == 0
    rows = _rows(tmp_path / "out")
    assert rows["mean-pool-first", "first"].control_of == "mean-pool"
    assert rows["mean-pool-half", "patches"].control_of == "mean-pool"


def test_variants_share_bags_by_what_they_are_made_of(
    study: Any, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts of a run before variants had keys, but that equal files are read once."""
    counts = {"base_bags": 0, "map": 0, "fit_predict": 0}

    def count(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            counts[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(taskpreparation.PreparedTask, "base_bags")
    count(CaseBags, "map")
    count(taskcells, "fit_predict")
    asked = (
        EncoderRequest("mine", "mine"),
        *(EncoderRequest("spade", label, folder) for label, folder in folders.items()),
        EncoderRequest("bleep", "bleep", folders["a"]),  # weights and options of `a`
    )
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(1, 4), draws=2))
    # mine; a, b, bleep; their 2 PCA, 2 single experts, 2 random routings, 3 projections.
    assert counts == {"base_bags": 1, "map": 12, "fit_predict": 13}


def test_equal_weights_of_two_encoders_are_two_variants(
    study: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    asked = tuple(EncoderRequest(name, name, folders["a"]) for name in ("spade", "bleep"))
    run(request_of(study, tmp_path / "out", encoders=asked, shots=(4,), draws=1))
    scores = {
        name: read_predictions(tmp_path / "out", row.run_id).scores.tolist()
        for name, row in _rows(tmp_path / "out").items()
    }
    assert scores["spade", ""] != scores["bleep", ""]
    np.testing.assert_allclose(scores["spade-k1", "k1"], scores["bleep", ""], atol=1e-12)


@pytest.mark.slow
def test_other_encoders_over_the_same_files_change_no_bit(
    study: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    """What is fitted together is the same, whoever else starts from the same files."""
    spade = EncoderRequest("spade", "spade", folders["a"])
    plain = (EncoderRequest("mine", "x"), EncoderRequest("mine", "y"))
    asked = {"alone": (spade,), "plain": plain[:1], "all": (spade, *plain)}
    heads = {"heads": ("logistic", "abmil"), "shots": (4,), "draws": 2}
    small = {"abmil": {"hidden": 16, "attention": 8, "min_steps": 40, "epochs": 5}}
    rows = {}
    for name, encoders_asked in asked.items():
        out = tmp_path / name
        run(request_of(study, out, encoders=encoders_asked, set=small, **heads))
        rows[name] = {row.run_id: row.predictions_sha256 for row in ResultStore(out).rows()}
    assert rows["alone"].items() <= rows["all"].items()
    assert rows["plain"].items() <= rows["all"].items()


@pytest.mark.parametrize("error", [DataError("a bad case"), RuntimeError("out of luck")])
def test_only_the_cell_that_fails_is_lost(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    culprit = fit_seed(0, Episode("few-shot", (), (), k_shot=4, draw=1))
    fit, calls = PooledHead.fit_predict, []

    def fragile(self: Any, bags: Any, fits: Any, n_outputs: int) -> Any:
        calls.append(len(fits))
        if any(one.seed == culprit for one in fits):
            raise error
        return fit(self, bags, fits, n_outputs)

    monkeypatch.setattr(PooledHead, "fit_predict", fragile)
    ask = {"shots": (1, 2, 4, 8), "draws": 4, "controls": False}
    summary = run(request_of(study, tmp_path / "out", **ask))
    assert (summary.done, summary.failed) == (15, 1)
    failed = [row for row in ResultStore(tmp_path / "out").rows() if row.status == "failed"]
    assert [(row.k_shot, row.draw) for row in failed] == [(4, 1)]
    assert sorted(calls) == [1, 1, 2, 2, 4, 4, 8, 8, 16]  # halves, not one by one
    monkeypatch.setattr(PooledHead, "fit_predict", fit)
    run(request_of(study, tmp_path / "whole", **ask))
    whole = {row.run_id: row.metrics for row in ResultStore(tmp_path / "whole").rows()}
    rows = [row for row in ResultStore(tmp_path / "out").rows() if row.status == "ok"]
    assert all(row.metrics == whole[row.run_id] for row in rows)


def test_bags_that_cannot_be_made_fail_once(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken(self: Any, row: Any, *rest: Any) -> Any:
        calls.append(row)
        raise DataError("no bags")

    monkeypatch.setattr(taskpreparation.PreparedTask, "base_bags", broken)
    ask = {"shots": (1, 4), "draws": 2, "controls": False}
    assert run(request_of(study, tmp_path / "out", **ask)).failed == 4
    assert len(calls) == 1


def test_no_encoder_is_known_by_name() -> None:
    """Needs, controls and identity come from cards and loaded encoders."""
    rooms = [
        Path(spade_bench.__file__).parent / name for name in ("evaluation", "report", "results")
    ]
    # "keep" is an encoder, and a word of English that messages need.
    names = "|".join(re.escape(name) for name in encoders.names() if name != "keep")
    pattern = re.compile(rf"(?<![\w-])({names})(?![\w-])")
    found = []
    for path in sorted(path for room in rooms for path in room.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        found += [
            f"{path.name}:{node.lineno}: {node.value}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            and id(node) not in docstrings and pattern.search(node.value)
        ]  # fmt: skip
    assert found == []
