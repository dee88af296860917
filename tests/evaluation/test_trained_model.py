"""A head trained on a whole table: kept, loaded, and careful about what it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import request_of, run_main
from PIL import Image

from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.modelfitting import fit_model, youden
from spade_bench.evaluation.request import EncoderRequest
from spade_bench.evaluation.trainedmodel import TrainedModel
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.identity import Identity
from spade_bench.files import read_sealed, write_sealed
from spade_bench.types import Bag

QUICK = {"abmil": {"epochs": 3, "min_steps": 10, "hidden": 16, "lr": 5e-3}}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(study: Any, tmp_path: Path, **changes: Any) -> TrainedModel:
    values: dict[str, Any] = {"heads": ("logistic",), "set": QUICK, **changes}
    return fit_model(request_of(study, tmp_path / "unused", **values))


@pytest.mark.parametrize("head", ["logistic", "abmil", "knn"])
def test_it_predicts_the_same_after_saving(head, study, other_study, tmp_path) -> None:
    model = train(study, tmp_path, heads=(head,))
    assert model.classes == ("normal", "tumor")
    before = model.predict(other_study.features)
    model.save(tmp_path / "model")
    again = TrainedModel.load(tmp_path / "model")
    pd.testing.assert_frame_equal(again.predict(other_study.features), before)
    assert again.info == model.info
    assert list(before.columns[:4]) == [
        "case_id", "slide_id", "probability_normal", "probability_tumor"
    ]  # fmt: skip
    assert len(before) == len(other_study.slides)
    assert not before["trained_on"].any()
    truth = before["slide_id"].str.extract(r"other(\d+)")[0].astype(int) % 2
    assert ((before["predicted"] == "tumor") == (truth == 1)).mean() > 0.7
    assert not (tmp_path / "unused").exists()


def test_training_cases_are_marked_and_kept_whole(study, tmp_path, capsys) -> None:
    model = train(study, tmp_path)
    frame = model.predict(study.features)
    assert len(frame) == 40
    assert frame["trained_on"].all()
    assert frame.set_index("case_id").loc["case000", "slide_id"] == "case000-s0;case000-s1"
    assert "40 of 40 cases trained this model" in capsys.readouterr().err


def test_bags_in_memory_give_what_files_give(study, other_study, tmp_path) -> None:
    model = train(study, tmp_path)
    bags = [read_bag(path) for path in sorted(other_study.features.glob("*.h5"))]
    pd.testing.assert_frame_equal(model.predict(bags), model.predict(other_study.features))
    with pytest.raises(DataError, match="features of 'uni', but the model was fitted on"):
        model.predict(Bag("a", bags[0].features, encoder="uni"))
    with pytest.raises(DataError, match="NaN"):
        model.predict(Bag("a", np.full((3, 12), np.nan, np.float32)))


def test_features_of_another_encoder_are_refused(study, uni_study, tmp_path) -> None:
    model = train(study, tmp_path)
    with pytest.raises(DataError, match="'uni'"):
        model.predict(uni_study.features)


def test_features_of_other_weights_are_refused(study, tmp_path) -> None:
    """The files say what made them; a model does not take what something else has made."""
    for name, identity in (("train", "one"), ("same", "one"), ("other", "two")):
        for path in study.features.glob("*.h5"):
            bag = read_bag(path)
            write_features(
                tmp_path / name / path.name, bag.features, slide_id=bag.slide_id, encoder="mine",
                attrs={"identity": Identity("mine", options={"version": identity}).to_json()},
            )  # fmt: skip
    model = train(study, tmp_path, features={"*": tmp_path / "train"})
    assert len(model.predict(tmp_path / "same")) == 40
    assert len(model.predict(study.features)) == 40  # files that say nothing
    with pytest.raises(DataError, match="other weights or options"):
        model.predict(tmp_path / "other")
    first = next(iter(sorted((tmp_path / "train").glob("*.h5"))))
    first.write_bytes((tmp_path / "other" / first.name).read_bytes())
    with pytest.raises(DataError, match="made in different ways"):
        train(study, tmp_path, features={"*": tmp_path / "train"})


def test_an_encoder_of_features_is_sent_through_again(
    study, other_study, tmp_path, half, weights
) -> None:
    model = train(study, tmp_path, encoders=(EncoderRequest(half, half, weights),))
    assert model.fitted.info.dim == 6
    model.save(tmp_path / "model")
    model = TrainedModel.load(tmp_path / "model")
    assert len(model.predict(other_study.features, weights=weights)) == len(other_study.slides)
    with pytest.raises(UserError, match="weights="):
        model.predict(other_study.features)
    (weights / "experts.safetensors").write_bytes(b"others")
    with pytest.raises(DataError, match="other weights or options"):
        model.predict(other_study.features, weights=weights)


def test_survival_gives_risks_that_order_cases(survival, tmp_path) -> None:
    model = train(survival, tmp_path, heads=("cox",))
    frame = model.predict(survival.features)
    assert model.classes == ()
    assert model.info.thresholds == {}
    days = pd.read_csv(survival.table).set_index("case_id").loc[frame["case_id"], "duration_days"]
    assert np.corrcoef(frame["risk"], np.log(days))[0, 1] < -0.3


def test_attention_of_a_slide(study, tmp_path) -> None:
    model = train(study, tmp_path, heads=("abmil",))
    bag = read_bag(study.features / "case001-s0.h5")
    from_folder = model.attention(study.features, "case001-s0")
    assert from_folder.shape == (len(bag.features),)
    assert from_folder.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(model.attention(bag), from_folder)
    with pytest.raises(DataError, match="no features of slide 'nobody'"):
        model.attention(study.features, "nobody")
    with pytest.raises(UserError, match="no attention"):
        train(study, tmp_path).attention(bag)


def test_select_looks_at_training_cases_only_and_is_kept(study, tmp_path, capsys) -> None:
    model = train(study, tmp_path, select=True)
    chosen = float(model.fitted.info.params["C"])
    assert f"C={chosen}" in capsys.readouterr().err
    assert chosen in (0.001, 0.01, 0.1, 1.0, 10.0)


def test_thresholds(study, tmp_path, capsys) -> None:
    cheap = train(study, tmp_path)
    assert set(cheap.info.thresholds) == {"default", "youden"}
    assert {"predicted", "predicted_youden"} <= set(cheap.predict(study.features))
    assert train(study, tmp_path, heads=("abmil",)).info.thresholds == {"default": 0.5}
    assert "the threshold is 0.5" in capsys.readouterr().err
    target, scores = np.array([0, 0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.5, 0.9])
    assert youden(target, scores) == pytest.approx(0.35)  # between 0.2 and 0.5
    assert youden(np.array([0, 1]), np.array([0.4, 0.4])) == 0.4


def test_a_damaged_model_is_refused(study, tmp_path) -> None:
    folder = train(study, tmp_path).save(tmp_path / "model")
    path = folder / "model.json"
    content = read_sealed(path)
    for change, message in (
        ({"more": 1}, "more"),
        ({"version": 7}, "format version 7"),
        ({"format": "cake"}, "does not describe a saved model"),
        ({"seed": "three"}, "seed"),
    ):
        write_sealed(path, {**content, **change})
        with pytest.raises(DataError, match=message):
            TrainedModel.load(folder)
    path.write_text(path.read_text().replace("mine", "yours"))
    with pytest.raises(DataError, match="damaged or edited"):
        TrainedModel.load(folder)
    with pytest.raises(DataError, match="spade-bench fit"):
        TrainedModel.load(tmp_path / "nothing")


def test_fit_and_predict_from_the_command_line(study, other_study, tmp_path, capsys) -> None:
    common = ["--encoder", "mine", "--task", "lung", "--table", study.table, "--features"]
    fit = ["fit", *common, study.features, "--head", "logistic", "--device", "cpu", "--out"]
    assert run_main(*fit, tmp_path / "model") == 0
    assert "logistic fitted on 40 cases" in capsys.readouterr().out
    predict = ["predict", tmp_path / "model", "--device", "cpu", "--out", tmp_path / "p.csv"]
    assert run_main(*predict, "--features", other_study.features) == 0
    frame = pd.read_csv(tmp_path / "p.csv")
    expected = TrainedModel.load(tmp_path / "model").predict(other_study.features)
    pd.testing.assert_frame_equal(frame, expected)
    assert run_main(*predict, "--features", other_study.features, "--table", other_study.table) == 0
    assert len(pd.read_csv(tmp_path / "p.csv")) == 24  # cases, not slides
    assert run_main(*fit, tmp_path / "model") == 0  # a model may be replaced
    for arguments, message in (
        ([*predict], "--features DIR or --slides DIR"),
        ([*predict, "--features", tmp_path / "none"], "no such features folder"),
        ([*predict, "--features", study.features, "--assume-mpp", 1], "--slides only"),
        ([predict[0], study.features, *predict[2:], "--features", study.features], "saved model"),
        ([*fit, study.features], "not a saved model"),
        ([*fit, tmp_path / "m", "--head", "cox"], "does not serve classification"),
        ([*fit, tmp_path / "m", "--head", "transmil"], "patch-transformer"),
    ):  # fmt: skip
        assert run_main(*arguments) == 2
        assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "m").exists()


def _paint(folder: Path, n: int) -> None:
    """Slides of two colours, as plain images."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        image = np.full((520, 520, 3), 240, np.uint8)
        colour = np.array([170, 60, 120] if i % 2 else [90, 60, 170])
        image[30:490, 30:490] = np.clip(colour + rng.integers(-40, 40, (460, 460, 3)), 0, 255)
        Image.fromarray(image).save(folder / f"s{i}.png")


def test_slides_are_extracted_as_the_training_slides_were(tmp_path, capsys) -> None:
    _paint(tmp_path / "slides", 6)
    rows = "".join(f"c{i},s{i},{'a' if i % 2 else 'b'}\n" for i in range(6))
    Path("t.csv").write_text(f"case_id,slide_id,label\n{rows}")
    cpu = ["--device", "cpu"]
    slides = ["--slides", tmp_path / "slides", "--assume-mpp", 0.5, *cpu]
    assert run_main("extract", "--encoder", "random-lite0", *slides, "--out", "f") == 0
    fit = ["fit", "--task", "t", "--table", "t.csv", "--head", "logistic", *cpu, "--out", "m"]
    assert run_main(*fit, "--encoder", "random-lite0", "--features", "f") == 0
    assert run_main("predict", "m", "--features", "f", *cpu, "--out", "stored.csv") == 0
    assert run_main("predict", "m", *slides, "--features-out", "new", "--out", "made.csv") == 0
    assert Path("made.csv").read_bytes() == Path("stored.csv").read_bytes()
    frame = pd.read_csv("made.csv")
    assert list(frame["case_id"]) == [f"c{i}" for i in range(6)]
    assert frame["trained_on"].all()
    other = ["extract", "--encoder", "random-lite0", *slides, "--seed", 1, "--out", "other"]
    assert run_main(*other) == 0
    capsys.readouterr()
    assert run_main("predict", "m", "--features", "other", *cpu, "--out", "p.csv") == 2
    assert "other weights or options" in capsys.readouterr().err
    assert not Path("p.csv").exists()


def test_a_model_of_features_under_another_name_predicts_on_such_features(
    study, other_study, uni_study, tmp_path
) -> None:
    named = {"encoders": (EncoderRequest("half-of-it", "half-of-it"),)}
    with pytest.raises(DataError, match="--as-is"):
        train(study, tmp_path, **named)
    model = train(study, tmp_path, as_is=True, **named)
    assert model.info.flags == ("encoder-mismatch:mine",)
    TrainedModel.load(model.save(tmp_path / "model"))
    frame = model.predict(other_study.features)
    assert set(frame["flags"]) == {"encoder-mismatch:mine"}
    bags = [read_bag(path) for path in sorted(Path(other_study.features).glob("*.h5"))]
    in_memory = model.predict(bags).set_index("slide_id")
    assert np.array_equal(
        in_memory["probability_tumor"],
        frame.set_index("slide_id").loc[in_memory.index, "probability_tumor"],
    )
    with pytest.raises(DataError, match="features of 'uni', but the model was fitted on those"):
        model.predict(uni_study.features)


def test_predictions_of_a_model_of_simulated_data_say_so(study, other_study, tmp_path) -> None:
    assert "flags" not in train(study, tmp_path).predict(other_study.features)
    table = pd.read_csv(study.table)
    table.assign(simulated=True).to_csv(study.table, index=False)
    model = train(study, tmp_path)
    assert set(model.predict(other_study.features)["flags"]) == {"simulated"}


def test_a_model_of_nameless_features_takes_nameless_ones_only(study, uni_study, tmp_path) -> None:
    for folder in (tmp_path / "train", tmp_path / "test"):
        folder.mkdir()
        for path in study.features.glob("*.h5"):
            np.save(folder / f"{path.stem}.npy", read_bag(path).features)
    named = {"encoders": (EncoderRequest("unii", "unii"),), "features": {"*": tmp_path / "train"}}
    with pytest.raises(DataError, match="Did you mean 'uni'"):
        train(study, tmp_path, **named)
    model = train(study, tmp_path, as_is=True, **named)
    assert "flags" not in model.predict(tmp_path / "test")
    with pytest.raises(DataError, match="features of 'uni', but the model was fitted on those"):
        model.predict(uni_study.features)
