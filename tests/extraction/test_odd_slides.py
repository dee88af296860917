"""Slides that are wrong, unreadable or several in one: each gets its line, and the rest goes on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from spade_bench.cli.main import app
from spade_bench.errors import UserError
from spade_bench.extraction import (
    Settings,
    extract_patch_folders,
    extract_slides,
    group_patches,
)
from spade_bench.types import EncoderCard, Normalisation

Writer = Callable[..., Path]
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RNG = np.random.default_rng(0)


class MeanColour:
    """Mean colour of each patch."""

    card = EncoderCard(
        "mean", "image", 3, "mean colour", patch_px=32, mpp=0.5, normalisation=HALF,
        crop_pct=0.875, revision="1",
    )  # fmt: skip

    def encode(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(np.asarray(images)).float().mean(dim=(1, 2))


def _tissue(side: int, low: int = 60) -> np.ndarray:
    return RNG.integers((150, low, 130), (210, low + 70, 190), (side, side, 3)).astype(np.uint8)


def _said(path: Path, mpp: float) -> None:
    tifffile.imwrite(
        path, _tissue(256), photometric="rgb", tile=(256, 256),
        resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
    )  # fmt: skip


def test_what_cannot_be_read_gets_its_line_and_the_rest_goes_on(
    tmp_path: Path, write_slide: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides = tmp_path / "slides"
    long = "n" * 245
    for name in ("good", "locked", "last"):
        write_slide(slides / f"{name}.tif", _tissue(256))
    write_slide(slides / "x.tif", _tissue(256)).rename(slides / f"{long}.tif")
    (slides / "gone.svs").symlink_to(tmp_path / "nowhere")
    (slides / "loop.svs").symlink_to(slides / "loop.svs")
    (slides / "half.svs").write_bytes(b"II*\0")
    Image.fromarray(_tissue(256)[..., 0]).save(slides / "grey.tif", resolution=50800)
    real = Path.open

    def refuse(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "locked.tif":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    done = extract_slides(slides, MeanColour(), tmp_path / "out")
    assert sorted(done.done) == ["good", "last"]
    why = {
        "gone": "is a link to a file that is not there",
        "loop": "is a link to a file that is not there",
        "locked": "cannot be read (Permission denied)",
        "half": "cannot be opened as a slide",
        "grey": "is not an RGB brightfield image",
        long: "the name is 245 bytes long",
    }
    assert set(done.failed) == set(why)
    for name, what in why.items():
        assert what in done.failed[name]


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_not_text_gets_its_line(tmp_path: Path, write_slide: Writer) -> None:
    write_slide(tmp_path / "slides" / "good.tif", _tissue(256))
    try:
        (tmp_path / "slides" / "good.tif").rename(
            os.fsdecode(os.fsencode(tmp_path) + b"/slides/b\xff.tif")
        )
    except OSError:
        pytest.skip("this file system takes text only")
    write_slide(tmp_path / "slides" / "good.tif", _tissue(256))
    done = extract_slides(tmp_path / "slides", MeanColour(), tmp_path / "out")
    assert list(done.done) == ["good"]
    (line,) = done.failed.values()
    assert "not valid UTF-8" in line
    line.encode()


def test_patch_files_that_are_links_to_nothing_fail_their_slide_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        Image.fromarray(_tissue(32)).save(tmp_path / "p" / name / "1.png")
    (tmp_path / "p" / "b" / "2.png").symlink_to(tmp_path / "nowhere.png")
    groups, _ = group_patches(tmp_path / "p", "folder")
    done = extract_patch_folders(groups, MeanColour(), tmp_path / "out")
    assert list(done.done) == ["a"]
    assert "2.png: is a link to a file that is not there" in done.failed["b"]


@pytest.mark.parametrize("said", [0.025, 2.5])
def test_a_wrong_resolution_is_refused_and_can_be_corrected(said: float, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    _said(tmp_path / "s" / "x.tif", said)
    for assumed in (None, 0.25):
        refused = extract_slides(
            tmp_path / "s", MeanColour(), tmp_path / "out", settings=Settings(assume_mpp=assumed)
        )
        assert "off by ten" in refused.failed["x"]
        assert "--override-mpp" in refused.failed["x"]
    right = Settings(override_mpp=0.25)
    done = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out", settings=right)
    with h5py.File(done.folder / "x.h5") as file:
        attrs = dict(file["features"].attrs)
        assert (attrs["level0_mpp"], attrs["level0_mpp_source"]) == (0.25, "overridden")
        assert file["coords"].attrs["patch_size_level0"] == 64
    again = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out", settings=right)
    assert again.skipped == ("x",)


def test_the_low_resolution_that_is_asked_for_is_taken(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    _said(tmp_path / "s" / "x.tif", 2.5)
    settings = Settings(mpp=2.5)
    done = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out", settings=settings)
    assert list(done.done) == ["x"]


def test_the_image_of_a_file_that_is_encoded_is_said_and_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s").mkdir()
    macro, section = _tissue(256, low=20), _tissue(512, low=120)
    with tifffile.TiffWriter(tmp_path / "s" / "x.ome.tif", ome=True) as writer:
        for image, mpp in ((macro, 8.0), (section, 0.5)):
            size = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": mpp,
                    "PhysicalSizeYUnit": "µm"}  # fmt: skip
            writer.write(image, metadata=size, photometric="rgb", tile=(256, 256))
    refused = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out")
    assert "perhaps this is the macro image (--series N takes another)" in refused.failed["x.ome"]
    assert "holds 2 images (0: 256 x 256, 1: 512 x 512 px); only 0 is" in capsys.readouterr().err
    settings = Settings(series=1)
    done = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out", settings=settings)
    assert done.done["x.ome"] > 64  # more than the 256 x 256 px of the first hold
    with h5py.File(done.folder / "x.ome.h5") as file:
        assert file["features"][:, 1].mean() > 120
    assert "only 1 is read" in capsys.readouterr().err


def test_contradicting_tags_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").mkdir()
    tifffile.imwrite(
        tmp_path / "s" / "x.svs", _tissue(512), photometric="rgb", tile=(256, 256),
        compression=None, description="Aperio Image Library v1\r\n512x512|AppMag = 40|MPP = 0.5",
        metadata=None,
    )  # fmt: skip
    done = extract_slides(tmp_path / "s", MeanColour(), tmp_path / "out")
    assert list(done.done) == ["x"]
    assert "0.5 µm/px and the objective power is 40" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--override-mpp", "0.25"], ["--series", "1"]])
def test_options_of_slides_are_refused_elsewhere(option: list[str], tmp_path: Path) -> None:
    arguments = ["extract", "--encoder", "efficientnet-lite0", "--patches", str(tmp_path)]
    with pytest.raises(UserError, match="goes with --slides only"):
        app([*arguments, "--out", str(tmp_path / "out"), *option], standalone_mode=False)
