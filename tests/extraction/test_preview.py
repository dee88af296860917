"""Previews of an extraction and the contact sheet of all slides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spade_bench.extraction.engine import Summary
from spade_bench.extraction.preview import lettering, preview_picture, write_preview
from spade_bench.extraction.slidesheet import slide_notes, write_slide_sheet
from spade_bench.features.bags import write_features
from spade_bench.slides.opening import open_slide
from spade_bench.slides.scalebar import bar_length
from spade_bench.slides.tissue import TissueMask


def tissue(width: int, height: int, coarser: int) -> tuple[NDArray[np.uint8], TissueMask]:
    """A pink slide with a white rim, and its mask on a thumbnail."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[height // 4 : -height // 4, width // 4 : -width // 4] = (220, 120, 180)
    thumbnail = pixels[::coarser, ::coarser]
    return pixels, TissueMask(thumbnail[..., 1] < 200, thumbnail)


@pytest.mark.parametrize(
    ("width", "coarser", "wanted"),
    [
        (4000, 2, 2000),  # the thumbnail is fine enough
        (3000, 10, 1600),  # read again
        (900, 3, 900),  # no finer than the slide
    ],
)
def test_a_preview_is_as_large_as_the_slide_allows(
    tmp_path: Path, write_slide: Callable[..., Path], width: int, coarser: int, wanted: int
) -> None:
    pixels, found = tissue(width, width // 2, coarser)
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        picture = preview_picture(slide, found)
        assert picture.shape[1] == wanted
        path = write_preview(tmp_path / "features_x", slide, found.mask, picture=picture,
                             patches=np.empty((0, 2)), side=100)  # fmt: skip
    with Image.open(path) as image:
        assert image.width == min(wanted, 1600) >= 800


def test_the_title_of_a_tiny_slide_can_be_read_and_its_picture_is_not_covered(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    pixels = np.full((16, 16, 3), (220, 120, 180), dtype=np.uint8)
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        path = write_preview(tmp_path / "features_x", slide, np.ones((16, 16), dtype=bool),
                             picture=pixels, patches=np.empty((0, 2)), side=100)  # fmt: skip
    with Image.open(path) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    assert shown.shape[1] == 400
    assert (np.abs(shown - (220, 120, 180)).max(axis=2) < 30).sum() == pytest.approx(256, rel=0.15)


def test_lines_lie_on_the_borders_of_patches_and_nowhere_else(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    pixels, found = tissue(1400, 1400, 2)
    x, y = np.meshgrid(np.arange(400, 1000, 100), np.arange(400, 1000, 100))
    patches = np.stack([x.ravel(), y.ravel()], axis=1)
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        picture = preview_picture(slide, found)
        path = write_preview(tmp_path / "features_x", slide, found.mask, picture=picture,
                             patches=patches, side=100)  # fmt: skip
    with Image.open(path) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)[image.height - 1400 :]
    green = drawn[..., 1] - drawn[..., 0] > 20  # tissue is -100
    inside = np.zeros_like(green)
    inside[370:-370, 370:-370] = True  # JPEG colours the rim of the tissue too
    rows, columns = np.nonzero(green & inside)
    for places in (rows, columns):
        assert places.min() == pytest.approx(400, abs=1)
        assert places.max() == pytest.approx(1000, abs=1)
    near = [np.abs((places + 50) % 100 - 50) for places in (rows, columns)]
    assert (np.minimum(*near) <= 1).all()
    assert green[500, 450]
    assert green[550, 500]
    # The tissue between the lines keeps its colour.
    assert np.abs(drawn[510:590, 510:590] - (220, 120, 180)).max() < 12


def test_small_patches_leave_the_tissue_visible(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    pixels, found = tissue(1600, 1600, 2)
    x, y = np.meshgrid(np.arange(400, 1200, 4), np.arange(400, 1200, 4))
    patches = np.stack([x.ravel(), y.ravel()], axis=1)
    with open_slide(write_slide(tmp_path / "s.tif", pixels)) as slide:
        path = write_preview(tmp_path / "features_x", slide, found.mask,
                             picture=preview_picture(slide, found), patches=patches,
                             side=4)  # fmt: skip
    with Image.open(path) as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)[image.height - 1600 :]
    assert np.abs(drawn[500:1100, 500:1100].mean(axis=(0, 1)) - (220, 120, 180)).max() < 25


@pytest.mark.parametrize("across", [37.0, 999.9, 1000.0, 1234.5, 40_000.0])
def test_a_scale_bar_is_round_and_fits(across: float) -> None:
    length, words = bar_length(across)
    assert across * 0.25 / 2.5 <= length <= across * 0.25
    assert f"{length:g}".strip("0.")[0] in "125"
    number, unit = words.split()
    assert float(number) * {"mm": 1000, "µm": 1}[unit] == pytest.approx(length)


def test_letters_of_many_scripts_are_drawn() -> None:
    font = lettering(15)
    missing = bytes(font.getmask("\U0010ffff"))
    for letter in "µßéЖΩ":
        assert bytes(font.getmask(letter)) != missing


def test_notes_tell_what_is_worth_a_look_and_show_it_first() -> None:
    counts = {"a": (1000, False), "b": (900, True), "c": (60, False), "d": (1100, False)}
    notes = slide_notes(counts, {"x": "x.svs: cannot be opened"})
    assert [(one.slide_id, one.patches, one.flags) for one in notes] == [
        ("b", 900, ("resolution assumed",)),
        ("c", 60, ("few patches",)),
        ("x", 0, ("cannot be opened",)),
        ("a", 1000, ()),
        ("d", 1100, ()),
    ]


def summary(folder: Path, names: list[str], failed: dict[str, str] | None = None) -> Summary:
    return Summary(folder, dict.fromkeys(names, 30), (), failed or {}, 1.0)


def fill(folder: Path, names: list[str]) -> None:
    for name in names:
        write_features(folder / f"{name}.h5", np.ones((30, 2)), np.zeros((30, 2)),
                       slide_id=name, encoder="uni")  # fmt: skip
        preview = folder.parent / "visualization" / f"{name}.jpg"
        preview.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (0, 0, 255)).save(preview)


def test_all_slides_stand_on_one_sheet(tmp_path: Path) -> None:
    folder = tmp_path / "features_uni"
    fill(folder, [f"s{at}" for at in range(8)])
    # Two were extracted now, six before; one failed.
    (path,) = write_slide_sheet(summary(folder, ["s0", "s1"], {"bad": "bad.svs: is broken"}))
    assert path == tmp_path / "contact-sheet_uni.jpg"
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    blue = (pixels[..., 2] > 200) & (pixels[..., 0] < 60)
    assert blue.sum() == pytest.approx(8 * 80 * 60, rel=0.1)
    red = (pixels[..., 0] > 150) & (pixels[..., 1] < 80) & (pixels[..., 2] < 60)
    assert red.any()


def test_many_slides_take_pages_and_stale_pages_go(tmp_path: Path) -> None:
    folder = tmp_path / "features_uni"
    names = [f"s{at:03}" for at in range(75)]
    fill(folder, names)
    assert [one.name for one in write_slide_sheet(summary(folder, names))] == [
        f"contact-sheet_uni_page-{page}.jpg" for page in (1, 2, 3)
    ]
    for name in names[40:]:
        (folder / f"{name}.h5").unlink()
    write_slide_sheet(summary(folder, names[:1]))
    assert sorted(one.name for one in tmp_path.glob("contact-sheet*")) == [
        f"contact-sheet_uni_page-{page}.jpg" for page in (1, 2)
    ]


def test_nothing_new_draws_no_sheet(tmp_path: Path) -> None:
    folder = tmp_path / "features_uni"
    fill(folder, ["a"])
    assert write_slide_sheet(Summary(folder, {}, ("a",), {}, 1.0)) == []
    assert not list(tmp_path.glob("contact-sheet*"))
