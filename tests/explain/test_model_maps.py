"""Maps by a model: of its own numbers, of the case, marked where the case trained it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import request_of

import spade_bench as sb
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.modelfitting import fit_model
from spade_bench.evaluation.trainedmodel import TrainedModel
from spade_bench.explain.casemaps import Model, Subject, case_bag, case_maps
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.types import Bag

QUICK = {"abmil": {"epochs": 6, "min_steps": 200, "hidden": 16, "attention": 8, "lr": 5e-3}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(study: Any, tmp_path: Path, head: str = "abmil", **changes: Any) -> TrainedModel:
    settings = {"heads": (head,), "set": QUICK, **changes}
    return fit_model(request_of(study, tmp_path / "unused", **settings))


@pytest.fixture(scope="module")
def model(planted, tmp_path_factory) -> TrainedModel:
    return train(planted, tmp_path_factory.mktemp("model"))


def test_a_map_holds_attention_and_contributions_of_the_slide(model, others) -> None:
    shown = sb.explain(model, slide_id="other001-s0", features=others.features)
    bag = read_bag(others.features / "other001-s0.h5")
    assert np.array_equal(shown.coords, bag.coords)
    assert shown.side == 100
    assert shown.attention == pytest.approx(model.attention(bag))
    assert shown.attention.sum() == pytest.approx(1)
    table = model.predict(bag)
    wanted = table.loc[0, ["probability_normal", "probability_tumor"]].to_numpy(dtype=float)
    assert shown.predicted == pytest.approx(tuple(wanted))
    offset = np.log(wanted) - shown.contribution.sum(axis=0)  # the biases, but for a constant
    biases = model.fitted.tensors()["out_b"][0]
    assert np.diff(offset) == pytest.approx(np.diff(biases), abs=1e-4)
    assert (shown.classes, shown.models, shown.trained) == (("normal", "tumor"), 1, False)
    assert shown.sd is None
    frame = shown.to_dataframe()
    assert list(frame) == ["slide_id", "x", "y", "attention", "percentile",
                           "contribution_normal", "contribution_tumor"]  # fmt: skip
    assert frame["percentile"].between(0, 1).all()


def test_the_resolution_is_that_by_which_the_patches_were_cut(model, write_slide, tmp_path) -> None:
    path = write_slide(tmp_path / "s.tif", np.full((300, 300, 3), 200, dtype=np.uint8))  # says 0.5
    subject, judge = Subject("mine", "abmil", "planted"), Model("one", model.fitted)
    for said, drawn_on in ((0.25, 0.25), (None, 0.5)):
        features = np.ones((2, 10))
        bag = Bag("s", features, np.array([[0, 0], [100, 0]]), 100, level0_mpp=said)
        case = case_bag("s", ["s"], lambda _, bag=bag: bag, features)
        for slides, wanted in ((None, said), ({"s": path}, drawn_on)):
            (shown,) = case_maps(case, [judge], subject, slides=slides)
            assert shown.mpp == (None if wanted is None else pytest.approx(wanted))


def test_of_a_folder_every_slide_is_mapped(model, others) -> None:
    maps = sb.explain(model, features=others.features)
    assert [one.slide_id for one in maps] == sorted(find_bags(others.features))
    few = sb.explain(model, features=others.features, cases=["other003-s0", "other000-s1"])
    assert [one.slide_id for one in few] == ["other003-s0", "other000-s1"]
    assert len(few.to_dataframe()) == sum(len(one.coords) for one in few)
    assert maps["other003-s0"].shown == pytest.approx(few[0].shown)
    with pytest.raises(UserError, match="no map of slide 'nobody'"):
        maps["nobody"]


def test_the_slides_of_a_case_share_its_attention(model, planted) -> None:
    (first, second) = sb.explain(
        model, features=planted.features, cases="case005", trained_too=True
    )
    assert (first.slide_id, second.slide_id) == ("case005-s0", "case005-s1")
    assert first.attention.sum() + second.attention.sum() == pytest.approx(1)
    assert 0.01 < first.attention.sum() < 0.99
    assert first.predicted == second.predicted
    assert first.about["slides_of_case"] == ["case005-s0", "case005-s1"]
    assert max(first.percentile) > 0.95  # within the slide
    assert max(second.percentile) > 0.95


def test_cases_that_trained_the_model_are_refused_or_marked(
    model, planted, others, capsys, tmp_path
) -> None:
    with pytest.raises(UserError, match=r"case003 trained this model.*trained_too=True"):
        sb.explain(model, features=planted.features, cases="case003")
    with pytest.raises(UserError, match="trained this model"):
        sb.explain(model, features=planted.features)
    with pytest.raises(UserError, match="trained this model"):
        sb.explain(model, slide_id="case003-s0", features=planted.features, trained_too=False)
    shown = sb.explain(model, slide_id="case003-s0", features=planted.features)
    assert shown.trained
    assert "what was learnt, not what is found" in capsys.readouterr().err
    assert "trained on this case" in [text.get_text() for text in shown.plot().texts]
    both = [read_bag(p) for p in (planted.features / "case003-s0.h5",
                                  others.features / "other001-s0.h5")]  # fmt: skip
    maps = sb.explain(model, features=both)
    assert [one.slide_id for one in maps] == ["other001-s0"]
    assert "1 cases trained this model and are left out" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["logistic", "mean-mlp", "patch-transformer"])
def test_heads_without_attention_show_the_contribution(head, planted, others, tmp_path) -> None:
    small = {head: {"epochs": 2, "min_steps": 10, "hidden": 32}} if head != "logistic" else {}
    model = train(planted, tmp_path, head, set=small)
    shown = sb.explain(model, slide_id="other001-s0", features=others.features)
    assert shown.attention is None
    assert np.array_equal(shown.shown, shown.contribution[:, 1])
    assert "attention" not in shown.to_dataframe()
    assert shown.layers()[0].legend == "towards tumor, percentile within the slide"
    gradient = shown.method == "gradient x input"
    assert gradient == (head != "logistic")


def test_heads_that_cannot_say_it_refuse(planted, others, tmp_path) -> None:
    model = train(planted, tmp_path, "knn")
    with pytest.raises(UserError, match="'knn' cannot say what each patch adds"):
        sb.explain(model, slide_id="other001-s0", features=others.features)


def test_geojson_holds_the_patches_with_their_values(model, others, tmp_path) -> None:
    shown = sb.explain(model, slide_id="other001-s0", features=others.features)
    content = json.loads(shown.to_geojson(tmp_path / "m.geojson").read_text())
    frame = shown.to_dataframe()
    assert len(content["features"]) == len(frame)
    first = content["features"][0]
    (ring,) = first["geometry"]["coordinates"]
    assert ring[0] == ring[-1] == [int(frame["x"][0]), int(frame["y"][0])]
    assert ring[2] == [int(frame["x"][0]) + 100, int(frame["y"][0]) + 100]
    measured = first["properties"]["measurements"]
    for name in ("attention", "percentile", "contribution_tumor"):
        assert measured[name] == pytest.approx(frame[name][0])


def test_what_does_not_fit_is_refused(model, others, tmp_path) -> None:
    bag = read_bag(others.features / "other001-s0.h5")
    unsized = Bag("a", bag.features, bag.coords, encoder="mine")
    with pytest.raises(DataError, match=r"a: the features say where .* not how large they are"):
        sb.explain(model, features=unsized)
    with pytest.raises(UserError, match="no such slide"):
        sb.explain(model, slide=tmp_path / "none.svs", features=others.features)
    (tmp_path / "other002-s0.svs").touch()
    with pytest.raises(UserError, match="of 'other001-s0', not of 'other002-s0'"):
        sb.explain(model, slide=tmp_path / "other002-s0.svs", features=bag)
    with pytest.raises(UserError, match="no case or slide nobody"):
        sb.explain(model, features=others.features, cases=["nobody", "other001-s0"])
    with pytest.raises(DataError, match="no features of slide 'nobody'"):
        sb.explain(model, slide_id="nobody", features=others.features)
