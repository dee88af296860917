"""Maps of a run: by the models in which a case was held out, of the numbers that were evaluated."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of, run_main

import spade_bench as sb
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import run
from spade_bench.evaluation.keptheads import kept_head
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import FittedHead
from spade_bench.results import ResultStore, read_predictions

QUICK = {"abmil": {"epochs": 1, "min_steps": 20, "hidden": 16, "attention": 8, "lr": 5e-3}}
CV: dict[str, Any] = {"protocol": "cv", "folds": 3, "repeats": 2, "heads": ("abmil",),
                      "set": QUICK, "controls": False}  # fmt: skip
FEW: dict[str, Any] = {"protocol": "few-shot", "shots": (2, 4), "draws": 3, "keep_heads": "all",
                       "heads": ("logistic",), "controls": False}  # fmt: skip


@pytest.fixture(scope="module")
def cv(planted, tmp_path_factory) -> Path:
    """Folder of a run with the heads of three folds, dealt twice, which nothing changes."""
    out = tmp_path_factory.mktemp("run") / "cv"
    run(request_of(planted, out, **CV))
    return out


def held_out(out: Path, case: str, **wanted: Any) -> list[Any]:
    """Rows of the kept heads that were tested on a case."""
    rows = []
    for row in ResultStore(out).rows():
        path = kept_head(out, row.run_id) / "cell.json"
        if path.is_file() and case in json.loads(path.read_text())["test"]:
            rows.append(row)
    return [row for row in rows if all(getattr(row, k) == v for k, v in wanted.items())]


def test_a_map_is_the_mean_of_the_models_in_which_the_case_was_held_out(cv, planted) -> None:
    case = "case001"
    shown = sb.explain(cv, slide_id=f"{case}-s0")
    rows = held_out(cv, case)
    assert len(rows) == 2  # one fold of each deal
    assert set(shown.about["models"]) == {row.run_id for row in rows}
    assert (shown.models, shown.trained, shown.task) == (2, False, "my_task")
    bag = read_bag(planted.features / f"{case}-s0.h5").features
    heads = [FittedHead.load(kept_head(cv, row.run_id)) for row in rows]
    parts = [head.contributions(bag) for head in heads]
    attention = np.mean([part.attention for part in parts], axis=0)
    assert shown.attention == pytest.approx(attention, abs=1e-7)
    values = np.mean([part.values for part in parts], axis=0)
    assert shown.contribution == pytest.approx(values, abs=1e-6)
    stored = []
    for row in rows:
        predictions = read_predictions(cv, row.run_id)
        stored.append(predictions.scores[predictions.case_ids.index(case)])
    assert shown.predicted == pytest.approx(tuple(np.mean(stored, axis=0)), abs=1e-5)
    assert shown.sd is not None
    assert 0 < shown.sd.max() < 0.8


def test_no_case_is_explained_by_a_model_that_it_trained(cv, planted) -> None:
    maps = sb.explain(cv)
    assert {one.case_id for one in maps} == set(planted.cases)
    assert len(maps) == sum(map(len, planted.cases.values()))
    for one in maps:
        assert not one.trained
        for run_id in one.about["models"]:
            about = json.loads((kept_head(cv, run_id) / "cell.json").read_text())
            assert one.case_id in about["test"]
            assert one.case_id not in {*about["train"], *about["tune"]}
    shares: dict[str, float] = {}
    for one in maps:
        shares[one.case_id] = shares.get(one.case_id, 0.0) + one.attention.sum()
    assert list(shares.values()) == pytest.approx([1.0] * len(shares), abs=1e-6)


def test_shots_are_kept_apart_and_the_largest_is_taken(planted, tmp_path, capsys) -> None:
    out = tmp_path / "few"
    run(request_of(planted, out, **FEW))
    tested = next(row for row in ResultStore(out).rows() if row.k_shot == 4)
    case = read_predictions(out, tested.run_id).case_ids[0]
    maps = sb.explain(out, cases=case)
    assert "Heads of 4 shots are explained" in capsys.readouterr().err
    assert set(maps[0].about["models"]) == {r.run_id for r in held_out(out, case, k_shot=4)}
    assert maps[0].about["k_shot"] == 4
    few = sb.explain(out, cases=case, shots=2)
    assert few[0].about["k_shot"] == 2
    assert set(few[0].about["models"]) == {r.run_id for r in held_out(out, case, k_shot=2)}
    with pytest.raises(UserError, match=r"shots=: no head of 3 shots was kept. There are 2, 4"):
        sb.explain(out, cases=case, shots=3)


def test_a_case_that_only_trained_is_refused_or_marked(planted, tmp_path) -> None:
    out = tmp_path / "few"
    run(request_of(planted, out, **FEW))
    cells = [json.loads(p.read_text()) for p in (out / "heads").glob("*/cell.json")]
    tested = {case for cell in cells for case in cell["test"]}
    trained = sorted({c for cell in cells if cell["k_shot"] == 4 for c in cell["train"]} - tested)
    with pytest.raises(
        UserError, match=rf"{trained[0]} was held out of no kept model.*trained_too"
    ):
        sb.explain(out, cases=trained[0], shots=4)
    maps = sb.explain(out, cases=trained[0], shots=4, trained_too=True)
    assert all(one.trained for one in maps)
    assert maps[0].models == sum(trained[0] in c["train"] for c in cells if c["k_shot"] == 4)
    assert "trained on this case" in maps[0].marks


def test_what_is_meant_must_be_said_where_there_are_several(planted, tmp_path) -> None:
    out = tmp_path / "o"
    settings = {**CV, "repeats": 1, "heads": ("abmil", "logistic")}
    run(request_of(planted, out, **settings))
    with pytest.raises(UserError, match=r"several heads were kept: abmil, logistic.*head="):
        sb.explain(out)
    assert sb.explain(out, head="logistic", slide_id="case001-s0").attention is None
    with pytest.raises(UserError, match=r"no head of head 'abmill' was kept. Did you mean 'abmil'"):
        sb.explain(out, head="abmill")
    with pytest.raises(UserError, match=r"no case or slide nobody"):
        sb.explain(out, head="abmil", cases="nobody")
    results = sb.load_results(out)
    assert len(sb.explain(results, head="logistic", cases=["case005"])) == 2


def test_without_kept_heads_it_says_how_to_keep_them(planted, tmp_path) -> None:
    out = tmp_path / "o"
    run(request_of(planted, out, **{**CV, "keep_heads": "none"}))
    with pytest.raises(DataError, match=r"no fitted head was kept .* keep_heads=.all"):
        sb.explain(out)
    with pytest.raises(DataError, match="neither a saved model nor the results of a run"):
        sb.explain(planted.features)


def test_other_features_are_refused(cv, planted, tmp_path) -> None:
    """What was evaluated is what is explained: a prediction that differs stops it."""
    other = tmp_path / "changed"
    shutil.copytree(planted.features, other)
    bag = read_bag(other / "case001-s0.h5")
    write_features(
        other / "case001-s0.h5", bag.features + 0.5, bag.coords, slide_id=bag.slide_id,
        encoder="mine", attrs={"patch_size_level0": bag.patch_size_level0},
    )  # fmt: skip
    assert sb.explain(cv, slide_id="case002-s0", features=other).models == 2
    with pytest.raises(DataError, match=r"case001: mine abmil predicts .* is stored with run"):
        sb.explain(cv, slide_id="case001-s0", features=other)
    (other / "case002-s0.h5").unlink()
    with pytest.raises(DataError, match=r"no features of 1 slide\(s\): case002-s0"):
        sb.explain(cv, slide_id="case002-s0", features=other)


def test_damaged_heads_and_moved_tables_are_named(planted, tmp_path) -> None:
    features, cv = tmp_path / planted.features.name, tmp_path / "cv"
    shutil.copytree(planted.features, features)
    own = replace(planted, table=tmp_path / "table.csv", features=features)
    shutil.copy(planted.table, own.table)
    run(request_of(own, cv, **CV))
    own.table.rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match=r"table of the run is not here. .* table="):
        sb.explain(cv, cases="case001")
    assert len(sb.explain(cv, cases="case001", table=tmp_path / "moved.csv")) == 1
    folder = next((cv / "heads").iterdir())
    (folder / "cell.json").write_text(json.dumps({"run_id": "another"}))
    with pytest.raises(DataError, match="does not describe the kept head of this cell"):
        sb.explain(cv, cases="case001", table=tmp_path / "moved.csv")


def test_an_encoder_of_features_is_explained_beside_its_base(
    planted, tmp_path, half, weights
) -> None:
    out = tmp_path / "two"
    encoders = (EncoderRequest("half", "half", weights), EncoderRequest("mine", "mine"))
    run(request_of(planted, out, encoders=encoders, **{**CV, "repeats": 1}))
    maps = sb.explain(out, encoder="half", against="mine", cases=["case001", "case005"])
    assert [one.encoder for one in maps] == ["half"] * 3 + ["mine"] * 3
    frame = maps.agreement()
    assert list(frame["slide_id"]) == ["case001-s0", "case005-s0", "case005-s1"]
    assert frame["same_grid"].all()
    assert frame["spearman"].between(-1, 1).all()
    bag = read_bag(planted.features / "case001-s0.h5").features[:, :5]
    (row,) = held_out(out, "case001", encoder="half")
    wanted = FittedHead.load(kept_head(out, row.run_id)).attention(bag)
    assert maps[0].attention == pytest.approx(wanted, abs=1e-7)
    # One of two encoders is meant for the comparison, so the other one is explained.
    same = sb.explain(out, against="mine", slide_id="case001-s0")
    assert [one.encoder for one in same] == ["half", "mine"]
    (weights / "experts.safetensors").write_bytes(b"others")
    shutil.rmtree(weights)
    with pytest.raises(DataError, match="weights of 'half' are not where the run had them"):
        sb.explain(out, encoder="half", cases="case001")


def test_the_command_line_writes_a_folder(cv, planted, tmp_path, capsys) -> None:
    out = tmp_path / "maps"
    arguments = ["explain", cv, "--case", "case001", "--case", "case005", "--device", "cpu"]
    assert run_main(*arguments, "--features", planted.features, "--geojson", "--out", out) == 0
    said = capsys.readouterr()
    assert "3 maps of 2 cases, mine with abmil on my_task, 2 model(s) each" in said.out
    content = json.loads((out / "explain.json").read_text())
    assert content["schema"] == "spade-bench/explain/1"
    assert [one["slide_id"] for one in content["maps"]] == ["case001-s0", "case005-s0",
                                                            "case005-s1"]  # fmt: skip
    for one in content["maps"]:
        assert all((out / name).is_file() for name in one["files"].values())
        assert set(one["files"]) >= {"map", "png", "pdf", "geojson"}
    assert run_main(*arguments[:4], "--device", "cpu", "--out", out, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "spade-bench/explain/1"
    assert [one["slide_id"] for one in answer["maps"]] == ["case001-s0"]
    assert [path.name for path in (out / "maps").rglob("*.h5")] == ["case001-s0.h5"]
    assert run_main("explain", cv, "--case", "case0x", "--device", "cpu", "--out", out) == 2
    capsys.readouterr()
    assert [path.name for path in (out / "maps").rglob("*.h5")] == ["case001-s0.h5"]  # not lost
    (out / "blind-key.json").write_text("{}")
    assert run_main(*arguments[:4], "--device", "cpu", "--out", out) == 2
    assert "their letters would mean other encoders" in capsys.readouterr().err
    assert run_main(*arguments, "--out", planted.features) == 2
    assert "was not written by `spade-bench explain`" in capsys.readouterr().err
    assert run_main("explain", tmp_path / "none", "--out", tmp_path / "m") == 2
    assert "neither a saved model nor the results" in capsys.readouterr().err


def test_predictions_are_compared_on_their_own_scale(planted) -> None:
    """A risk of a thousand may differ in its eighth digit; a probability may not by 2e-4."""
    from spade_bench.explain.casemaps import Model, Subject, case_bag, case_maps
    from spade_bench.heads import Fit, HeadOptions
    from spade_bench.registry import heads

    bag = read_bag(planted.features / "case001-s0.h5")
    rows = [bag.features + i for i in range(6)]
    bags = CaseBags(rows.__getitem__, 6, bag.features.shape[1])
    job = Fit(np.arange(6), np.arange(6) % 2, np.arange(1))
    (head,) = heads.get("logistic").load(HeadOptions()).fit(bags, [job], 2)
    given = case_bag("c", ["case001-s0"], lambda _: bag, bag.features)
    subject, truth = Subject("mine", "logistic", "t"), head.predict(bags, [0])[0]
    assert case_maps(given, [Model("r", head, truth + np.array([5e-5, -5e-5]))], subject)
    with pytest.raises(DataError, match="is stored with run r"):
        case_maps(given, [Model("r", head, truth + np.array([2e-4, -2e-4]))], subject)
