"""What cannot be mapped is refused in one line that says what, where and how, before the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from command_line import request_of, run_main
from viewed_slides import SIDE, coloured_slide, patch_places

import spade_bench as sb
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation import run
from spade_bench.evaluation.keptheads import kept_head
from spade_bench.evaluation.modelfitting import fit_model
from spade_bench.explain import keptmodels
from spade_bench.explain.casemaps import Model, Subject, case_bag, case_maps
from spade_bench.explain.earlierfiles import clear_viewer
from spade_bench.explain.keptmodels import Wanted, choose_models
from spade_bench.explain.mapfolder import write_maps
from spade_bench.explain.outlined import givenregions
from spade_bench.explain.slidemap import SlideMap
from spade_bench.explain.wishes import Wishes
from spade_bench.features.casebags import CaseBags
from spade_bench.heads import Fit, FittedHead, HeadOptions
from spade_bench.regions.regionfiles import read_regions, write_geojson
from spade_bench.registry import heads
from spade_bench.results import ResultStore
from spade_bench.types import Bag
from tests.helpers.stored_cells import part_of

QUICK = {"abmil": {"epochs": 1, "min_steps": 20, "hidden": 16, "attention": 8, "lr": 5e-3}}


@pytest.fixture(scope="module")
def linear() -> FittedHead:
    rows = [np.random.default_rng(i).normal(size=(5, 4)).astype(np.float32) for i in range(6)]
    bags = CaseBags(rows.__getitem__, 6, 4)
    job = Fit(np.arange(6), np.arange(6) % 2, np.arange(1))
    (head,) = heads.get("logistic").load(HeadOptions()).fit(bags, [job], 2)
    return head


def a_bag(n: int = 4, **changes: object) -> Bag:
    rng = np.random.default_rng(0)
    coords = np.stack([np.arange(n) * 100, np.zeros(n, dtype=np.int64)], axis=1)
    values = {"coords": coords, "patch_size_level0": 100, "size": (640, 480)}
    return Bag("s", rng.normal(size=(n, 4)).astype(np.float32), **{**values, **changes})  # type: ignore[arg-type]


def mapped(head: FittedHead, bag: Bag, slide: Path | None = None) -> SlideMap:
    given = case_bag("c", ["s"], lambda _: bag, bag.features)
    slides = {} if slide is None else {"s": slide}
    (one,) = case_maps(given, [Model("m", head)], Subject("mine", "logistic", "t"), slides=slides)
    return one


@pytest.mark.parametrize(
    ("move", "words"),
    [
        (lambda coords: coords * 0, "3 of 4 patches lie where another one does"),
        (lambda coords: coords + 2**40, "4 of 4 patches lie outside the 640 x 480 px"),
    ],
)
def test_places_that_cannot_be_are_refused(
    linear: FittedHead, move: Callable[[np.ndarray], np.ndarray], words: str
) -> None:
    bag = a_bag()
    assert bag.coords is not None
    with pytest.raises(DataError, match=words):
        mapped(linear, replace(bag, coords=move(bag.coords)))


def test_a_refused_call_costs_no_earlier_map(linear: FittedHead, tmp_path: Path) -> None:
    shown, out = mapped(linear, a_bag()), tmp_path / "maps"
    write_maps([shown], out, Wishes(top=0))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    regions = tmp_path / "regions"
    regions.mkdir()
    (regions / "other.geojson").write_text("{")
    for wishes in (Wishes(top=0, viewer=True), Wishes(top=0, regions=regions)):
        with pytest.raises((DataError, UserError)):
            write_maps([shown], out, wishes)
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_regions_of_other_slides_cost_no_earlier_map(others, tmp_path, capsys) -> None:
    """They are refused once it is known which slides will be mapped: of a model and of a run."""
    regions, runs = tmp_path / "regions", tmp_path / "runs"
    regions.mkdir()
    ring = shapely.geometry.mapping(shapely.box(0, 0, 300, 300))
    write_geojson(regions / "stranger.geojson", [{"type": "Feature", "geometry": ring}])
    few = request_of(others, tmp_path / "unused", heads=("logistic",))
    fit_model(few).save(tmp_path / "model")
    run(request_of(others, runs, heads=("logistic",), protocol="cv", folds=2, controls=False))
    of_model = [tmp_path / "model", "--features", others.features, "--trained-too"]
    for name, call in {"model": of_model, "run": [runs]}.items():
        out = tmp_path / f"maps of {name}"
        what = ["explain", *call, "--out", out, "--no-pictures", "--top", "0"]
        assert run_main(*what) == 0
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        capsys.readouterr()
        assert run_main(*what, "--regions", regions) == 2
        said = "".join(capsys.readouterr().err.split())
        assert f"{regions}:holdsnoregionofaslidethatistobemapped" in said
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_region_files_are_read_once(
    linear: FittedHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = shapely.geometry.mapping(shapely.box(0, 0, 300, 300))
    feature = {"type": "Feature", "geometry": ring, "properties": {"name": "edge"}}
    write_geojson(tmp_path / "s.geojson", [feature])
    read = []
    monkeypatch.setattr(
        givenregions, "read_regions",
        lambda path, **given: (read.append(path), read_regions(path, **given))[1],
    )  # fmt: skip
    wishes = Wishes(top=0, regions=tmp_path, region_names=("edge",))
    written = write_maps([mapped(linear, a_bag())], tmp_path / "maps", wishes)
    assert read == [tmp_path / "s.geojson"]
    assert written.regions is not None
    assert [one.inside for one in written.regions.slides] == [3]


def test_regions_beside_all_patches_are_said_to_be_such(linear: FittedHead, tmp_path: Path) -> None:
    ring = shapely.geometry.mapping(shapely.box(500, 300, 600, 400))
    write_geojson(tmp_path / "s.geojson", [{"type": "Feature", "geometry": ring}])
    with pytest.raises(DataError, match="none holds the centre of a patch"):
        write_maps([mapped(linear, a_bag())], tmp_path / "maps", Wishes(top=0, regions=tmp_path))


def test_another_slide_under_the_same_name_is_refused(
    linear: FittedHead, tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    white = np.full((480, 640, 3), 255, dtype=np.uint8)
    same = write_slide(tmp_path / "a" / "s.tif", white)
    other = write_slide(tmp_path / "b" / "s.tif", white[:, :600])
    assert mapped(linear, a_bag(), same).size == (640, 480)
    said = r"s\.tif: is 600 x 480 px, but the features of 's' were cut from a slide of 640 x 480 px"
    with pytest.raises(DataError, match=said):
        mapped(linear, a_bag(), other)
    unsized = a_bag(size=None)
    assert mapped(linear, unsized, other).size == (600, 480)
    far = a_bag(size=None, coords=unsized.coords + np.array([0, 4800]))
    with pytest.raises(DataError, match=r"s\.tif: 4 of 4 patches of 's' lie outside the slide of"):
        mapped(linear, far, other)


def test_patches_that_are_none_or_not_finite_are_refused(linear: FittedHead) -> None:
    with pytest.raises(DataError, match=r"s: has no patch that could be mapped\. Leave"):
        mapped(linear, a_bag(0))
    bad = a_bag()
    bad.features[2, 1] = np.nan
    with pytest.raises(DataError, match="s: 1 of 4 patches have features that are not finite"):
        mapped(linear, bad)


def a_map(slide: Path, slide_id: str = "case-1-A", **changes: object) -> SlideMap:
    rng = np.random.default_rng(0)
    coords = patch_places(6, 8)
    n = len(coords)
    values = {"classes": ("sd", "no"), "predicted": (0.25, 0.75), "slide": slide,
              "attention": rng.dirichlet(np.ones(n)), "contribution": rng.normal(size=(n, 2)),
              "sd": rng.uniform(size=n), "models": 2}  # fmt: skip
    return SlideMap(slide_id, "case-1", "uni", "abmil", "braf", coords=coords, side=SIDE,
                    **{**values, **changes})  # type: ignore[arg-type] # fmt: skip


@pytest.fixture
def slide(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "case-1-A.tif", coloured_slide())


def test_options_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    def never():
        raise AssertionError("computed")
        yield

    (tmp_path / "s.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [
        [[0, 0], [9, 0], [9, 9], [0, 0]]]}))  # fmt: skip
    for wishes, said in [
        (Wishes(viewer=True, viewer_px=0), "--viewer-px is 0. Give at least 512"),
        (Wishes(viewer=True, viewer_px=1), "--viewer-px is 1"),
        (Wishes(viewer=True, blind=True), "--viewer: .*--blind"),
        (Wishes(region_names=("a",)), "--region-name: chooses among regions, and none"),
        (Wishes(gzip=True), "--gzip: compresses files for QuPath"),
        (Wishes(regions=tmp_path / "s.geojson", region_names=("a",)), "--region-name: no region"),
    ]:
        with pytest.raises(UserError, match=said):
            write_maps(never(), tmp_path / "out", wishes)
    with pytest.raises(UserError, match="--viewer: the viewer needs the slides"):
        Wishes(viewer=True).check(slides=False, patches=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{"maps": None}, {"maps": ["a"]}, {"maps": [{"files": None}]},
                                    {"sheets": "a"}])  # fmt: skip
def test_a_damaged_listing_is_named(change: dict, slide: Path, tmp_path: Path) -> None:
    wishes = Wishes(top=0, pictures=False)
    write_maps([a_map(slide)], tmp_path / "out", wishes)
    listing = tmp_path / "out" / "explain.json"
    content = json.loads(listing.read_text())
    listing.write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError, match=r"explain\.json: was damaged or edited"):
        write_maps([a_map(slide)], tmp_path / "out", wishes)
    assert list((tmp_path / "out" / "maps").glob("*.h5"))


def test_no_picture_takes_the_name_of_another(
    slide: Path, tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    """A class may be called `sd`, and a slide as another one with its class."""
    other = write_slide(tmp_path / "case-1-A-no.tif", coloured_slide())
    maps = [a_map(slide), a_map(other, "case-1-A-no")]
    written = write_maps(maps, tmp_path / "out", Wishes(top=0))
    files = [name for one in written.maps for name in one["files"].values()]
    assert len(files) == len(set(files)) == 2 * 5
    assert all((tmp_path / "out" / name).is_file() for name in files)
    keys = [layer.key for layer in maps[0].layers()]
    titles = [layer.title for layer in maps[0].layers()]
    assert len(set(keys)) == len(set(titles)) == 4
    flat = [layer.title for layer in replace(maps[0], attention=None).layers()]
    assert len(set(flat)) == 4
    assert all("(ABMIL)" in title for title in (*titles, *flat))


def test_a_picture_says_case_task_prediction_and_truth(slide: Path) -> None:
    shown = a_map(slide, about={"truth": "sd"})
    assert shown.subtitle == "Case case-1; braf; predicted no 0.75; truth: sd"
    said = " ".join(text.get_text() for text in shown.plot().texts)
    assert shown.subtitle in said.replace("\n", " ")
    risk = a_map(slide, classes=("risk",), predicted=(-2.5,), contribution=np.ones((48, 1)))
    assert risk.subtitle == "Case case-1; braf; predicted risk -2.5"
    assert risk.layers()[1].title.startswith("UNI: contribution to the risk")


def test_a_png_is_a_fraction_of_all_its_shades_and_looks_the_same(tmp_path: Path) -> None:
    from PIL import Image

    from spade_bench.explain.overlay import Background, overlay_figure, save_figure, save_map

    rng = np.random.default_rng(0)
    grain = rng.integers(120, 200, (480, 640, 3), dtype=np.uint8)
    layer = a_map(tmp_path / "none.tif").layers()[0]
    figure = overlay_figure(layer, Background(grain, 1300, 900), "s")
    small = save_map(figure, tmp_path / "small.png")
    whole = save_figure(figure, tmp_path / "whole.png", dpi=220)
    assert small.stat().st_size < 0.75 * whole.stat().st_size
    with Image.open(small) as a, Image.open(whole) as b:
        one, other = (np.asarray(image.convert("RGB")).astype(int) for image in (a, b))
    assert np.abs(one - other).max() <= 2
    assert (one[other == 255] == 255).all()


def test_the_viewer_holds_one_slide_at_a_time_and_takes_any_name(
    tmp_path: Path, write_slide: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    from spade_bench.explain import mapfolder

    read, alive = [], []

    def counted(path, slide=None, patches=None):
        gc.collect()
        alive.append(sum(one() is not None for one in read))
        made = original(path, slide, patches)
        read.append(weakref.ref(made))
        return made

    original = mapfolder.read_map
    monkeypatch.setattr(mapfolder, "read_map", counted)
    names = ["X", "X.html", "Y", "Z"]
    files = [write_slide(tmp_path / f"{name}.tif", coloured_slide()) for name in names]
    maps = [a_map(file, name) for name, file in zip(names, files, strict=True)]
    wishes = Wishes(top=2, pictures=False, viewer=True, viewer_px=512)
    for _ in range(2):  # also over what an earlier call left
        write_maps(maps, tmp_path / "out", wishes)
    pages = tmp_path / "out" / "viewer" / "slides"
    for name in names:
        text = (pages / f"{name}.html").read_text()
        assert f"<title>{name}</title>" in text
        folder = text.split('src="')[-1].split("/layers")[0]
        assert (pages / folder / "slide.js").is_file()
    assert max(alive) <= 1


def test_heads_beyond_the_room_are_read_again(planted, tmp_path, monkeypatch, capsys) -> None:
    """One run: what is kept, bounded and lost."""
    out = tmp_path / "cv"
    run(request_of(planted, out, protocol="cv", folds=3, heads=("abmil",), set=QUICK,
                   controls=False))  # fmt: skip
    loads = []
    load = FittedHead.load
    monkeypatch.setattr(
        FittedHead, "load", staticmethod(lambda f, d="cpu": (loads.append(f), load(f, d))[1])
    )
    whole = sb.explain(out)
    assert len(loads) == 3
    monkeypatch.setattr(keptmodels, "_HELD_BYTES", 0)
    again = sb.explain(out)
    assert len(loads) == 3 + len(planted.cases)
    for one, other in zip(whole, again, strict=True):
        assert np.array_equal(one.attention, other.attention)
        assert one.about["truth"] in {"normal", "tumor"}
    with pytest.raises(UserError, match=r"features=: no encoder here is called 'zzz'"):
        sb.explain(out, features={"zzz": planted.features})
    with pytest.raises(UserError, match=r"against=: no head of encoder 'nope' was kept"):
        sb.explain(out, against="nope")

    first, second, _ = sorted((out / "heads").iterdir())
    (second / "head.safetensors").rename(tmp_path / "t")
    with pytest.raises(DataError, match=r"head\.safetensors: no such file. Remove .* keep_heads"):
        sb.explain(out)
    (tmp_path / "t").rename(second / "head.safetensors")
    (second / "cell.json").rename(tmp_path / "t")
    with pytest.raises(DataError, match=r"cell\.json: no such file. Remove .* keep_heads"):
        sb.explain(out)
    (tmp_path / "t").rename(second / "cell.json")
    shutil.rmtree(first)
    capsys.readouterr()
    fewer = sb.explain(out)
    assert len(fewer) < len(whole)
    said = " ".join(capsys.readouterr().err.split())
    assert f"1 of 3 fitted heads are not in {out / 'heads'}: {first.name}" in said.replace(
        "  ", " "
    )
    assert "--keep-heads all brings them back" in said
    row = next(row for row in ResultStore(out).rows() if row.run_id == second.name)
    part_of(out, row).unlink()
    with pytest.raises(DataError, match=r"no predictions for a finished row\. Repeat"):
        sb.explain(out)
    assert kept_head(out, row.run_id) == second
    assert choose_models([out], Wanted()).models


def test_a_run_refuses_features_of_nobody(planted, tmp_path, capsys) -> None:
    arguments = ["run", "--encoder", "mine", "--task", "t", "--table", planted.table, "--out",
                 tmp_path / "o", "--features", f"zzz={planted.features}", "--features",
                 planted.features]  # fmt: skip
    assert run_main(*arguments) == 2
    assert "--features: no encoder here is called 'zzz'" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        (Wishes(blind=True, top=0), "--blind: .* --top 0 asks for none"),
        (Wishes(blind=True), "--blind: makes contact sheets, which show slides"),
    ],
)
def test_blind_sheets_that_would_not_be_are_refused(wishes: Wishes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        wishes.check(slides=False, patches=False)


@pytest.mark.parametrize("tiles_stay", [True, False])
def test_a_viewer_is_cleared_of_its_own_files_alone(tmp_path: Path, tiles_stay: bool) -> None:
    viewer, slide = tmp_path / "viewer", tmp_path / "viewer" / "slides" / "s"
    (slide / "tiles").mkdir(parents=True)
    (viewer / "assets").mkdir()
    for path in (viewer / "index.html", viewer / "slides" / "s.html", slide / "slide.js",
                 viewer / "notes.txt"):  # fmt: skip
        path.write_text("")
    clear_viewer(viewer, tiles_stay=tiles_stay)
    assert (viewer / "notes.txt").is_file()
    assert not (viewer / "index.html").exists()
    assert (slide / "tiles").exists() is tiles_stay
    (viewer / "notes.txt").unlink()
    clear_viewer(viewer, tiles_stay=False)
    assert not viewer.exists()


def test_a_byte_order_mark_and_damaged_lines_of_results(others, tmp_path, capsys) -> None:
    out = tmp_path / "runs"
    run(request_of(others, out, heads=("logistic",), protocol="cv", folds=2, controls=False))
    path = out / "results.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"{}\n")
    capsys.readouterr()
    assert choose_models([out], Wanted()).models
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "results.jsonl" in line]
    assert said.startswith("warning: ")
