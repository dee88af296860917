"""Maps over slides: where colours land on paper, what they say, what the files hold."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from spade_bench.errors import DataError, UserError
from spade_bench.explain.colours import category_colours, colour_map, layer_colours, outline_colours
from spade_bench.explain.layers import CATEGORY, SHARE, SIGNED, VALUE, Layer
from spade_bench.explain.mapdrawing import STYLES
from spade_bench.explain.outlined.regionclasses import RegionKey
from spade_bench.explain.overlay import (
    Background,
    draw_layer,
    overlay_figure,
    panel_figure,
    save_figure,
    slide_background,
)
from spade_bench.explain.places import Crop
from spade_bench.regions.outlines import Region


def layer(values: object, scale: str = SHARE, title: str = "UNI: attention (abmil)") -> Layer:
    x, y = np.meshgrid(np.arange(8) * 64, np.arange(8) * 64)
    coords = np.stack([x.ravel() + 128, y.ravel() + 192], axis=1)
    given = np.broadcast_to(np.asarray(values, dtype=float), 64).copy()
    names = ("a", "b", "c") if scale == CATEGORY else ()
    return Layer("uni.x", title, "attention, percentile within the slide", coords, 64, given,
                 scale, names)  # fmt: skip


BARE = Background(None, 1000, 800, 0.5)
WHITE = Background(np.full((400, 500, 3), 255, dtype=np.uint8), 1000, 800, 0.5)


def pixels_of(figure: Any, dpi: int = 200) -> NDArray[Any]:
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format="png")
    return np.asarray(Image.open(buffer).convert("RGB")).astype(int)


def on_paper(figure: Any, axes: Any, x: float, y: float, dpi: int = 200) -> tuple[int, int]:
    """Row and column of a level-0 point in a saved picture."""
    across, up = figure.transFigure.inverted().transform(axes.transData.transform((x, y)))
    wide, tall = figure.get_size_inches() * dpi
    return int((1 - up) * tall), int(across * wide)


@pytest.mark.parametrize("hot", [0, 7, 27, 63])
def test_a_hot_patch_lands_on_its_pixels(hot: int) -> None:
    values = np.full(64, np.nan)
    values[hot] = 1.0
    drawn = layer(values)
    figure = overlay_figure(drawn, BARE, "s")
    axes = figure.axes[0]
    picture = pixels_of(figure)
    colour = np.rint(255 * np.array(colour_map(SHARE)(1.0)[:3])).astype(int)
    x, y = drawn.coords[hot]
    for dx in (1.5, 32, 62.5):
        for dy in (1.5, 32, 62.5):
            row, column = on_paper(figure, axes, x + dx, y + dy)
            assert np.abs(picture[row, column] - colour).max() <= 2
    for dx, dy in ((-6, 32), (70, 32), (32, -6), (32, 70)):
        row, column = on_paper(figure, axes, x + dx, y + dy)
        assert np.abs(picture[row, column] - colour).max() > 60


def test_the_slide_and_its_map_lie_on_each_other(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    """A black square of the slide is exactly below the patch that covers it."""
    pixels = np.full((800, 1000, 3), 255, dtype=np.uint8)
    pixels[192 + 64 : 192 + 128, 128 + 192 : 128 + 256] = 0  # patch 11
    background = slide_background(write_slide(tmp_path / "s.tif", pixels), 500)
    assert (background.width, background.height, background.mpp) == (1000, 800, 0.5)
    assert background.picture is not None
    assert background.picture.shape == (400, 500, 3)
    values = np.full(64, np.nan)
    values[11] = 1.0
    figure = overlay_figure(layer(values), background, "s")
    picture, axes = pixels_of(figure), figure.axes[0]
    inside = picture[on_paper(figure, axes, 128 + 224, 192 + 96)]
    outside = picture[on_paper(figure, axes, 128 + 224 + 64, 192 + 96)]
    assert (outside > 250).all()
    pale = 0.6 * 255 * np.array(colour_map(SHARE)(1.0)[:3])
    assert (inside > pale - 3).all()  # the tissue shows through: darker than on glass ...
    assert (inside < pale + 0.4 * 255 * 0.5).all()
    edge = [picture[on_paper(figure, axes, 128 + 192 + dx, 192 + 96)] for dx in (-4, 4)]
    assert (edge[0] > 250).all()
    assert not (edge[1] > 250).all()


def test_an_unknown_resolution_is_not_invented(
    tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    slide = write_slide(tmp_path / "s.tif", np.full((300, 300, 3), 255, dtype=np.uint8), mpp=None)
    assert slide_background(slide).mpp is None
    assert slide_background(slide, mpp=0.7).mpp == 0.7
    figure = overlay_figure(layer(0.5), Background(None, 1000, 800), "s")
    assert not any("µm" in text for text in texts(figure))


def texts(figure: Any) -> list[str]:
    import matplotlib.text

    return [one.get_text() for one in figure.findobj(matplotlib.text.Text) if one.get_text()]


def test_a_figure_says_what_it_shows() -> None:
    figure = overlay_figure(layer(0.5), WHITE, "slide-7, mutated", marks=["simulated data"])
    said = " ".join(texts(figure)).replace("\n", " ")
    for words in ("slide-7, mutated", "UNI: attention (abmil)", "percentile within the slide",
                  "simulated data", "50 µm"):  # fmt: skip
        assert words in said


def test_the_scale_bar_is_as_long_as_it_says() -> None:
    figure = overlay_figure(layer(0.5), WHITE, "s")
    bars = [line for line in figure.axes[0].lines if line.get_linewidth() == 2.0]
    (start, end) = bars[0].get_xdata()
    assert (end - start) * 0.5 == pytest.approx(50)


@pytest.mark.parametrize("scale", [SIGNED, VALUE])
def test_panels_share_one_scale(scale: str) -> None:
    one, other = layer(np.linspace(-1, 3, 64), scale), layer(np.linspace(-9, 1, 64), scale)
    low, high = (pick(a.limits()[at] for a in (one, other)) for at, pick in enumerate((min, max)))
    figure = panel_figure([one, other], WHITE, "s")
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "H&E",
        one.title,
        other.title,
    ]
    assert figure.axes[3].get_ylim() == pytest.approx((low, high))


def test_layers_that_cannot_share_colours_are_refused() -> None:
    with pytest.raises(UserError, match="different scales"):
        panel_figure([layer(0.5), layer(0.5, SIGNED)], WHITE, "s")
    with pytest.raises(UserError, match="nothing to draw"):
        panel_figure([], WHITE, "s")


def test_a_layer_of_another_slide_is_refused() -> None:
    with pytest.raises(DataError, match="outside the slide of 300 x 300 px"):
        overlay_figure(layer(0.5), Background(None, 300, 300), "s")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("scale", [SHARE, SIGNED, VALUE, CATEGORY])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_every_figure_fits_a_page(tmp_path: Path, scale: str, style: str, count: int) -> None:
    names = [f"An encoder with a name that is rather long {at}: attention" for at in range(count)]
    layers = [layer(1.0, scale, title=name) for name in names]
    figure = panel_figure(layers, WHITE, "A title " * 30, style=style)
    wide, tall = figure.get_size_inches() * 25.4
    assert 85 <= wide <= 180.01
    assert tall < 260
    figure.canvas.draw()
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1


def test_a_pdf_is_of_its_size_and_holds_its_fonts(tmp_path: Path) -> None:
    figure = panel_figure([layer(0.5), layer(0.2)], WHITE, "Straße, µm", marks=["simulated data"])
    content = save_figure(figure, tmp_path / "map.pdf").read_bytes()
    assert content == save_figure(figure, tmp_path / "again.pdf").read_bytes()
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+)", content)
    assert box is not None
    assert float(box[1]) / 72 * 25.4 <= 180.01
    whole = content + b"".join(streams(content))
    assert b"/FontFile2" in whole
    assert b"/Type3" not in whole
    assert b"/Subtype /Image" in whole


def streams(content: bytes) -> list[bytes]:
    """The streams of a PDF, decompressed where they are compressed."""
    found = []
    for match in re.finditer(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL):
        try:
            found.append(zlib.decompress(match[1]))
        except zlib.error:
            found.append(match[1])
    return found


def test_crops_are_framed_where_they_lie_and_numbered() -> None:
    red = np.zeros((50, 50, 3), dtype=np.uint8)
    crops = [Crop(128 + 64 * at, 192, 128, red, 0.9) for at in (0, 3)]
    figure = overlay_figure(layer(0.5), WHITE, "s", crops=crops)
    frames = [patch.get_bbox().bounds for patch in figure.axes[0].patches]
    assert frames == [(128, 192, 128, 128), (320, 192, 128, 128)]
    assert texts(figure).count("1") == 2
    assert texts(figure).count("2") == 2


def test_an_outline_is_drawn_closed_with_its_holes() -> None:
    hole = shapely.Polygon([[300, 300], [400, 300], [400, 400]])
    region = Region(shapely.box(200, 250, 500, 500).difference(hole))
    (one,) = RegionKey.of([region]).classes([region])
    figure = overlay_figure(layer(0.5), WHITE, "s", outlined=[one])
    black = [line for line in figure.axes[0].lines
             if line.get_color() == "#000000" and line.get_linewidth() == 1.0]  # fmt: skip
    assert [len(line.get_xdata()) for line in black] == [5, 4]
    for line in black:
        assert line.get_xydata()[0].tolist() == line.get_xydata()[-1].tolist()


def test_each_class_of_regions_has_its_colour_and_a_line_in_the_legend() -> None:
    regions = [Region(shapely.box(200 + 90 * at, 250, 260 + 90 * at, 300), label=name)
               for at, name in enumerate(["Tumour", "Stroma", "Tumour"])]  # fmt: skip
    classes = RegionKey.of(regions).classes(regions)
    assert [(one.name, len(one.rings)) for one in classes] == [("Tumour", 2), ("Stroma", 1)]
    figure = overlay_figure(layer(0.5), WHITE, "s", outlined=classes, marks=["simulated data"])
    (legend,) = figure.legends
    said = dict(zip([text.get_text() for text in legend.get_texts()],
                    [line.get_color() for line in legend.get_lines()], strict=True))  # fmt: skip
    drawn = [line.get_color() for line in figure.axes[0].lines if line.get_linewidth() == 1.0]
    assert drawn == [said["Stroma"], said["Tumour"], said["Tumour"]]  # the largest on top
    figure.canvas.draw()
    box = legend.get_window_extent()
    (foot,) = [text for text in figure.texts if text.get_text() == "simulated data"]
    assert box.y0 >= foot.get_window_extent().y1 - 1  # above the marks, below the map
    assert box.y1 <= figure.axes[0].get_window_extent().y0
    assert box.x1 <= figure.bbox.x1


def test_a_class_keeps_the_colour_that_its_file_gives_it() -> None:
    shape, red = shapely.box(0, 0, 1, 1), (200, 0, 0)
    regions = [
        Region(shape, label="Stroma"),
        Region(shape, label="Tumour"),
        Region(shape, label="Tumour", colour=red),
        Region(shape, label="Fat", colour=red),  # taken
        Region(shape, label="Black", colour=(0, 0, 0)),
        *(Region(shape, label=f"more {number}") for number in range(20)),
    ]
    key = RegionKey.of(regions)
    assert (key.colours["Tumour"], key.colours["Black"]) == (red, (0, 0, 0))
    assert len(set(key.colours.values())) == 24  # and so Stroma is not black
    assert RegionKey.of([Region(shape, name="edge")]).colours == {"edge": (0, 0, 0)}
    many = [Region(shape, name=str(number)) for number in range(30)]
    assert list(RegionKey.of(many).colours) == ["no class"]


def test_default_outlines_differ_for_every_colour_vision() -> None:
    """The first eight, as readers without one of the three basic colours see them."""
    rgb = (np.array(outline_colours(8)) / 255) ** 2.2  # (8, 3), linear
    # Viénot, Brettel and Mollon 1999: what is left without long or medium wavelengths.
    protan = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
    deutan = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])
    for seen in (np.eye(3), protan, deutan):
        shown = 255 * np.clip(rgb @ seen.T, 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(shown[:, None] - shown[None], axis=-1)  # (8, 8)
        assert apart[~np.eye(8, dtype=bool)].min() > 30


def test_colours_say_limits_and_zero() -> None:
    signed = layer(np.linspace(-2, 2, 64), SIGNED)
    assert layer_colours(signed, np.array([0.0]))[0] == pytest.approx([1, 1, 1], abs=0.01)
    ends = layer_colours(signed, np.array([-9.0, -2.0, 2.0, 9.0]))
    np.testing.assert_allclose(ends[0], ends[1])
    np.testing.assert_allclose(ends[2], ends[3])
    assert np.isnan(layer_colours(signed, np.array([np.nan]))).all()
    assert np.isnan(layer_colours(layer(0.0, CATEGORY), np.array([-1.0]))).all()
    limited = layer_colours(layer(0.5, VALUE), np.array([5.0]), (0.0, 10.0))[0]
    assert limited == pytest.approx(colour_map(VALUE)(0.5)[:3], abs=0.01)


@pytest.mark.parametrize("scale", [SHARE, VALUE])
def test_numbers_grow_lighter_evenly(scale: str) -> None:
    """No rainbow: lightness (CIE L*) rises all the way, in steps that differ little."""
    rgb = colour_map(scale)(np.linspace(0, 1, 40))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = np.diff(lightness)
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.mean()


def test_categories_differ() -> None:
    colours = category_colours(28)
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2)
    np.fill_diagonal(apart, 1)
    assert apart.min() > 0.06
    assert category_colours(0).shape == (0, 3)
    np.testing.assert_array_equal(category_colours(5), colours[:5])


def test_draw_layer_takes_axes_of_anybody() -> None:
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    draw_layer(axes, layer(0.5), WHITE)
    assert axes.get_xlim()[0] < 128 < axes.get_xlim()[1]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
