"""Slides: resolution from what there is, regions right to a pixel, clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from spade_bench.errors import DataError
from spade_bench.slides.opening import find_slides, open_slide, resolution

Writer = Callable[..., Path]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """A smooth colour field, so that position shows in the values, (700, 900, 3) uint8."""
    y, x = np.mgrid[:700, :900]
    field = np.stack([x / 900 * 250, y / 700 * 250, (np.sin(x / 40) + 1) * 120], axis=-1)
    return field.astype(np.uint8)


def test_resolution_prefers_measurements_and_ignores_defaults() -> None:
    scanner = {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26"}
    power = {"openslide.objective-power": "40"}
    tags = {"tiff.ResolutionUnit": "centimeter", "tiff.XResolution": "20000"}
    dpi72 = {"tiff.ResolutionUnit": "inch", "tiff.XResolution": "72", "openslide.mpp-x": "352.8",
             "openslide.mpp-y": "352.8"}  # fmt: skip
    mpp, source = resolution({**scanner, **power}, 1.0)
    assert (round(mpp, 9), source) == (0.255, "mpp property")
    assert resolution(power, 1.0) == (0.25, "objective power")
    assert resolution(tags, 1.0) == (0.5, "TIFF tags")
    assert resolution(dpi72, 0.7) == (0.7, "assumed")
    for properties in ({}, dpi72, {"openslide.mpp-x": "nan", "openslide.objective-power": "x"}):
        with pytest.raises(DataError, match=r"no usable resolution.*--assume-mpp"):
            resolution(properties, None)
    with pytest.raises(DataError, match="not square"):
        resolution({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}, None)


def test_native_reads_are_exact(tmp_path: Path, pixels: np.ndarray, write_slide: Writer) -> None:
    path = write_slide(tmp_path / "s.tif", pixels)
    with open_slide(path) as slide:
        assert (slide.width, slide.height) == (900, 700)
        assert slide.mpp == pytest.approx(0.5)
        assert slide.side(224, 0.5) == 224
        for x, y in ((0, 0), (101, 333), (676, 476)):
            got = slide.read(x, y, 224, 224)
            assert np.array_equal(got, pixels[y : y + 224, x : x + 224])
        beyond = slide.read(800, 600, 224, 224)
        assert np.array_equal(beyond[:100, :100], pixels[600:, 800:])
        assert (beyond[100:] == 255).all()
        assert (slide.read(-20, 0, 224, 224)[:, :20] == 255).all()


@pytest.mark.parametrize("levels", [1, 2])
def test_scaled_reads_keep_position(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer, levels: int
) -> None:
    path = write_slide(tmp_path / "s.tif", pixels, mpp=0.25, levels=levels)
    with open_slide(path) as slide:
        side = slide.side(100, 0.575)
        assert side == pytest.approx(230)
        x, y = 200.5, 120.25
        got = slide.read(x, y, side, 100).astype(float)
    # The red channel grows by 250 / 900 a level-0 pixel, the green one by 250 / 700; both are
    # rounded down, so single values tell little, but their mean tells the position to a fraction
    # of a pixel. A level made by taking every other pixel lies half a pixel to the left.
    columns = x + (np.arange(100) + 0.5) * side / 100 - 0.5
    rows = y + (np.arange(100) + 0.5)[:, None] * side / 100 - 0.5
    right = (got[..., 0] + 0.5).mean() / (250 / 900) - columns.mean()
    down = (got[..., 1] + 0.5).mean() / (250 / 700) - rows.mean()
    assert abs(right + 0.5 * (levels - 1)) < 0.3
    assert abs(down + 0.5 * (levels - 1)) < 0.3


def test_half_a_pixel_is_not_resampled(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer
) -> None:
    with open_slide(write_slide(tmp_path / "a.tif", pixels, mpp=0.499)) as slide:
        assert slide.side(224, 0.5) == 224
    with open_slide(write_slide(tmp_path / "b.tif", pixels, mpp=0.495)) as slide:
        assert slide.side(224, 0.5) == pytest.approx(226.26, abs=0.01)
    with open_slide(write_slide(tmp_path / "c.tif", pixels, mpp=0.25, levels=2)) as slide:
        assert slide.side(224, 0.5) == 448
        got = slide.read(64, 32, 448, 224)
    assert np.array_equal(got, pixels[::2, ::2][16:240, 32:256])


def test_thumbnail_covers_the_slide(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer
) -> None:
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        small = slide.thumbnail(5.0)
        assert small.shape == (70, 90, 3)
        blocks = pixels.reshape(70, 10, 90, 10, 3).mean(axis=(1, 3))
        assert np.abs(small - blocks).max() <= 1
        assert np.array_equal(slide.thumbnail(0.1), pixels)


def test_plain_images_read_like_slides(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "s.png")
    Image.fromarray(pixels).save(tmp_path / "t.tif")  # strips: OpenSlide does not open it
    for name in ("s.png", "t.tif"):
        with pytest.raises(DataError, match=f"{name}: has no usable resolution"):
            open_slide(tmp_path / name)
        with open_slide(tmp_path / name, mpp=0.6) as slide:
            assert np.array_equal(slide.read(10, 20, 64, 64), pixels[20:84, 10:74])
            assert (slide.read(-10, 0, 64, 64)[:, :10] == 255).all()


def test_find_slides_refuses_two_of_one_name(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer
) -> None:
    write_slide(tmp_path / "a" / "s.tif", pixels[:128, :128])
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / ".trash.tif").write_bytes(b"")
    assert find_slides(tmp_path) == {"s": tmp_path / "a" / "s.tif"}
    write_slide(tmp_path / "b" / "s.svs", pixels[:128, :128])
    with pytest.raises(
        DataError, match=r"several slides are named 's'.*each folder into an --out of its own"
    ):
        find_slides(tmp_path)
    with pytest.raises(DataError, match="no such slide folder"):
        find_slides(tmp_path / "none")


def test_real_and_broken_fixtures(shared_data: Path) -> None:
    found = find_slides(shared_data / "wsi_fixtures")
    assert "boxes_0" in found
    assert "boxes_1" not in found  # the same DICOM series
    with open_slide(found["cmu-1-small-region"]) as slide:
        assert (slide.mpp, slide.mpp_source) == (0.499, "mpp property")
    with pytest.raises(DataError, match=r"boxes\.tiff: has no usable resolution"):
        open_slide(found["boxes"])
    assert open_slide(found["boxes"], assume_mpp=0.5).mpp_source == "assumed"
    for name in ("broken", "unopenable"):
        with pytest.raises(DataError, match=f"{name}.*cannot be opened"):
            open_slide(found[name])
    with open_slide(found["unreadable"]) as slide, pytest.raises(DataError, match="decoded"):
        slide.read(0, 0, 16, 16)


@pytest.mark.parametrize("turned", [False, True])
def test_a_drawn_grid_is_read_to_a_pixel_at_every_level(
    tmp_path: Path, write_slide: Writer, turned: bool
) -> None:
    """Also where the sizes of the levels are rounded, so that their ratio is no whole number."""
    drawn = np.full((203, 8003, 3), 255, np.uint8)
    drawn[:, np.arange(8003) % 64 < 8] = 0
    drawn = drawn.swapaxes(0, 1) if turned else drawn
    path = write_slide(tmp_path / "s.tif", drawn, mpp=0.25, levels=3)
    with open_slide(path) as slide:
        assert slide._pyramid.downsamples == (1.0, 2.0, 4.0)
        for mpp in (0.25, 0.5, 1.0, 0.4, 0.7, 1.3):
            side = slide.side(48, mpp)
            scale = side / 48  # level-0 pixels a pixel read
            for along in (0, 320, 7616):
                corner = (0, along) if turned else (along, 0)
                got = slide.read(*corner, side, 48)
                dark = 255 - (got.swapaxes(0, 1) if turned else got)[2:6].mean(axis=(0, 2))
                found = [centre[0] for centre in ndimage.center_of_mass(dark, *_runs(dark > 127))]
                # Centres of the lines wholly inside; no line is more than a pixel away from them.
                middle = (np.arange(0, side, 64) + 4) / scale - 0.5
                for position in middle[(middle > 4 / scale) & (middle < 47 - 4 / scale)]:
                    assert np.abs(np.array(found) - position).min() < 0.8


def _runs(dark: np.ndarray) -> tuple[np.ndarray, range]:
    labels, count = ndimage.label(dark)
    return labels, range(1, count + 1)


def test_both_ends_of_a_long_slide_are_where_they_should_be(
    tmp_path: Path, write_slide: Writer
) -> None:
    drawn = np.full((103, 6003, 3), 255, np.uint8)
    drawn[:, 5600:5608] = 0
    path = write_slide(tmp_path / "s.tif", drawn, mpp=0.25, levels=3)
    with open_slide(path) as slide:  # 103 / 26 and 6003 / 1501: OpenSlide takes 3.980
        got = slide.read(5568, 0, 64, 16)[4].mean(axis=-1)
    assert np.flatnonzero(got < 128).tolist() == [8, 9]


def test_mixed_cohorts_give_the_same_patches(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer
) -> None:
    """One picture scanned at 20x, at 40x, and at 40x with a lower level."""
    large = pixels.repeat(2, axis=0).repeat(2, axis=1)
    files = [
        write_slide(tmp_path / "20x.tif", pixels, mpp=0.5),
        write_slide(tmp_path / "40x.tif", large, mpp=0.25),
        write_slide(tmp_path / "both.tif", large, mpp=0.25, levels=2),
    ]
    read = []
    for path, factor in zip(files, (1, 2, 2), strict=True):
        with open_slide(path) as slide:
            assert slide.side(224, 0.5) == 224 * factor
            read.append(slide.read(64 * factor, 32 * factor, 224 * factor, 224).astype(int))
    assert np.array_equal(read[0], read[2])
    assert np.abs(read[0] - read[1]).max() <= 2  # resampled: the gradient moves by rounding


def test_resolution_of_plain_and_ome_tiffs(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "t.tif", resolution=20000, resolution_unit=3)
    with open_slide(tmp_path / "t.tif") as slide:
        assert (round(slide.mpp, 6), slide.mpp_source) == (0.5, "TIFF tags")
    ome = (
        '<OME><Image><Pixels SizeX="9" PhysicalSizeX="0.23" PhysicalSizeXUnit="{}"/></Image></OME>'
    )
    said = {"tiff.ImageDescription": ome.format("µm"), "openslide.objective-power": "10"}
    assert resolution(said, None) == (0.23, "OME description")
    said["tiff.ImageDescription"] = ome.format("mm")
    assert resolution(said, None) == (1.0, "objective power")


def test_images_are_slides_unless_they_lie_beside_some(
    tmp_path: Path, pixels: np.ndarray, write_slide: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.jpg", "b.PNG"):
        Image.fromarray(pixels).save(tmp_path / name)
    assert list(find_slides(tmp_path)) == ["a", "b"]
    assert find_slides(tmp_path / "a.jpg") == {"a": tmp_path / "a.jpg"}
    assert capsys.readouterr().err == ""
    write_slide(tmp_path / "s.tif", pixels)
    assert list(find_slides(tmp_path)) == ["s"]
    assert "2 JPEG and PNG images beside whole slides" in capsys.readouterr().err
