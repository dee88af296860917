"""Changed patches: what changes do to a picture, to features that see colour, and to a probe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run_main
from PIL import Image

from spade_bench.errors import ConfigError, UserError
from spade_bench.extraction import group_patches
from spade_bench.registry import encoders
from spade_bench.robustness.perturbations import CHANGES, changed_images, measure_changes
from spade_bench.types import EncoderCard, LoadOptions

PX = 16


class _Colours:
    """Mean and spread of each channel; or of the grey picture, which a gain hardly moves."""

    def __init__(self, card: EncoderCard) -> None:
        self.card = card

    def encode(self, images):
        x = torch.as_tensor(np.asarray(images)).float() / 255  # (n, h, w, 3)
        x = x - x.mean(dim=(1, 2, 3), keepdim=True) if self.card.name == "shape" else x
        return torch.cat([x.mean(dim=(1, 2)), x.std(dim=(1, 2)), x[:, ::4, ::4, 0].flatten(1)], 1)


@pytest.fixture
def colours() -> Iterator[str]:
    card = EncoderCard("colours", "image", 22, "Colours.", patch_px=PX, mpp=0.5)
    encoders.names()
    encoders.add(card, lambda options: _Colours(card))
    yield card.name
    del encoders._plugins[card.name]


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Path:
    """Ten slides of two classes in a folder each: blue and pink tissue with structure."""
    folder = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    for slide in range(10):
        label = ("blue", "pink")[slide % 2]
        for patch in range(4):
            base = np.array([[150, 120, 180], [190, 120, 170]])[slide % 2]
            pixels = base + 25 * rng.normal(size=(PX, PX, 1)) + 6 * rng.normal(size=3)
            path = folder / label / f"slide{slide}_{patch}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def images(patches: Path) -> np.ndarray:
    files = sorted(patches.rglob("*.png"))[:8]
    return np.stack([np.asarray(Image.open(file)) for file in files])


@pytest.mark.parametrize("change", CHANGES)
def test_changes_grow_with_their_strength(change: str, images: np.ndarray) -> None:
    apart = [
        np.abs(changed_images(images, change, strength, 0).astype(float) - images).mean()
        for strength in (0.0, 0.05, 0.2, 0.4)
    ]
    assert apart[0] < 1.0  # rounding on the way to stains and back
    assert apart == sorted(apart)
    assert apart[2] > 2.0


@pytest.mark.parametrize("change", CHANGES)
def test_each_patch_is_changed_in_its_own_way_and_again_alike(change, images) -> None:
    twins = np.repeat(images[:1], 3, axis=0)
    changed = changed_images(twins, change, 0.3, 1)
    assert changed.dtype == np.uint8
    assert changed.shape == twins.shape
    assert not np.array_equal(changed[0], changed[1])
    assert np.array_equal(changed, changed_images(twins, change, 0.3, 1))
    assert not np.array_equal(changed, changed_images(twins, change, 0.3, 2))


def test_what_is_no_change_is_refused(images) -> None:
    with pytest.raises(ConfigError, match="stain, scanner"):
        changed_images(images, "colour", 0.2, 0)
    with pytest.raises(ConfigError, match="0 to 1"):
        changed_images(images, "stain", 2.0, 0)


def test_without_strength_nothing_is_lost_and_with_it_something_is(colours, patches) -> None:
    groups, _ = group_patches(patches)
    assert len(groups) == 10
    still = measure_changes(groups, {colours: LoadOptions()}, strength=0.0)
    moved = measure_changes(groups, {colours: LoadOptions()}, strength=0.5)
    assert [row.change for row in still] == list(CHANGES)
    for before, after in zip(still, moved, strict=True):
        assert before.patches == 40
        assert before.cosine == pytest.approx(1.0, abs=1e-3)
        assert before.found == 1.0
        assert before.drop == pytest.approx(0.0, abs=0.01)
        assert after.cosine < before.cosine
        assert after.cosine_low <= after.cosine <= after.cosine_high
        assert after.cosine_q05 < after.cosine
        assert after.auroc == pytest.approx(before.auroc)
        assert after.auroc > 0.95
    stain = moved[CHANGES.index("stain")]
    assert stain.drop < 0  # its probe looks at colour
    assert stain.drop_low <= stain.drop <= stain.drop_high


def test_the_command(colours, patches, tmp_path, capsys) -> None:
    command = ["robustness", "--encoder", colours, "--patches", patches, "--out", tmp_path]
    assert run_main(*command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["changes"]
    assert {row["change"] for row in rows} == set(CHANGES)
    assert json.loads((tmp_path / "changes.json").read_text())["changes"] == rows
    assert list((tmp_path / "plots").glob("*.png"))
    assert run_main(*command) == 0
    assert "cosine to itself" in capsys.readouterr().out
    assert run_main(*command, "--table", "x.csv") == 2


def test_encoders_that_see_no_patches_are_refused(patches) -> None:
    groups, _ = group_patches(patches)
    with pytest.raises(UserError, match="takes whole slides"):
        measure_changes(groups, {"mean-pool": LoadOptions()})
