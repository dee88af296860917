"""What slide files say of themselves and cannot be right, or hold besides: refused or said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from spade_bench.errors import DataError
from spade_bench.slides.opening import find_slides, open_slide
from spade_bench.slides.patches import read_patch
from spade_bench.slides.resolution import find_resolution
from spade_bench.slides.rgb import read_rgb
from spade_bench.slides.tissue import find_tissue

RNG = np.random.default_rng(0)
OME = '<OME><Image><Pixels PhysicalSizeX="{}" PhysicalSizeXUnit="{}" PhysicalSizeY="{}" \
PhysicalSizeYUnit="{}"/></Image></OME>'


def _mpp(x: float, y: float | None = None) -> dict[str, str]:
    return {"openslide.mpp-x": str(x), "openslide.mpp-y": str(x if y is None else y)}


def _tags(x: float, y: float) -> dict[str, str]:
    return {
        "tiff.ResolutionUnit": "centimeter",
        "tiff.XResolution": str(1e4 / x),
        "tiff.YResolution": str(1e4 / y),
    }


def _tissue(side: int) -> np.ndarray:
    return RNG.integers((150, 60, 130), (210, 130, 190), (side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("said", "likely"),
    [
        (_mpp(0.025), "0.25 meant"),
        (_mpp(0.05), "0.5 meant"),
        (_tags(0.025, 0.025), "0.25 meant"),
        (_tags(0.00025, 0.00025), "0.25 meant"),
        ({"tiff.ImageDescription": OME.format(0.025, "µm", 0.025, "µm")}, "0.25 meant"),
        ({"openslide.objective-power": "400"}, "where 40 is meant"),
        ({**_mpp(0.25), "openslide.objective-power": "400"}, "where 40 is meant"),
    ],
)
@pytest.mark.parametrize("assumed", [None, 0.25])
def test_a_stored_resolution_that_cannot_be_right_is_refused(
    said: dict[str, str], likely: str, assumed: float | None
) -> None:
    with pytest.raises(DataError, match=rf"{likely}.*--override-mpp"):
        find_resolution(said, assumed)


@pytest.mark.parametrize(
    "said",
    [
        _mpp(0.25, 0.5),
        _tags(0.25, 0.5),
        {"tiff.ImageDescription": OME.format(0.25, "µm", 0.5, "µm")},
        {"tiff.ImageDescription": OME.format(0.25, "µm", 250, "nm").replace("250", "500")},
    ],
)
def test_pixels_that_are_not_square_are_refused_whoever_says_so(said: dict[str, str]) -> None:
    with pytest.raises(DataError, match="not square"):
        find_resolution(said, 0.5)


@pytest.mark.parametrize(
    ("value", "unit"),
    [(0.23, "µm"), (0.23, "um"), (0.23, "\u03bcm"), (0.23, "&#181;m"), (0.00023, "mm"),
     (0.000023, "cm"), (230, "nm"), (2300, "Å"), (2.3e-7, "m")],
)  # fmt: skip
def test_sizes_of_ome_are_converted_to_micrometres(value: float, unit: str) -> None:
    said = {"tiff.ImageDescription": OME.format(value, unit, value, unit)}
    found = find_resolution({**said, "openslide.objective-power": "40"}, 1.0)
    assert (round(found.mpp, 9), found.source) == (0.23, "OME description")


@pytest.mark.parametrize(
    ("said", "noted"),
    [
        ({**_mpp(0.5), "openslide.objective-power": "40"}, "objective power is 40"),
        ({**_mpp(0.1), "openslide.objective-power": "20"}, "objective power is 20"),
        ({**_mpp(0.25), **_tags(0.5, 0.5)}, "TIFF tags 0.5"),
        ({"openslide.objective-power": "40", **_tags(1.0, 1.0)}, "TIFF tags says 1 "),
        ({**_mpp(0.25), "openslide.objective-power": "40"}, None),
        ({**_mpp(0.325), "openslide.objective-power": "20"}, None),
        ({**_mpp(0.25), **_tags(0.25, 0.25)}, None),
        ({"openslide.objective-power": "20", **_tags(0.46, 0.46)}, None),
    ],
)
def test_tags_that_contradict_each_other_are_said(said: dict[str, str], noted: str | None) -> None:
    notes = find_resolution(said, None).notes
    assert len(notes) == (noted is not None)
    assert noted is None or noted in notes[0]


def test_an_override_wins_over_what_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path, _tissue(512), photometric="rgb", tile=(256, 256),
        resolution=(400000, 400000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    for assumed in (None, 0.25):
        with pytest.raises(DataError, match=r"x\.tif: says 0\.025.*--override-mpp"):
            open_slide(path, assume_mpp=assumed)
    with open_slide(path, override_mpp=0.25) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.25, "overridden")
    with pytest.raises(DataError, match="512 mm wide"):
        open_slide(path, override_mpp=1000)


def _transparent() -> np.ndarray:
    """Half tissue, half transparent and black below, (300, 300, 4) uint8."""
    image = np.zeros((300, 300, 4), np.uint8)
    image[:150, :, :3], image[:150, :, 3] = _tissue(300)[:150], 255
    return image


def _write_transparent(kind: str, folder: Path) -> Path:
    image = _transparent()
    path = folder / ("a.tif" if kind.startswith(("tiled", "strips")) else "a.png")
    if kind.startswith(("tiled", "strips")):
        how: dict[str, Any] = {"tile": (256, 256)} if kind.startswith("tiled") else {}
        tifffile.imwrite(
            path, image, photometric="rgb", extrasamples=[kind.split()[1] + "alpha"], **how
        )
    elif kind == "RGBA":
        Image.fromarray(image).save(path)
    elif kind == "LA":
        Image.fromarray(image).convert("LA").save(path)
    else:
        palette = Image.fromarray(image[..., :3]).quantize(200)
        index = int(np.bincount(np.asarray(palette)[150:].ravel()).argmax())
        palette.save(path, transparency=index)
    return path


@pytest.mark.parametrize(
    "kind",
    ["tiled unass", "tiled assoc", "strips unass", "strips assoc", "RGBA", "LA", "palette"],
)
def test_transparent_glass_is_white_in_every_reader(kind: str, tmp_path: Path) -> None:
    path = _write_transparent(kind, tmp_path)
    with open_slide(path, override_mpp=0.5) as slide:
        assert (slide.read(0, 150, 150, 150) == 255).all()
        assert (slide.thumbnail(2.0)[40:] == 255).all()
        assert slide.read(0, 0, 140, 140).mean() < 200
    assert (read_patch(path)[150:] == 255).all()


@pytest.mark.parametrize("kind", ["u2 png", "u2 tif", "f4 tif", "u1 png"])
def test_grey_of_more_than_eight_bits_is_scaled(kind: str, tmp_path: Path) -> None:
    dtype, suffix = kind.split()
    grey = np.full((64, 64), 180, np.uint8)
    full = {"u2": grey.astype(np.uint16) * 257, "f4": (grey / 255).astype("f4"), "u1": grey}[dtype]
    path = tmp_path / f"a.{suffix}"
    if suffix == "png":
        Image.fromarray(full).save(path)
    else:
        tifffile.imwrite(path, full, photometric="minisblack")
    assert (read_patch(path) == 180).all()
    assert read_patch(path).shape == (64, 64, 3)


@pytest.mark.parametrize("value", [np.nan, -1.0, 4000.0])
def test_grey_without_a_known_scale_is_refused(value: float, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((64, 64), value, "f4"), photometric="minisblack")
    with pytest.raises(DataError, match="Grey values run from"):
        read_rgb(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif.*grey values run from.*8 bits"):
        read_patch(tmp_path / "a.tif")


def _fluorescence(side: int) -> np.ndarray:
    image = np.zeros((side, side, 3), np.uint8)
    image[side // 4 : side // 2, side // 4 : side // 2, 2] = 200
    return image


@pytest.mark.parametrize("how", [{}, {"tile": (256, 256)}], ids=["strips", "tiled"])
@pytest.mark.parametrize(
    ("image", "photometric", "what"),
    [
        (_tissue(512)[..., 0], "minisblack", "8-bit greyscale"),
        (_tissue(512)[..., 0].astype(np.uint16) * 257, "minisblack", "16-bit greyscale"),
        ((_tissue(512)[..., 0] / 255).astype("f4"), "minisblack", "floating-point greyscale"),
        (RNG.integers(0, 999, (512, 512, 5)).astype("u2"), "minisblack", "5 channels, 16-bit"),
        (_tissue(512)[..., :1].repeat(3, axis=2), "rgb", "greyscale"),
        (_fluorescence(512), "rgb", "background is dark"),
    ],
    ids=["grey8", "grey16", "float", "channels", "grey in rgb", "fluorescence"],
)
def test_what_is_no_brightfield_image_is_called_so(
    image: np.ndarray, photometric: Any, what: str, how: dict[str, Any], tmp_path: Path
) -> None:
    if image.shape[-1] == 5:
        how = {**how, "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "a.tif", image, photometric=photometric, **how)
    with pytest.raises(DataError, match=rf"not an RGB brightfield image \(.*{what}"):
        find_tissue(open_slide(tmp_path / "a.tif", override_mpp=0.5))


def test_white_glass_is_still_a_brightfield_image(tmp_path: Path) -> None:
    Image.fromarray(np.full((300, 300, 3), 243, np.uint8)).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png", override_mpp=0.5) as slide:
        assert not find_tissue(slide).mask.any()


def _several(kind: str, path: Path) -> list[np.ndarray]:
    images = [_tissue(512), _tissue(768)]
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5,
            "PhysicalSizeYUnit": "µm"}  # fmt: skip
    tags: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    ome = kind == "ome"
    how: dict[str, Any] = {} if kind == "strips" else {"tile": (256, 256)}
    with tifffile.TiffWriter(path, ome=ome) as writer:
        for image in images:
            extra = {"metadata": size} if ome else tags
            writer.write(image, photometric="rgb", **how, **extra)
    return images


@pytest.mark.parametrize("kind", ["tiled", "strips", "ome"])
def test_which_of_several_images_is_read_is_said_and_chosen(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    images = _several(kind, path)
    for series in (None, 0, 1):
        with open_slide(path, series=series) as slide:
            assert len(slide.notes) == 1
            assert (
                f"holds 2 images (0: 512 x 512, 1: 768 x 768 px); only {series or 0} is read"
                in (slide.notes[0])
            )
            assert slide.mpp == pytest.approx(0.5)
            got = slide.read(0, 0, slide.width, slide.width)
            assert np.array_equal(got, images[series or 0])
    with pytest.raises(DataError, match="has no series 2: it holds 2 images"):
        open_slide(path, series=2)


def test_levels_of_a_pyramid_are_no_images_of_their_own(tmp_path: Path, write_slide: Any) -> None:
    with open_slide(write_slide(tmp_path / "s.tif", _tissue(1024), levels=3)) as slide:
        assert (slide.series, slide.notes) == (1, ())
    with pytest.raises(DataError, match="has no series 1: it holds 1 image,"):
        open_slide(tmp_path / "s.tif", series=1)


def test_links_to_nothing_are_listed_to_be_reported(tmp_path: Path, write_slide: Any) -> None:
    write_slide(tmp_path / "s.tif", _tissue(256))
    (tmp_path / "gone.svs").symlink_to(tmp_path / "nowhere.svs")
    assert list(find_slides(tmp_path)) == ["gone", "s"]
    with pytest.raises(DataError, match=r"gone\.svs: is a link to a file that is not there"):
        open_slide(find_slides(tmp_path)["gone"])


def test_folders_that_cannot_be_opened_are_listed_to_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (tmp_path / "closed").mkdir()
    Image.fromarray(_tissue(64)).save(tmp_path / "a.png")
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find_slides(tmp_path) == {"a": tmp_path / "a.png", "closed": tmp_path / "closed"}
