"""Maps of patches that were cut before: no places, and contact sheets of the images themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run_main
from PIL import Image

import spade_bench as sb
from spade_bench.errors import DataError, UserError
from spade_bench.explain.agreement import agreement
from spade_bench.explain.mapstore import read_map
from spade_bench.extraction.patchimages import PatchImages, image_rows
from spade_bench.features.bags import read_bag
from spade_bench.registry import encoders
from spade_bench.types import EncoderCard

N, PX = 8, 32
QUICK = {"abmil": {"epochs": 2, "min_steps": 60, "hidden": 16, "attention": 8, "lr": 5e-3}}


class MeanColour:
    """Six numbers of an image: the mean and the spread of each channel."""

    card = EncoderCard("mean-colour", "image", 6, "Mean colour.", patch_px=PX, mpp=0.5)

    def encode(self, images: Any) -> np.ndarray:
        pixels = np.asarray(images, dtype=np.float32) / 255
        return np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Images of 16 slides in folders of two classes, all called 0.png to 7.png; table, model."""
    monkeypatch.chdir(tmp_path)
    encoders.names()
    if "mean-colour" not in encoders.names():
        encoders.add(MeanColour.card, lambda options: MeanColour())
    rng = np.random.default_rng(0)
    for at in range(16):
        folder = tmp_path / "patches" / ("tumor" if at % 2 else "normal") / f"s{at:02d}"
        folder.mkdir(parents=True)
        for n in range(N):
            pixels = rng.integers(60, 120, (PX, PX, 3))
            pixels[..., 0] += 90 * (n < 3 and at % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{n}.png")
    assert run_main(
        "extract", "--encoder", "mean-colour", "--patches", tmp_path / "patches", "--group-by",
        "folder", "--write-table", "table.csv", "--out", "f", "--device", "cpu",
    ) == 0  # fmt: skip
    (features,) = tmp_path.glob("f/*/features_mean-colour")
    model = sb.fit(
        "mean-colour", task="t", table="table.csv", features=features, head="abmil", set=QUICK
    )
    model.save("model")
    return {"patches": tmp_path / "patches", "features": features, "model": tmp_path / "model"}


@pytest.fixture(autouse=True)
def _gone() -> Any:
    yield
    encoders._plugins.pop("mean-colour", None)


def test_every_row_is_known_by_its_image_and_the_sheets_show_it(study, tmp_path, capsys) -> None:
    arguments = ["explain", study["model"], "--features", study["features"], "--trained-too",
                 "--device", "cpu", "--top", 5]  # fmt: skip
    assert run_main(*arguments, "--patches", study["patches"], "--out", "maps") == 0
    said = capsys.readouterr().err
    assert "16 map(s) have no picture: their features do not say where on a slide" in said
    out = tmp_path / "maps"
    assert not (out / "pictures").exists()
    listing = json.loads((out / "explain.json").read_text())
    assert sorted(listing["sheets"]) == [f"top-{name}" for name in (
        "mean-colour.pdf", "mean-colour.png", "patches.json")]  # fmt: skip
    shown = read_map(out / "maps" / "s03.h5")
    assert not shown.placed
    assert shown.images == tuple(f"tumor/s03/{n}.png" for n in range(N))
    assert list(shown.to_dataframe()["image"]) == list(shown.images)
    bag = read_bag(study["features"] / "s03.h5")
    for row, name in enumerate(shown.images):
        pixels = np.asarray(Image.open(study["patches"] / name))[None]
        assert MeanColour().encode(pixels)[0] == pytest.approx(bag.features[row], abs=1e-6)
    patches = json.loads((out / "top-patches.json").read_text())["sheets"]["mean-colour"]["patches"]
    assert len(patches) == 10
    for patch in patches:
        one = read_map(out / "maps" / f"{patch['slide_id']}.h5")
        assert one.strength().values[one.images.index(patch["image"])] == patch["score"]


def test_without_the_images_there_are_numbers_and_a_hint(study, tmp_path, capsys) -> None:
    arguments = ["explain", study["model"], "--features", study["features"], "--trained-too",
                 "--device", "cpu", "--case", "s03", "--out", "maps"]  # fmt: skip
    assert run_main(*arguments) == 0
    assert "no place on the contact sheets" in (said := capsys.readouterr().err)
    assert "--patches DIR names the images" in said
    shown = read_map(tmp_path / "maps" / "maps" / "s03.h5")
    assert shown.images == tuple(f"{n}.png" for n in range(N))
    assert agreement(shown, shown).patches == N
    for draw in (shown.plot, lambda: shown.to_geojson("a.geojson")):
        with pytest.raises(DataError, match="s03: the features do not say where on the slide"):
            draw()
    for option in (["--viewer"], ["--geojson"], ["--regions", study["patches"]]):
        assert run_main(*arguments, "--patches", study["patches"], *option) == 2
        assert f"{option[0]}: needs slides" in capsys.readouterr().err.replace("\n", " ")
    assert run_main(*arguments, "--patches", study["patches"], "--slides", study["patches"]) == 2


def test_missing_and_changed_images_are_named(study, tmp_path) -> None:
    rows = image_rows(study["features"] / "s03.h5", N)
    images = PatchImages(study["patches"])
    assert images.find("s03", rows) == tuple(f"tumor/s03/{n}.png" for n in range(N))
    pixels = np.zeros((PX, PX, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(study["patches"] / "tumor" / "s03" / "2.png")
    with pytest.raises(DataError, match=r"patches: holds another image as 2\.png, of 8"):
        images.find("s03", rows)
    (tmp_path / "few").mkdir()
    with pytest.raises(DataError, match="few: no image files found"):
        PatchImages(tmp_path / "few").find("s03", rows)
    Image.fromarray(pixels).save(tmp_path / "few" / "x.png")
    with pytest.raises(DataError, match=r"lacks 0\.png, 1\.png, 2\.png and 5 more"):
        PatchImages(tmp_path / "few").find("s03", rows)
    bag = read_bag(study["features"] / "s03.h5")
    with pytest.raises(DataError, match="do not say which images they were made of"):
        sb.explain(
            study["model"], features=bag, patches=study["patches"], trained_too=True,
        )  # fmt: skip
    with pytest.raises(UserError, match="images of patches are given, and slides too"):
        sb.explain(
            study["model"], features=study["features"], patches=study["patches"],
            slides=study["patches"],
        )  # fmt: skip


def test_patches_of_a_slide_are_no_images(study, planted) -> None:
    model = sb.fit(
        "mine", task="t", table=planted.table, features=planted.features, head="abmil", set=QUICK
    )
    with pytest.raises(DataError, match=r"Give the slides with slides=, not"):
        sb.explain(model, features=planted.features, cases="case001", trained_too=True,
                   patches=study["patches"])  # fmt: skip
