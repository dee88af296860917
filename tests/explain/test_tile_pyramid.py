"""The tiles of the viewer: together they are the slide, at every size."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewed_slides import coloured_slide, view_of_slide

from spade_bench.console import progress
from spade_bench.errors import DataError
from spade_bench.explain.viewer.tilepyramid import (
    TILE,
    Square,
    TileLevel,
    count_tiles,
    write_tiles,
)
from spade_bench.explain.viewer.viewerfiles import write_viewer
from spade_bench.slides.opening import open_slide

WriteSlide = Callable[..., Path]


def made(
    path: Path, folder: Path, longest_px: int, details: tuple[Square, ...] = ()
) -> list[TileLevel]:
    folder.mkdir()
    with open_slide(path) as slide, progress("Tiles") as bar:
        return write_tiles(slide, folder, longest_px, details, bar)


def joined(folder: Path, level: TileLevel) -> np.ndarray:
    """The whole slide from its tiles; what is missing stays black."""
    whole = np.zeros((level.height, level.width, 3), dtype=np.uint8)
    across = math.ceil(level.width / TILE)
    for number in level.tiles:
        row, column = divmod(number, across)
        with Image.open(folder / str(level.folder) / f"{column}_{row}.jpg") as image:
            tile = np.asarray(image)
        y, x = row * TILE, column * TILE
        assert tile.shape[:2] == whole[y : y + TILE, x : x + TILE].shape[:2]
        whole[y : y + TILE, x : x + TILE] = tile
    return whole


def smooth_slide(width: int, height: int) -> np.ndarray:
    """Colours that change slowly, which JPEG keeps well, and darker than glass, (h, w, 3)."""
    y, x = np.mgrid[:height, :width]
    red = 60 + 150 * x / width
    green = 60 + 150 * y / height
    return np.stack([red, green, np.full_like(red, 120)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(1300, 901), (512, 512), (513, 1025), (100, 37), (2049, 700)])
@pytest.mark.parametrize("levels", [1, 3])
def test_tiles_are_the_slide_at_every_size(
    tmp_path: Path, write_slide: WriteSlide, size: tuple[int, int], levels: int
) -> None:
    width, height = size
    pixels = smooth_slide(width, height)
    path = write_slide(tmp_path / "a.tif", pixels, levels=levels)
    found = made(path, tmp_path / "tiles", 10_000)
    assert found[0].downsample == 1
    assert [one.downsample for one in found] == [2**k for k in range(len(found))]
    assert max(found[-1].width, found[-1].height) <= TILE
    for level in found:
        assert (level.width, level.height) == (
            math.ceil(width / level.downsample), math.ceil(height / level.downsample))  # fmt: skip
        # DeepZoom numbers levels so that the last one is the slide itself.
        top = math.ceil(math.log2(max(width, height)))
        assert level.folder == top - math.log2(level.downsample)
        whole = joined(tmp_path / "tiles", level).astype(float)
        step = level.downsample
        y, x = np.mgrid[: level.height, : level.width] * step + (step - 1) / 2
        expected = pixels[np.minimum(y, height - 1).astype(int),
                          np.minimum(x, width - 1).astype(int)]  # fmt: skip
        assert np.abs(whole - expected).mean() < 2.5


def test_the_largest_picture_is_as_large_as_allowed(
    tmp_path: Path, write_slide: WriteSlide
) -> None:
    path = write_slide(tmp_path / "a.tif", coloured_slide(3000, 1500))
    for longest, down in [(10_000, 1), (3000, 1), (2999, 2), (1500, 2), (1000, 4), (512, 8)]:
        found = made(path, tmp_path / f"tiles{longest}", longest)
        assert found[0].downsample == down
        assert max(found[0].width, found[0].height) <= longest
        expected = math.ceil(3000 / down / TILE) * math.ceil(1500 / down / TILE)
        assert count_tiles(3000, 1500, longest) == expected


def test_the_bar_moves_by_a_tile(tmp_path: Path, write_slide: WriteSlide) -> None:
    class Counted:
        done = 0.0

        def advance(self, n: float = 1, note: str = "") -> None:
            self.done += n

    path = write_slide(tmp_path / "a.tif", coloured_slide(3000, 1500))
    bar = Counted()
    with open_slide(path) as slide:
        write_tiles(slide, tmp_path, 1500, (), bar)
    assert bar.done == count_tiles(3000, 1500, 1500)


def test_glass_is_left_out_and_tissue_is_not(tmp_path: Path, write_slide: WriteSlide) -> None:
    pixels = np.full((1536, 1536, 3), 242, dtype=np.uint8)
    pixels[700:740, 700:740] = (190, 120, 170)  # in the middle tile
    found = made(write_slide(tmp_path / "a.tif", pixels), tmp_path / "tiles", 2000)
    assert found[0].tiles == (4,)
    assert found[-1].tiles == (0,)
    empty = made(write_slide(tmp_path / "b.tif", pixels * 0 + 250), tmp_path / "none", 2000)
    assert [one.tiles for one in empty] == [(0,)]  # the smallest picture is always there


@pytest.mark.parametrize("side", [224, 448, 512])
def test_around_a_square_there_are_tiles_as_sharp_as_what_an_encoder_sees(
    tmp_path: Path, write_slide: WriteSlide, side: int
) -> None:
    path = write_slide(tmp_path / "a.tif", smooth_slide(4096, 4096))
    square = Square(2048 - side / 2, 1000, side)
    found = made(path, tmp_path / "tiles", 600, (square,))
    sharp = found[0]
    assert 224 <= side / sharp.downsample < 448
    downs = [one.downsample for one in found]
    assert downs == [sharp.downsample * 2**k for k in range(len(found))]  # none is missing between
    across = math.ceil(sharp.width / TILE)
    inside = {(int((square.y + dy) // (TILE * sharp.downsample)),
               int((square.x + dx) // (TILE * sharp.downsample)))
              for dx in (0, side - 1) for dy in (0, side - 1)}  # fmt: skip
    assert inside <= {divmod(number, across) for number in sharp.tiles}
    assert len(sharp.tiles) <= 6


def test_a_damaged_slide_leaves_nothing_behind(tmp_path: Path, write_slide: WriteSlide) -> None:
    view = view_of_slide(tmp_path, write_slide)
    content = bytearray(view.path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 4)
    view.path.write_bytes(content)
    with pytest.raises(DataError):
        write_viewer(tmp_path / "out", [view])
    assert not list((tmp_path / "out").rglob("*.jpg"))
    assert not (tmp_path / "out" / "index.html").exists()
