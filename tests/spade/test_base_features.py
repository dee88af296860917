"""Base features of `pretrain` are found by what made them, in whatever folder they lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from toy_pretraining import N, config, write_hest

from spade_bench import plugins
from spade_bench.encoders.spade.pretraining.prepare.basefeatures import BaseEncoder
from spade_bench.encoders.spade.pretraining.prepare.preparation import prepare
from spade_bench.encoders.spade.pretraining.prepare.stages import Stages
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
from spade_bench.errors import ConfigError
from spade_bench.features.identity import identity_of, stored_identity
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard, LoadOptions, Normalisation

PX = 8


class Colour:
    """Mean colour of a patch times what its weights say; counts how many it encoded."""

    encoded = 0
    card = EncoderCard(
        "colour",
        "image",
        3,
        "mean colour",
        patch_px=PX,
        mpp=0.5,
        licence="x",
        normalisation=Normalisation((0.5,) * 3, (0.5,) * 3),
    )

    def __init__(self, options: LoadOptions) -> None:
        assert options.weights is not None
        self.by = float(options.weights.read_text())

    def encode(self, images: Any) -> torch.Tensor:
        Colour.encoded += len(images)
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2)) * self.by


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BaseEncoder:
    plugins.install()
    encoders.names()
    monkeypatch.setattr(encoders, "_plugins", dict(encoders._plugins))
    encoders.add(Colour.card, Colour)
    weights = tmp_path / "colour.txt"
    weights.write_text("1.0")
    return BaseEncoder("colour", weights, "cpu", workers=1, patch_px=PX)


@pytest.fixture
def sections(tmp_path: Path) -> PretrainConfig:
    (tmp_path / "hest").mkdir()
    hest = write_hest(tmp_path / "hest")
    (hest / "patches").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        with h5py.File(hest / "patches" / f"S{i}.h5", "w") as file:
            file["img"] = rng.integers(0, 255, (N, PX, PX, 3), dtype=np.uint8)
            places = 200.0 * np.stack(np.divmod(np.arange(N), 7), axis=1) + 100
            file["coords"] = places - 4
            file["barcode"] = np.array([[f"b{k}".encode()] for k in range(N)])
        (hest / "metadata").mkdir(exist_ok=True)
        (hest / "metadata" / f"S{i}.json").write_text('{"pixel_size_um_estimated": 0.5}')
    made = config(hest, encoder="colour")
    return replace(made, samples=replace(made.samples, features=None, patch_px=PX))


Prepare = Callable[[str], np.ndarray]


@pytest.fixture
def prepared(sections: PretrainConfig, base: BaseEncoder, tmp_path: Path) -> Prepare:
    def go(out: str) -> np.ndarray:
        Colour.encoded = 0
        return np.array(prepare(sections, tmp_path / out, base).spots.features)

    return go


def test_another_out_takes_the_features_of_the_same_encoder(
    prepared: Prepare, base: BaseEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = prepared("a")
    assert Colour.encoded == 4 * N
    second = prepared("b")
    assert Colour.encoded == 0
    np.testing.assert_array_equal(first, second)
    assert "4 feature file(s) of the same encoder and input taken from" in capsys.readouterr().err
    files = [next((tmp_path / out / "prepare").rglob("S0.h5")) for out in "ab"]
    assert files[0].samefile(files[1])  # nothing is stored twice
    assert stored_identity(files[1]) == identity_of("colour", base.load_options)
    assert base.weights is not None
    base.weights.write_text("3.0")
    third = prepared("c")  # other weights under the same path
    assert Colour.encoded == 4 * N
    np.testing.assert_allclose(third, 3 * first, rtol=1e-5)
    np.testing.assert_array_equal(prepared("b"), third)  # and where it was done before
    assert Colour.encoded == 0  # those of c
    np.testing.assert_array_equal(np.sort(prepared("d").ravel()), np.sort(third.ravel()))
    with h5py.File(files[0]) as file:
        assert float(file["features"][0, 0]) > 0  # a is as it was


def test_features_that_do_not_say_what_made_them_are_not_taken(
    prepared: Prepare, tmp_path: Path
) -> None:
    prepared("a")
    for path in (tmp_path / "a" / "prepare" / "features").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            del file["features"].attrs["identity"]
    prepared("b")
    assert Colour.encoded == 4 * N


def test_the_same_weights_written_again_change_nothing(
    prepared: Prepare, base: BaseEncoder
) -> None:
    prepared("a")
    assert base.weights is not None
    base.weights.write_text("1.0")
    os.utime(base.weights, (1, 1))
    prepared("a")
    assert Colour.encoded == 0


def test_a_stage_of_an_older_version_counts(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, Any]:
        calls.append(1)
        return {"said": "done"}

    Stages(tmp_path).run("features", {"weights": "stamp"}, work)
    again = Stages(tmp_path, keep=True)
    again.run("features", {"identity": "i"}, work, older={"weights": "stamp"})
    following = again.key
    assert len(calls) == 1
    whole = Stages(tmp_path)
    whole.run("features", {"weights": "stamp"}, work)
    assert following == whole.key  # what follows is done too
    with pytest.raises(ConfigError, match="have changed since its model was trained"):
        Stages(tmp_path, keep=True).run("features", {"identity": "i"}, work, older={"weights": 1})


def test_a_model_says_which_weights_its_base_had(base: BaseEncoder) -> None:
    assert BaseEncoder("uni").revision == encoders.get("uni").card.revision
    assert BaseEncoder("of nobody").revision == ""
    before = base.revision
    assert len(before) == 16
    assert base.weights is not None
    base.weights.write_text("2.0")
    assert base.revision != before
