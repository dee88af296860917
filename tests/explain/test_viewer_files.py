"""The folder of the viewer: what is written, kept, and refused."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewed_slides import coloured_slide, view_of_slide

from spade_bench.errors import DataError, UserError
from spade_bench.explain.layers import CATEGORY, Layer
from spade_bench.explain.outlined.regionclasses import RegionKey
from spade_bench.explain.viewer.slideview import SlideView, TopPatch
from spade_bench.explain.viewer.viewerfiles import write_viewer
from spade_bench.regions.outlines import Region

WriteSlide = Callable[..., Path]


@pytest.fixture
def view(tmp_path: Path, write_slide: WriteSlide) -> SlideView:
    return view_of_slide(tmp_path, write_slide)


def argument(path: Path) -> Any:
    """What a script hands to the page."""
    text = path.read_text(encoding="ascii")  # nothing in it depends on how a browser decodes it
    return json.loads(text[text.index("(") + 1 : text.rindex(")")])


def values_of(path: Path) -> tuple[int, np.ndarray, np.ndarray | None]:
    """Number of a layer, its values, and those that they rank."""
    said = path.read_text(encoding="ascii").removeprefix("viewerLayer(").removesuffix(");\n")
    number, *texts = json.loads(f"[{said}]")
    values, ranked = (
        None if text is None else np.frombuffer(base64.b64decode(text), dtype="<f4")
        for text in texts
    )
    return number, values, ranked


def test_scripts_hold_every_value_and_place(tmp_path: Path, view: SlideView) -> None:
    write_viewer(tmp_path / "out", [view])
    folder = tmp_path / "out" / "slides" / view.slide_id
    described = argument(folder / "slide.js")
    assert (described["width"], described["height"], described["mpp"]) == (1300, 900, 0.5)
    assert len(described["grids"]) == 2  # three layers share their places
    for number, layer in enumerate(view.layers):
        at, values, ranked = values_of(folder / "layers" / f"{number}.js")
        assert at == number
        np.testing.assert_array_equal(values, layer.values.astype(np.float32))
        assert ranked is None
        said = described["layers"][number]
        assert (said["key"], said["scale"]) == (layer.key, layer.scale)
        assert said["limits"] == list(layer.limits())
        grid = described["grids"][said["grid"]]
        coords = np.frombuffer(base64.b64decode(grid["coords"]), dtype="<i4").reshape(-1, 2)
        np.testing.assert_array_equal(coords, layer.coords)
        assert grid["side"] == layer.side
        colours = np.frombuffer(base64.b64decode(said["colours"]), dtype=np.uint8)
        assert len(colours) == 3 * (len(layer.names) if layer.scale == CATEGORY else 256)


def test_a_slide_has_a_picture_of_each_top_patch(tmp_path: Path, view: SlideView) -> None:
    from PIL import Image

    write_viewer(tmp_path / "out", [view])
    whole = coloured_slide()
    for number, patch in enumerate(view.top):
        path = tmp_path / "out" / "slides" / view.slide_id / "top" / f"{number}.jpg"
        with Image.open(path) as image:
            seen = np.asarray(image).mean(axis=(0, 1))
        part = whole[patch.y : patch.y + 100, patch.x : patch.x + 100].mean(axis=(0, 1))
        assert np.abs(seen - part).max() < 4


def test_tiles_are_made_once_and_again_when_the_slide_changes(
    tmp_path: Path, view: SlideView, write_slide: WriteSlide
) -> None:
    def tiles() -> dict[str, int]:
        folder = tmp_path / "out" / "slides" / view.slide_id / "tiles"
        return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*.jpg")}

    write_viewer(tmp_path / "out", [view])
    first = tiles()
    changed = replace(view.layers[0], values=1 - view.layers[0].values)
    write_viewer(tmp_path / "out", [replace(view, layers=[changed, *view.layers[1:]])])
    assert tiles() == first
    _, values, _ = values_of(tmp_path / "out" / "slides" / view.slide_id / "layers" / "0.js")
    np.testing.assert_array_equal(values, changed.values.astype(np.float32))
    write_slide(view.path, coloured_slide(seed=1))
    write_viewer(tmp_path / "out", [view])
    again = tiles()
    assert set(again) == set(first)
    assert all(again[name] > first[name] for name in first)
    write_viewer(tmp_path / "out", [replace(view, top=())], viewer_px=700)
    assert set(tiles()) < set(first)


def test_the_folder_names_no_other_place(tmp_path: Path, view: SlideView) -> None:
    """It can be moved, and sent to somebody else."""
    write_viewer(tmp_path / "out", [view])
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.suffix != ".jpg":
            text = path.read_text(encoding="utf-8")
            assert str(tmp_path) not in text, path
            assert "http" not in text, path


def test_a_plain_image_is_a_slide_too(tmp_path: Path, view: SlideView) -> None:
    from PIL import Image

    path = tmp_path / "picture.png"
    Image.fromarray(coloured_slide()).save(path)
    write_viewer(tmp_path / "out", [replace(view, path=path)])
    described = argument(tmp_path / "out" / "slides" / view.slide_id / "slide.js")
    assert described["mpp"] is None
    write_viewer(tmp_path / "out", [replace(view, path=path, mpp=0.25)])
    described = argument(tmp_path / "out" / "slides" / view.slide_id / "slide.js")
    assert described["mpp"] == 0.25


def test_a_region_keeps_its_parts_and_holes(tmp_path: Path, view: SlideView) -> None:
    import shapely

    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 6, 6))
    both = Region(shapely.union(ring, shapely.box(20, 0, 21, 1)), name="b")
    regions = [Region(ring, "a", "Tumour"), both]
    outlined = RegionKey.of(regions).classes(regions)
    write_viewer(tmp_path / "out", [replace(view, outlined=outlined)])
    content = argument(tmp_path / "out" / "slides" / view.slide_id / "slide.js")
    described = content["regions"]
    assert [content["classes"][one["of"]]["name"] for one in described] == ["Tumour", "b"]
    assert [one["name"] for one in described] == ["Tumour", "b"]
    widths = [sorted(np.ptp(line, axis=0).tolist() for line in one["rings"]) for one in described]
    assert widths == [[[3, 3], [9, 9]], [[1, 1], [3, 3], [9, 9]]]


def broken(layer: Layer, what: str) -> Layer:
    changes: dict[str, dict[str, Any]] = {
        "outside": {"coords": layer.coords + np.array([0, 5000])},
        "values": {"values": layer.values[:-1]},
        "scale": {"scale": "log"},
        "side": {"side": 0},
        "category": {"scale": CATEGORY, "names": ("one",), "values": layer.values * 0 + 3},
        "empty": {"coords": layer.coords[:0], "values": layer.values[:0]},
    }
    return replace(layer, **changes[what])


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("outside", "48 of 48 patches of base.shown lie outside the slide of 1300 x 900 px"),
        ("values", "47 values and 48 places"),
        ("scale", "unknown scale 'log'"),
        ("side", "patches of 0 px"),
        ("category", "Names 1 categories and holds category 3"),
        ("empty", "no patch"),
    ],
)
def test_layers_that_do_not_fit_are_refused(
    tmp_path: Path, view: SlideView, what: str, said: str
) -> None:
    wrong = replace(view, layers=[broken(view.layers[0], what), *view.layers[1:]])
    with pytest.raises(DataError, match=said) as refused:
        write_viewer(tmp_path / "out", [wrong])
    assert view.slide_id in str(refused.value)
    assert not (tmp_path / "out" / "index.html").exists()


def test_what_cannot_be_told_apart_or_shown_is_refused(tmp_path: Path, view: SlideView) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError, match="Two slides"):
        write_viewer(out, [view, view])
    with pytest.raises(DataError, match="Two layers"):
        write_viewer(out, [replace(view, layers=[view.layers[0]] * 2)])
    with pytest.raises(DataError, match="top patch"):
        write_viewer(out, [replace(view, top=[TopPatch("other", 1, 0.5, 0, 0)])])
    with pytest.raises(UserError, match="no slide"):
        write_viewer(out, [])
    with pytest.raises(UserError, match="nothing to show"):
        write_viewer(out, [replace(view, layers=[], top=())])
    with pytest.raises(UserError, match="--viewer-px is 100"):
        write_viewer(out, [view], viewer_px=100)
    with pytest.raises(DataError, match="no such slide"):
        write_viewer(out, [replace(view, path=tmp_path / "absent.tif")])


def test_the_wheel_holds_every_part_of_the_page(repo: Path) -> None:
    settings = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["spade_bench.explain.viewer"]
    assets = resources.files("spade_bench.explain.viewer") / "assets"
    names = [asset.name for asset in assets.iterdir()]
    assert {"page.html", "index.html", "viewer.css", "viewer.js"} <= set(names)
    for name in names:
        assert any(fnmatch(f"assets/{name}", pattern) for pattern in patterns), name
