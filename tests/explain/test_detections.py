"""Detections for QuPath: what is written is read back by a library of geometry."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import shape

from spade_bench.errors import DataError, UserError
from spade_bench.explain.detections import write_detections
from spade_bench.explain.layers import CATEGORY, SHARE, SIGNED, VALUE, Layer, percentiles
from spade_bench.explain.slidemap import SlideMap

SIDE = 100
GRID = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * SIDE
RNG = np.random.default_rng(0)


def layer(values: Any, scale: str = SHARE, key: str = "uni.shown", **more: Any) -> Layer:
    title = more.pop("title", "UNI: attention (abmil)")
    return Layer(key, title, "legend", GRID, SIDE, np.asarray(values, float), scale, **more)


def read(path: Path) -> list[dict[str, Any]]:
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    collection = json.loads(text)
    assert collection["type"] == "FeatureCollection"
    return list(collection["features"])


@pytest.mark.parametrize("name", ["map.geojson", "map.geojson.gz"])
@pytest.mark.parametrize("offset", [(0, 0), (120, 60)])
def test_geometry_and_measurements_are_read_back(
    tmp_path: Path, name: str, offset: tuple[int, int]
) -> None:
    share, signed = percentiles(RNG.normal(size=100)), RNG.normal(size=100)
    layers = [layer(share), layer(signed, SIGNED, "uni.yes", title="UNI: towards yes")]
    done = write_detections(tmp_path / name, layers, offset=offset)
    assert (done.written, done.patches) == (100, 100)
    features = read(done.path)
    squares = [shape(one["geometry"]) for one in features]
    assert all(one.is_valid for one in squares)
    for (x, y), one in zip(GRID.tolist(), squares, strict=True):
        left, top = x - offset[0], y - offset[1]
        assert one.bounds == (left, top, left + SIDE, top + SIDE)
        assert one.area == SIDE**2
    assert shapely.union_all(squares).area == 100 * SIDE**2  # none on top of another
    for i, one in enumerate(features):
        said = one["properties"]
        assert said["objectType"] == "detection"
        assert said["isLocked"] is True
        assert said["measurements"] == {
            "UNI: attention (abmil)": share[i],
            "UNI: towards yes": signed[i],
        }


def test_percentiles_are_classified_by_deciles(tmp_path: Path) -> None:
    share = percentiles(RNG.normal(size=100))
    features = read(write_detections(tmp_path / "a.geojson", [layer(share)]).path)
    names = [one["properties"]["classification"]["name"] for one in features]
    counts = {name: names.count(name) for name in set(names)}
    assert set(counts.values()) == {10}
    top = [names[i] for i in np.argsort(share)[-10:]]
    assert set(top) == {"UNI attention (abmil), 90% to 100%"}
    assert not any(":" in name for name in names)
    colours = {n: tuple(f["properties"]["classification"]["color"])
               for n, f in zip(names, features, strict=True)}  # fmt: skip
    assert len(set(colours.values())) == 10
    assert all(isinstance(c, int) and 0 <= c <= 255 for rgb in colours.values() for c in rgb)


def test_categories_go_by_their_names(tmp_path: Path) -> None:
    values = np.arange(100) % 4 - 1.0
    of_expert = layer(values, CATEGORY, "spade.expert", title="Expert", names=("a", "b", "c"))
    features = read(write_detections(tmp_path / "a.geojson", [of_expert]).path)
    named = [one["properties"].get("classification", {}).get("name") for one in features]
    assert named == [[None, "a", "b", "c"][i % 4] for i in range(100)]
    attention = layer(percentiles(RNG.normal(size=100)))
    both = write_detections(tmp_path / "b.geojson", [attention, of_expert], by="spade.expert")
    assert [one["properties"].get("classification", {}).get("name") for one in read(both.path)] == (
        named
    )
    with pytest.raises(UserError, match=r"There is no layer 'x'. Use uni.shown"):
        write_detections(tmp_path / "c.geojson", [attention], by="x")


@pytest.mark.parametrize("scale", [SHARE, SIGNED, VALUE])
def test_only_the_top_is_written_and_that_is_said(
    tmp_path: Path, scale: str, capsys: pytest.CaptureFixture[str]
) -> None:
    values = percentiles(RNG.normal(size=100)) - (0.5 if scale == SIGNED else 0.0)
    done = write_detections(tmp_path / "a.geojson", [layer(values, scale)], max_detections=30)
    assert (done.written, done.patches) == (30, 100)
    size = np.abs(values) if scale == SIGNED else values
    kept = [shape(one["geometry"]).bounds[:2] for one in read(done.path)]
    expected = np.sort(np.argsort(-size, kind="stable")[:30])
    assert kept == [tuple(map(float, xy)) for xy in GRID[expected].tolist()]
    said = capsys.readouterr().err.replace("\n", " ")
    assert "30 of 100 patches (30.0%)" in said
    assert "--max-detections" in said


def test_many_categories_are_thinned_evenly(tmp_path: Path) -> None:
    of_expert = layer(np.arange(100) % 4, CATEGORY, names=("a", "b", "c", "d"))
    done = write_detections(tmp_path / "a.geojson", [of_expert], max_detections=25)
    rows = [shape(one["geometry"]).bounds[1] for one in read(done.path)]
    assert done.written == 25
    assert {row // SIDE for row in rows} == set(range(10))


def test_a_patch_without_a_value_lacks_measurement_and_class(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 100)
    values[7] = np.nan
    features = read(write_detections(tmp_path / "a.geojson", [layer(values, VALUE)]).path)
    assert features[7]["properties"]["measurements"] == {}
    assert "classification" not in features[7]["properties"]
    assert "classification" in features[8]["properties"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    one = layer(np.ones(100))
    moved = Layer("b", "b", "", GRID + 1, SIDE, np.ones(100))
    with pytest.raises(DataError, match="'b' lies on other patches"):
        write_detections(tmp_path / "a.geojson", [one, moved])
    with pytest.raises(DataError, match="There is no patch"):
        write_detections(tmp_path / "a.geojson", [])
    with pytest.raises(UserError, match="--max-detections is 0"):
        write_detections(tmp_path / "a.geojson", [one], max_detections=0)
    assert list(tmp_path.iterdir()) == []


def test_a_map_writes_itself_with_raw_values_and_the_offset_of_its_slide(tmp_path: Path) -> None:
    attention = RNG.gamma(2.0, size=100)
    one = SlideMap("s", "c", "uni", "abmil", "t", ("no", "yes"), GRID, SIDE,
                            attention / attention.sum(), RNG.normal(size=(100, 2)),
                            offset=(40, 20))  # fmt: skip
    features = read(one.to_geojson(tmp_path / "s.geojson.gz", max_detections=10))
    frame = one.to_dataframe()
    top = np.sort(np.argsort(-attention)[:10])
    for i, found in zip(top, features, strict=True):
        assert shape(found["geometry"]).bounds[:2] == (GRID[i, 0] - 40, GRID[i, 1] - 20)
        expected = frame.drop(columns=["slide_id", "x", "y"]).iloc[i].to_dict()
        assert found["properties"]["measurements"] == expected
        assert found["properties"]["classification"]["name"].endswith("90% to 100%")
