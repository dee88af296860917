"""`evaluate` takes encoders as objects, those that no name stands for too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import spade_bench as sb
from spade_bench.errors import UserError
from spade_bench.features.bags import write_features
from spade_bench.types import EncoderCard

DIM = 6
QUICK: dict[str, Any] = {
    "protocol": "few-shot", "shots": (4,), "draws": 2, "heads": ("logistic",), "device": "cpu"
}  # fmt: skip


class Scaled:
    """An encoder of features that is registered nowhere."""

    def __init__(self, factor: float, name: str = "scaled", dim: Any = 3) -> None:
        self.card = EncoderCard(name, "features", None, "Scaled.", upstream="any", pretrained_on=())
        self.dim, self.factor = dim, factor

    def encode(self, features: np.ndarray) -> np.ndarray:
        return features[:, :3] * self.factor + self.factor


class Largest:
    """A slide encoder that is registered nowhere."""

    def __init__(self, name: str = "largest") -> None:
        self.card = EncoderCard(
            name, "features", None, "Maximum.", level="slide", upstream="any", pretrained_on=()
        )
        self.dim = None

    def encode_slide(self, features, coords=None, patch_size_level0=None) -> np.ndarray:
        return features.max(axis=0)


@pytest.fixture
def given(tmp_path) -> dict[str, Any]:
    """A cohort as a DataFrame, and features in a folder."""
    rng, rows = np.random.default_rng(0), []
    for i in range(24):
        x = rng.normal(size=(4, DIM)) + (i % 2)
        write_features(tmp_path / "f" / f"s{i:02d}.h5", x, slide_id=f"s{i:02d}", encoder="mine")
        rows.append(
            {"case_id": f"c{i}", "slide_id": f"s{i:02d}", "label": "no" if i % 2 else "yes"}
        )
    return {
        **{"table": pd.DataFrame(rows), "features": tmp_path / "f", "task": "t"},
        "out": tmp_path / "o",
    }


@pytest.mark.parametrize("encoder", [Scaled(2.0), Largest()], ids=["patches", "slides"])
def test_an_encoder_that_is_registered_nowhere_runs_with_its_controls(encoder, given) -> None:
    table = sb.evaluate([encoder], **given, **QUICK).to_dataframe()
    assert (table["status"] == "ok").all()
    name = encoder.card.name
    assert {name, "mine"} <= set(table["encoder"])
    assert {"base", "pca"} <= set(table["control"])


def test_the_numbers_of_an_object_tell_it_from_another_of_its_name(given) -> None:
    quick = {**QUICK, "controls": False}
    ids = []
    for factor in (2.0, 3.0, 2.0):
        table = sb.evaluate(Scaled(factor), **given, **quick).to_dataframe()
        ids.append(set(table["run_id"]))
    assert [len(known) for known in ids[:2]] == [2, 4]
    assert ids[2] == ids[1]  # the first one is done already


def test_an_object_counts_as_the_name_it_was_loaded_by_unless_it_was_loaded_otherwise(
    given,
) -> None:
    quick = {**QUICK, "controls": False}
    by_name = sb.evaluate("mean-pool", **given, **quick).to_dataframe()
    loaded = sb.load_encoder("mean-pool")
    again = sb.evaluate(loaded, **given, **quick).to_dataframe()
    assert set(again["run_id"]) == set(by_name["run_id"])
    other = sb.load_encoder("mean-pool", seed=3)
    mixed = sb.evaluate({"seeded": other}, **given, **quick).to_dataframe()
    assert set(mixed["encoder"]) == {"mean-pool", "seeded"}


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (object(), "A object is neither the name of an encoder nor a loaded one"),
        (None, "A NoneType is neither"),
        (SimpleNamespace(card=Scaled(1.0).card), "has no method `encode`"),
        (Scaled(1.0, dim=None), "its `dim` is None"),
        ([Scaled(1.0), Scaled(2.0)], "two encoders are called 'scaled'"),
    ],
)
def test_an_object_that_cannot_be_used_is_named(encoder, message, given) -> None:
    with pytest.raises(UserError, match="(?i)" + message):
        sb.evaluate(encoder, **given, **QUICK)


def test_weights_for_an_encoder_that_is_loaded_are_refused(given, tmp_path) -> None:
    with pytest.raises(UserError, match="is loaded already: it takes no weights"):
        sb.evaluate(Scaled(1.0), weights={"scaled": tmp_path}, **given, **QUICK)


def test_a_model_refuses_an_encoder_that_it_could_not_load_again(given) -> None:
    with pytest.raises(UserError, match="cannot name the encoder 'scaled'"):
        sb.fit(Scaled(1.0), head="logistic", **{k: v for k, v in given.items() if k != "out"})
