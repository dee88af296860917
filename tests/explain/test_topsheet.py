"""Contact sheets of the highest and lowest patches: ranks, distances, what blind ones hide."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from spade_bench.errors import DataError, UserError
from spade_bench.explain.layers import CATEGORY, Layer
from spade_bench.explain.places import highest
from spade_bench.explain.ranking import PatchRanking
from spade_bench.explain.topsheet import SlideLayer, ranked_patches, write_top_sheets
from spade_bench.files import read_json

SIDE = 64


def slide_layer(
    path: Path, seed: int, encoder: str = "uni", values: NDArray[np.float64] | None = None
) -> SlideLayer:
    x, y = np.meshgrid(np.arange(10) * SIDE, np.arange(8) * SIDE)
    coords = np.stack([x.ravel(), y.ravel()], axis=1)
    scores = np.random.default_rng(seed).random(80) if values is None else values
    return SlideLayer(path, Layer("k", f"{encoder}: attention", f"attention of {encoder}", coords,
                                  SIDE, scores), encoder)  # fmt: skip


@pytest.fixture
def slides(tmp_path: Path, write_slide: Callable[..., Path]) -> list[Path]:
    """Two slides whose patches are each of one colour: that of their number."""
    paths = []
    for number in range(2):
        colours = np.arange(80).reshape(8, 10)
        pixels = np.zeros((512, 640, 3), dtype=np.uint8)
        pixels[..., 0] = 3 * np.kron(colours, np.ones((SIDE, SIDE), dtype=np.uint8))
        pixels[..., 2] = 200 * number
        paths.append(write_slide(tmp_path / "slides" / f"slide{number}.tif", pixels))
    return paths


@pytest.mark.parametrize("seed", range(4))
def test_ranks_are_in_order_and_patches_of_a_slide_apart(seed: int) -> None:
    layers = [slide_layer(Path(f"s{at}.svs"), 10 * seed + at) for at in range(3)]
    ranked = ranked_patches(layers, 20)
    high = [one for one in ranked if one.part == "highest"]
    low = [one for one in ranked if one.part == "lowest"]
    assert [one.rank for one in high] == list(range(1, 21)) == [one.rank for one in low]
    assert [one.score for one in high] == sorted((one.score for one in high), reverse=True)
    assert [one.score for one in low] == sorted(one.score for one in low)
    values = np.concatenate([one.layer.values for one in layers])
    assert high[0].score == values.max()
    assert low[0].score == values.min()
    assert min(one.score for one in high) > max(one.score for one in low)
    for part in (high, low):
        for at, one in enumerate(part):
            assert one.source.layer.values[one.row] == one.score
            for other in part[:at]:
                if one.source is other.source:
                    coords = one.source.layer.coords
                    assert np.abs(coords[one.row] - coords[other.row]).max() >= 2 * SIDE


def test_no_patch_is_both_high_and_low() -> None:
    ranked = ranked_patches([slide_layer(Path("s.svs"), 0)], 50)
    rows = [one.row for one in ranked]
    assert len(rows) == len(set(rows)) < 100
    everything = ranked_patches([slide_layer(Path("s.svs"), 0)], 50, distance=0)
    assert sorted(one.row for one in everything) == list(range(80))


def test_what_cannot_be_ranked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No patch has a value"):
        ranked_patches([slide_layer(Path("s.svs"), 0, values=np.full(80, np.nan))])
    with pytest.raises(UserError, match="nothing to rank"):
        write_top_sheets([], tmp_path)
    with pytest.raises(UserError, match="1 or more"):
        ranked_patches([slide_layer(Path("s.svs"), 0)], 0)
    layer = Layer("k", "t", "l", np.zeros((1, 2), dtype=int), 1, np.zeros(1), CATEGORY, ("a",))
    with pytest.raises(UserError, match="no order"):
        ranked_patches([SlideLayer(Path("s.svs"), layer, "uni")])


def test_the_sheet_shows_the_patches_that_it_lists(
    slides: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every tile has the colour of its patch, and its caption its rank, score and slide."""
    from spade_bench.explain import topsheet

    seen, written = [], []

    def sheet_figure(title: str, groups: list[topsheet.TileGroup], **more: object) -> object:
        seen.extend(tile for group in groups for tile in group.tiles)
        figure = original(title, groups, **more)  # type: ignore[arg-type]
        written.extend(text.get_text() for text in figure.axes[0].texts)
        wide, tall = figure.get_size_inches() * 25.4
        assert wide == pytest.approx(180)
        assert tall < 75  # two rows of tiles
        return figure

    original = topsheet.sheet_figure
    monkeypatch.setattr(topsheet, "sheet_figure", sheet_figure)
    layers = [slide_layer(path, at) for at, path in enumerate(slides)]
    png, pdf, listing = write_top_sheets(layers, tmp_path / "out", top=8, title="BRAF, abmil")
    assert (png.name, pdf.name, listing.name) == ("top-uni.png", "top-uni.pdf", "top-patches.json")
    patches = read_json(listing)["sheets"]["uni"]["patches"]
    assert len(patches) == len(seen) == 16
    assert written[0] == "UNI: BRAF, abmil"
    assert "20 µm" in written
    assert "Highest 8. Score: attention of uni" in written
    for patch, tile in zip(patches, seen, strict=True):
        row = patch["y"] // SIDE * 10 + patch["x"] // SIDE
        number = int(patch["slide_id"].removeprefix("slide"))
        assert layers[number].layer.values[row] == patch["score"]
        middle = tile.pixels[len(tile.pixels) // 2, len(tile.pixels) // 2]
        assert middle.tolist() == [3 * row, 0, 200 * number]
        assert tile.lines == (f"{patch['rank']}   {patch['score']:.3f}", patch["slide_id"])


def test_blind_sheets_hold_no_name_and_the_key_resolves_them(
    slides: list[Path], tmp_path: Path
) -> None:
    names = ["unicorn-2", "spade-unicorn-2", "conchita"]
    layers = [slide_layer(path, 7 * at, name) for name in names for at, path in enumerate(slides)]
    *sheets, key = write_top_sheets(
        layers, tmp_path / "out", top=5, title="BRAF by SPADE-Unicorn-2, unicorn-2", blind=11,
        marks=["conchita was trained on them"],
    )  # fmt: skip
    assert {one.parent.name for one in sheets} == {"blind"}
    assert key == tmp_path / "out" / "blind-key.json"
    assert sorted(one.name for one in sheets) == [
        f"top-{letter}.{kind}" for letter in "ABC" for kind in ("pdf", "png")
    ]
    for sheet in sheets:
        content = sheet.read_bytes() + text_of(sheet.read_bytes())
        for name in names:
            assert name.encode() not in content.lower()
        if sheet.suffix == ".pdf":
            assert b"BRAF by ..., ..." in content
            assert b"... was trained on them" in content
    told = read_json(key)["sheets"]
    assert sorted(one["encoder"] for one in told.values()) == sorted(names)
    for one in told.values():
        mine = {layer.slide_id: layer.layer for layer in layers if layer.encoder == one["encoder"]}
        for patch in one["patches"]:
            row = patch["y"] // SIDE * 10 + patch["x"] // SIDE
            assert mine[patch["slide_id"]].values[row] == patch["score"]


def text_of(content: bytes) -> bytes:
    """Streams of a PDF decompressed, and its text as letters again."""
    found = b""
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            found += zlib.decompress(match[1])
        except zlib.error:
            continue
    # Letters are written one by one, two bytes each, with kerning between them.
    shown = re.findall(rb"\[([^\]]*)\]\s*TJ", found)
    letters = [b"".join(re.findall(rb"\(\0(.)\)", one, re.DOTALL)) for one in shown]
    return found + b"\n".join(letters)


def test_the_order_of_blind_sheets_is_drawn_and_does_not_depend_on_the_order_given(
    slides: list[Path], tmp_path: Path
) -> None:
    def order(seed: int, names: list[str]) -> list[str]:
        layers = [slide_layer(slides[0], 1, name) for name in names]
        *_, key = write_top_sheets(layers, tmp_path / f"{seed}{names[0]}", top=1, blind=seed)
        return [one["encoder"] for _, one in sorted(read_json(key)["sheets"].items())]

    assert order(1, ["a", "b"]) == order(1, ["b", "a"]) == ["a", "b"]
    assert order(3, ["a", "b"]) == ["b", "a"]


def test_a_slide_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    with pytest.raises(DataError, match=r"broken\.svs"):
        write_top_sheets([slide_layer(broken, 0)], tmp_path / "out", top=2)
    assert not list(tmp_path.rglob("*.png"))


def test_real_patches_that_were_cut_before(shared_data: Path, tmp_path: Path) -> None:
    """The brightest and darkest of 190 patches of lung cancer, in an order known from pixels."""
    from spade_bench.extraction import group_patches
    from spade_bench.slides.patches import read_patch

    with zipfile.ZipFile(shared_data / "tcga_luadlusc_rois" / "tcga_luadlusc.zip") as archive:
        archive.extractall(tmp_path / "rois")
    groups, _ = group_patches(tmp_path / "rois")
    layers = []
    for group in groups:
        light = np.array([read_patch(file).mean() for file in group.files])
        layer = Layer("k", "t", "mean light", np.zeros((len(light), 2), dtype=int), 224, light)
        layers.append(SlideLayer(tmp_path / group.slide_id, layer, "light", group.files))
    *_, listing = write_top_sheets(layers, tmp_path / "out", top=20)
    patches = json.loads(listing.read_text())["sheets"]["light"]["patches"]
    assert [one["part"] for one in patches] == ["highest"] * 20 + ["lowest"] * 20
    everything = np.sort(np.concatenate([one.layer.values for one in layers]))
    np.testing.assert_allclose([one["score"] for one in patches[:20]], everything[::-1][:20])
    np.testing.assert_allclose([one["score"] for one in patches[20:]], everything[:20])


@pytest.mark.parametrize("seed", range(3))
def test_a_ranking_holds_few_patches_and_ranks_as_one_that_holds_all(seed: int) -> None:
    """Halves are those of all values, ties told by their order, however many slides there are."""
    rng = np.random.default_rng(seed)
    given = [
        slide_layer(Path(f"s{at}.svs"), at, values=np.round(rng.random(80) ** 2, 1 + seed))
        for at in range(12)
    ]
    ranking = PatchRanking(6)
    for at, one in enumerate(given):
        ranking.add(one)
        assert ranking.held <= 2 * 6, at
    values = np.concatenate([one.layer.values for one in given])
    upper = np.zeros(len(values), dtype=bool)
    upper[np.argsort(-values, kind="stable")[: len(values) // 2]] = True
    for part, sign, mine in (("highest", -1, upper), ("lowest", 1, ~upper)):
        found = []
        for at, one in enumerate(given):
            kept = np.where(mine[80 * at : 80 * at + 80], one.layer.values, np.nan)
            rows = highest(replace(one.layer, values=kept), 6, 2 * SIDE, lowest=part == "lowest")
            found += [(float(kept[row]), one.slide_id, *one.layer.coords[row]) for row in rows]
        wanted = sorted(found, key=lambda each: sign * each[0])[:6]
        got = [
            (one.score, one.source.slide_id, *one.source.layer.coords[one.row])
            for one in ranking.ranked()
            if one.part == part
        ]
        assert got == wanted
