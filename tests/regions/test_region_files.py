"""Regions of interest: what is read of them, what is refused, which patches lie inside."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_bench.errors import DataError, UserError
from spade_bench.regions.outlines import Region, SlideRegions
from spade_bench.regions.regionfiles import (
    check_names,
    find_regions,
    read_regions,
    region_features,
    write_geojson,
)
from spade_bench.slides.opening import open_slide

SQUARE = [[0, 0], [400, 0], [400, 400], [0, 400], [0, 0]]
HOLE = [[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]
FAR = [[600, 600], [800, 600], [800, 800], [600, 800], [600, 600]]
# A grid of ten times ten patches of 100 px.
GRID = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * 100


def polygon(*rings: Any) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: Any, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def regions_of(*shapes: Any) -> SlideRegions:
    return SlideRegions("s", tuple(Region(shape) for shape in shapes))


def test_a_square_in_a_grid_holds_exactly_its_patches(tmp_path: Path) -> None:
    read = read_regions(write(tmp_path / "s.geojson", feature(polygon(SQUARE))))
    inside = read.inside(GRID, 100)
    assert inside.sum() == 16
    assert np.array_equal(inside, (GRID < 400).all(axis=1))
    assert read.area == 400 * 400
    assert read.slide_id == "s"


def test_holes_and_several_parts_count_as_drawn(tmp_path: Path) -> None:
    holed = read_regions(write(tmp_path / "a.geojson", polygon(SQUARE, HOLE)))
    assert holed.inside(GRID, 100).sum() == 16 - 4
    parts = {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]}
    both = read_regions(write(tmp_path / "b.geojson", parts))
    assert both.inside(GRID, 100).sum() == 16 - 4 + 4
    assert both.area == 400 * 400 - 200 * 200 + 200 * 200


def test_regions_that_overlap_count_once() -> None:
    twice = regions_of(shapely.box(0, 0, 400, 400), shapely.box(200, 0, 600, 400))
    assert twice.area == 600 * 400
    assert twice.inside(GRID, 100).sum() == 24


@pytest.mark.parametrize("wrap", ["collection", "feature", "geometry", "list", "geometries"])
@pytest.mark.parametrize("name", ["s.geojson", "s.json", "s.geojson.gz", "s.json.gz"])
def test_every_form_and_suffix_reads_alike(tmp_path: Path, wrap: str, name: str) -> None:
    one = feature(polygon(SQUARE), objectType="annotation")
    content: dict[str, Any] = {
        "collection": {"type": "FeatureCollection", "features": [one]},
        "feature": one,
        "geometry": polygon(SQUARE),
        "list": [one],
        "geometries": [polygon(SQUARE)],
    }
    text = json.dumps(content[wrap]).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert find_regions(tmp_path) == {"s": path}
    assert read_regions(path).digest == regions_of(shapely.Polygon(SQUARE)).digest


def test_names_and_classes_are_read_and_chosen_by(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.geojson",
        [
            feature(polygon(SQUARE), classification={"name": "Tumor", "color": [200, 0, 0]}),
            feature(polygon(FAR), name="edge", classification={"names": ["Stroma", "dense"]}),
            feature(polygon(FAR), objectType="detection"),
        ],
    )
    read = read_regions(path)
    assert [(r.label, r.name) for r in read.regions] == [("Tumor", ""), ("Stroma: dense", "edge")]
    assert read_regions(path, names=["tumor"]).inside(GRID, 100).sum() == 16
    assert read_regions(path, names=["EDGE"]).inside(GRID, 100).sum() == 4
    with pytest.raises(DataError, match=r"no region is called Fat \(there are: Tumor, Stroma"):
        read_regions(path, names=["Fat"])


CROSSED = [[0, 0], [400, 400], [400, 0], [0, 400], [0, 0]]
FLAT = [[0, 0], [400, 0], [200, 0], [0, 0]]
REFUSED: dict[str, tuple[Any, str]] = {
    "no features": ({"type": "FeatureCollection", "features": []}, "no region"),
    "an empty list": ([], "no region"),
    "detections only": ([feature(polygon(SQUARE), objectType="detection")], "1 detections"),
    "a number": (7, "neither a GeoJSON feature nor a geometry"),
    "features missing": ({"type": "FeatureCollection"}, "neither a GeoJSON feature"),
    "an entry that is none": ([feature(polygon(SQUARE)), {"a": 1}], "entry 2 is neither"),
    "no geometry": (feature(None), "annotation 1 has no geometry"),
    "a line": (
        feature({"type": "LineString", "coordinates": SQUARE}, name="cut"),
        "annotation 1 \\('cut'\\) is a LineString, which has no area",
    ),
    "no rings": (polygon(), "has no coordinates|without rings"),
    "no parts": ({"type": "MultiPolygon", "coordinates": []}, "has no coordinates"),
    "open": (polygon(SQUARE[:-1]), "a ring of 4 points is not closed"),
    "two points": (polygon([[0, 0], [1, 1], [0, 0]]), "a ring of 3 points is not closed"),
    "crossing itself": (polygon(CROSSED), "Self-intersection at 200 200"),
    "a hole outside": (polygon(SQUARE, FAR), "not a sound area \\(Hole lies outside shell"),
    "no area": (polygon(FLAT), "annotation 1"),
    "text": (polygon([["0", "0"], ["4", "0"], ["4", "4"], ["0", "0"]]), "not two numbers"),
    "three numbers": (polygon([[*p, 0] for p in SQUARE]), "not two numbers"),
    "points of several lengths": (polygon([[0, 0], [1], [1, 1], [0, 0]]), "not two numbers"),
    "a flat ring": (polygon([0, 0, 1, 1]), "not two numbers"),
    "not finite": (
        polygon([[0, 0], [float("inf"), 0], [4, 4], [0, 0]]),
        "not a finite number",
    ),
    "names that are a number": (
        feature(polygon(SQUARE), classification={"names": 5}),
        "annotation 1: its classification has no name that is a text",
    ),
    "a class that is a number": (feature(polygon(SQUARE), classification=5), "has no name that"),
    "properties that are a list": (
        {"type": "Feature", "geometry": polygon(SQUARE), "properties": [1]},
        "properties are not keys and values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_sound_area_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    content, said = REFUSED[case]
    path = write(tmp_path / "s.geojson", content)
    with pytest.raises(DataError, match=said) as caught:
        read_regions(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"\x1f\x8bnot gzip", b"[" * 9999])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.geojson"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"not valid JSON|cannot be decompressed"):
        read_regions(path)


def test_encodings_and_files_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "s.geojson"
    text = json.dumps(feature(polygon(SQUARE), name="Rand"))
    path.write_bytes(text.encode("utf-8-sig"))  # a byte-order mark is read over
    assert read_regions(path).labels == ("Rand",)
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match=r"s\.geojson: is in UTF-16, not UTF-8\. Save it as UTF-8"):
        read_regions(path)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r"not valid JSON .* It may be cut short or edited: export"):
        read_regions(path)


def test_a_name_that_no_file_has_is_refused_before_the_work(tmp_path: Path) -> None:
    write(tmp_path / "a.geojson", feature(polygon(SQUARE), classification="Tumor"))
    write(tmp_path / "b.geojson", feature(polygon(SQUARE), name="Edge"))
    every = [read_regions(path) for path in find_regions(tmp_path).values()]
    check_names(every, ["tumor", "EDGE"])
    with pytest.raises(DataError, match=r"is called 'Fat'\. There are Tumor, Edge"):
        check_names(every, ["tumor", "Fat"])


@pytest.mark.parametrize(
    ("given_colour", "colour"),
    [
        ({"color": [200, 0, 10]}, (200, 0, 10)),
        ({"colorRGB": -3670016}, (200, 0, 0)),  # QuPath 0.2 and before: alpha, red, green, blue
        ({"color": [200, 0, 256]}, None),
        ({"color": "red"}, None),
        ({}, None),
    ],
)
def test_the_colour_of_a_class_is_read(
    tmp_path: Path, given_colour: dict[str, Any], colour: tuple[int, int, int] | None
) -> None:
    of_class = {"name": "Tumor", **given_colour}
    path = write(tmp_path / "s.geojson", feature(polygon(SQUARE), classification=of_class))
    found = read_regions(path)
    assert [(one.label, one.colour) for one in found.regions] == [("Tumor", colour)]
    write_geojson(path, region_features(found))
    again = read_regions(path)
    assert again == found
    plain = [replace(one, colour=None) for one in found.regions]
    assert replace(found, regions=tuple(plain)).digest == found.digest  # bags stay what they are


def test_what_lies_outside_the_slide_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.geojson", feature(polygon(FAR), name="edge"))
    assert read_regions(path, size=(800, 800))
    with pytest.raises(DataError, match=r"'edge'\) spans x 600 to 800 .* \(700 x 900 px\)"):
        read_regions(path, size=(700, 900))
    with pytest.raises(DataError, match="outside the slide"):
        read_regions(path, size=(800, 800), offset=(0, 5))


def test_files_are_found_by_slide(tmp_path: Path) -> None:
    for name in ("b.1.geojson", "sub/a.json.gz", ".hidden.json", ".git/c.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert list(find_regions(tmp_path)) == ["a", "b.1"]
    (tmp_path / "a.geojson").write_text("{}")
    with pytest.raises(DataError, match="slide 'a' has two region files"):
        find_regions(tmp_path)
    with pytest.raises(DataError, match="not a GeoJSON file by its name"):
        find_regions(tmp_path / "notes.txt")
    with pytest.raises(DataError, match="no such folder or file of regions"):
        find_regions(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no region files"):
        find_regions(tmp_path / "empty")


def test_shares_are_areas() -> None:
    read = regions_of(shapely.box(50, 0, 275, 100))
    shares = read.shares(GRID, 100)
    assert np.allclose(shares[:4], [0.5, 1.0, 0.75, 0.0])
    assert not shares[4:].any()
    assert read.inside(GRID, 100, share=0.5).sum() == 3
    assert read.inside(GRID, 100, share=0.51).sum() == 2
    assert read.inside(GRID, 100, share=1).sum() == 1
    for share in (0, -1, 1.1, float("nan")):
        with pytest.raises(UserError, match="share of a patch"):
            read.inside(GRID, 100, share=share)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 900)] * 2, *[st.integers(1, 400)] * 2), min_size=1, max_size=5
    )
)
def test_shares_of_a_grid_sum_to_the_area(boxes: list[tuple[int, int, int, int]]) -> None:
    """Whatever is outlined: the grid holds what of it lies on the grid, and no more."""
    read = regions_of(*(shapely.box(x, y, x + w, y + h) for x, y, w, h in boxes))
    shares = read.shares(GRID, 100)
    covered = read.outline.intersection(shapely.box(0, 0, 1000, 1000)).area
    assert shares.sum() * 100**2 == pytest.approx(covered)
    assert ((shares >= 0) & (shares <= 1)).all()
    by_hand = [
        read.outline.intersects(shapely.Point(x + 50, y + 50)) for x, y in GRID.tolist()
    ]  # fmt: skip
    assert read.inside(GRID, 100).tolist() == by_hand


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    before = SlideRegions(
        "s",
        (
            Region(shapely.Polygon(SQUARE, [HOLE]), "a", "Tumor"),
            Region(shapely.MultiPolygon([shapely.Polygon(FAR)]), "", "Stroma"),
        ),
    )
    for name in ("s.geojson", "s.geojson.gz"):
        after = read_regions(write_geojson(tmp_path / name, region_features(before)))
        assert after.digest == before.digest
    packed = (tmp_path / "s.geojson.gz").read_bytes()
    write_geojson(tmp_path / "s.geojson.gz", region_features(before))
    assert (tmp_path / "s.geojson.gz").read_bytes() == packed


def test_the_digest_is_of_what_was_outlined(tmp_path: Path) -> None:
    turned = [SQUARE[2], SQUARE[3], SQUARE[0], SQUARE[1], SQUARE[2]]
    plain = regions_of(shapely.Polygon(SQUARE))
    assert plain.digest == regions_of(shapely.Polygon(turned)).digest
    assert plain.digest != regions_of(shapely.Polygon(FAR)).digest
    assert plain.digest != plain.moved(1, 0).digest
    named = SlideRegions("s", (Region(shapely.Polygon(SQUARE), label="Tumor"),))
    assert plain.digest != named.digest


@pytest.fixture
def faked_bounds(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Give every slide further properties, as those of a file of another scanner."""
    real = openslide.OpenSlide.properties

    def fake(more: dict[str, str]) -> None:
        def properties(self: Any) -> dict[str, str]:
            return {**dict(real.fget(self)), **more}  # type: ignore[attr-defined]

        monkeypatch.setattr(openslide.OpenSlide, "properties", property(properties))

    return fake


def test_the_bounds_of_a_scan_move_regions_both_ways(
    tmp_path: Path, faked_bounds: Callable[[dict[str, str]], None]
) -> None:
    from spade_bench.simulate.tiff import write_pyramid

    pixels = np.full((512, 512, 3), 255, np.uint8)
    write_pyramid(tmp_path / "s.tif", pixels, 0.5, quality=80, description="white")
    with open_slide(tmp_path / "s.tif") as slide:
        assert slide.offset == (0, 0)
    faked_bounds({"openslide.bounds-x": "120", "openslide.bounds-y": "60"})
    with open_slide(tmp_path / "s.tif") as slide:
        offset, size = slide.offset, (slide.width, slide.height)
    assert offset == (120, 60)
    # What QuPath calls (0, 0) is pixel (120, 60) of the file.
    drawn = write(tmp_path / "s.geojson", polygon([[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]]))
    read = read_regions(drawn, offset=offset, size=size)
    assert read.outline.bounds == (120, 60, 210, 150)
    assert read.inside(np.array([[120, 60], [0, 0]]), 30).tolist() == [True, False]
    back = read.moved(-120, -60)
    assert back.digest == read_regions(drawn).digest
