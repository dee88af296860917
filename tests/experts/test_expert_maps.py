"""Maps of the experts: the planted organs are found, shares add up, top patches are ranked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import spade_bench as sb
from spade_bench.errors import ConfigError, DataError, UserError
from spade_bench.explain.experts import expertfiles
from spade_bench.explain.experts.expertfiles import write_expert_maps
from spade_bench.explain.experts.expertmaps import (
    ExpertMap,
    expert_map,
    read_expert_map,
    routing_marks,
    top_patches,
)
from spade_bench.explain.experts.expertshares import (
    expert_shares,
    plot_shares,
    shares_by,
    slide_facts,
)
from spade_bench.explain.experts.expertsheet import expert_sheet
from spade_bench.explain.experts.patchumap import CAUTION, patch_umap, plot_umap
from spade_bench.explain.layers import CATEGORY, SHARE, VALUE
from spade_bench.explain.mapfolder import Wishes
from spade_bench.features.bags import read_bag
from spade_bench.features.routinggroup import routing_of
from spade_bench.report.pictures import new_figure
from spade_bench.types import Bag

HELD_OUT = ("S12", "S13")


@pytest.fixture(scope="module")
def encoder(planted):
    return sb.load_encoder("spade", weights=planted.model, device="cpu")


@pytest.fixture(scope="module")
def encoded(planted, encoder, tmp_path_factory):
    """Encoded features with routing, and the maps of all sections."""
    out = tmp_path_factory.mktemp("encoded")
    done = sb.encode(planted.features, encoder, out=out, with_routing=True)
    return out, [read_expert_map(path) for path in done.written.values()]


def made_map(slide: str, weights: np.ndarray, distance: np.ndarray | None = None) -> ExpertMap:
    n = len(weights)
    expert = weights.argmax(axis=1)
    distance = np.ones(n) if distance is None else distance
    coords = 100 * np.stack(np.divmod(np.arange(n), 10), axis=1)
    return ExpertMap(slide, "mix", coords, 100, routing_of(weights, expert, distance, mode="soft"))


def test_the_expert_agrees_with_the_planted_organ_in_held_out_sections(planted, encoded):
    maps = {one.slide_id: one for one in encoded[1]}
    organ = np.concatenate([[planted.organ[name]] * 64 for name in HELD_OUT])
    expert = np.concatenate([maps[name].routing.expert for name in HELD_OUT])
    assert adjusted_rand_score(organ, expert) > 0.9
    rng = np.random.default_rng(0)
    by_chance = [adjusted_rand_score(organ, rng.permutation(expert)) for _ in range(50)]
    assert max(by_chance) < 0.2


def test_layers_say_what_was_stored(encoded):
    one = encoded[1][0]
    layers = {layer.key: layer for layer in one.layers()}
    expert = layers["spade.expert"]
    assert (expert.scale, expert.names) == (CATEGORY, ("expert 0", "expert 1"))
    np.testing.assert_array_equal(expert.values, one.routing.expert)
    present = np.unique(one.routing.expert)
    assert {key for key in layers if ".weight." in key} == {
        f"spade.weight.expert_{e}" for e in present
    }
    assert layers["spade.entropy"].scale == SHARE
    assert layers["spade.distance"].scale == VALUE
    assert all(len(layer.values) == len(one.coords) for layer in layers.values())


def test_entropy_is_none_for_one_expert_and_whole_for_all_alike():
    weights = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
    found = made_map("A", weights).relative_entropy()
    np.testing.assert_allclose(found, [0, 1, 0.5], atol=1e-6)


def test_a_table_of_patches_has_every_weight(encoded):
    frame = encoded[1][0].to_dataframe()
    assert {"x", "y", "expert", "distance", "entropy", "weight_0", "weight_1"} <= set(frame)
    np.testing.assert_allclose(frame[["weight_0", "weight_1"]].sum(axis=1), 1, atol=2e-3)


def test_shares_of_groups_are_means_over_cases_and_cases_pool_their_slides():
    def slide(name: str, first: int, second: int) -> ExpertMap:
        return made_map(name, np.repeat(np.eye(2), [first, second], axis=0))

    maps = [slide("a1", 10, 0), slide("a2", 0, 30), slide("b", 5, 5), slide("c", 9, 1)]
    table = pd.DataFrame(
        {
            "slide_id": ["a1", "a2", "b", "c"],
            "case_id": ["A", "A", "B", "C"],
            "site": ["X", "X", "X", "Y"],
        }
    )
    shares = expert_shares(maps)
    assert list(shares["patches"]) == [10, 30, 10, 10]
    np.testing.assert_allclose(shares[["expert 0", "expert 1"]].sum(axis=1), 1)
    facts = slide_facts(table, list(shares.index))
    by_case = shares_by(shares, facts, "case_id")
    np.testing.assert_allclose(by_case["expert 0"], [0.25, 0.5, 0.9])
    assert list(by_case["slides"]) == [2, 1, 1]
    by_site = shares_by(shares, facts, "site")
    np.testing.assert_allclose(by_site["expert 0"], [(0.25 + 0.5) / 2, 0.9])
    assert list(by_site["cases"]) == [2, 1]
    with pytest.raises(DataError, match="no column 'organ'"):
        shares_by(shares, facts, "organ")


def test_slides_that_a_table_lacks_are_named(capsys):
    table = pd.DataFrame({"slide_id": ["a"], "case_id": ["A"]})
    assert list(slide_facts(table, ["a", "z"]).index) == ["a"]
    assert "lacks 1 of 2 slides (z)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(DataError, match="has none of the 1 slides, such as 'z'"):
        slide_facts(table, ["z"])
    with pytest.raises(DataError, match="missing column slide_id"):
        slide_facts(pd.DataFrame({"case_id": ["A"]}), ["a"])


def test_top_patches_are_ranked_by_weight_then_distance_and_lie_apart():
    rng = np.random.default_rng(0)
    maps = []
    for name in ("a", "b"):
        weights = rng.dirichlet(np.ones(3), size=100)
        weights[::4] = np.eye(3)[0]  # many that one expert has alone
        maps.append(made_map(name, weights, rng.uniform(1, 2, 100)))
    found = top_patches(maps, 0, 12)
    assert [patch.rank for patch in found] == list(range(1, 13))
    keys = [(-patch.weight, patch.distance) for patch in found]
    assert keys == sorted(keys)
    first = min(
        one.routing.distance[one.routing.weight_of(0) == 1].min() for one in maps
    )  # no other patch can precede the nearest of those with all the weight
    assert found[0].distance == pytest.approx(first)
    for i, a in enumerate(found):
        for b in found[:i]:
            assert a.slide_id != b.slide_id or max(abs(a.x - b.x), abs(a.y - b.y)) >= 200
    by_slide = {one.slide_id: one for one in maps}
    for patch in found:
        one = by_slide[patch.slide_id]
        row = np.flatnonzero((one.coords == [patch.x, patch.y]).all(axis=1))
        assert one.routing.expert[row] == 0
    assert len(top_patches(maps, 0, 10_000)) < 200


@pytest.mark.slow
def test_a_umap_is_a_seeded_sample_that_says_so():
    rng = np.random.default_rng(0)
    features = {
        "a": rng.normal(size=(40, 5)), "b": rng.normal(size=(90, 5)) + 8, "c": np.empty((0, 5))
    }  # fmt: skip
    counts = {name: len(values) for name, values in features.items()}
    read = []

    def rows_of(slide: str, rows: np.ndarray) -> np.ndarray:
        read.append((slide, rows))
        return features[slide][rows]

    one, two = (patch_umap(counts, rows_of, most=60, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.points, two.points)
    assert len(one.points) == 60
    assert one.said == "60 of 130 patches, drawn at random (seed 3)"
    assert {slide for slide, _ in read} == {"a", "b"}
    assert not one.points.duplicated(["slide_id", "patch"]).any()
    assert not np.array_equal(
        one.points["patch"], patch_umap(counts, rows_of, most=60, seed=4).points["patch"]
    )
    # Two clouds that lie far apart stay two.
    place = one.points[["umap_1", "umap_2"]].to_numpy()
    first = (one.points["slide_id"] == "a").to_numpy()
    centres = place[first].mean(axis=0), place[~first].mean(axis=0)
    nearer = np.linalg.norm(place - centres[0], axis=1) < np.linalg.norm(place - centres[1], axis=1)
    assert (nearer == first).mean() > 0.95
    one.points["expert"] = one.points["slide_id"]
    figure = plot_umap(one, ["expert"], "t")
    figure.draw_without_rendering()
    words = {text.get_text().replace("\n", " "): text for text in figure.findobj(has_text)}
    below = next(text for said, text in words.items() if CAUTION in said and one.said in said)
    assert below.get_window_extent().x1 <= figure.bbox.x1


def has_text(artist) -> bool:
    return hasattr(artist, "get_text")


@pytest.mark.parametrize("groups", [1, 2, 40])
def test_titles_of_shares_are_whole_however_narrow_the_picture(groups):
    names = [f"site {i}" for i in range(groups)]
    shares = pd.DataFrame({"expert 0": 0.25, "expert 1": 0.75}, index=pd.Index(names, name="site"))
    title = "SPADE of our clinic: experts by site, mean over cases"
    figure = plot_shares(shares, title, marks=["simulated data"])
    figure.draw_without_rendering()
    assert " ".join(figure.get_suptitle().split()) == f"{title} simulated data"
    (shown,) = [text for text in figure.texts if title[:10] in text.get_text()]
    box = shown.get_window_extent()
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert box.y1 <= figure.bbox.y1


def test_too_few_patches_make_no_umap():
    with pytest.raises(DataError, match="9 patches are too few"):
        patch_umap({"a": 9}, lambda slide, rows: np.zeros((len(rows), 2)))


def table_of(planted) -> pd.DataFrame:
    names = list(planted.organ)
    return pd.DataFrame(
        {
            "slide_id": names,
            "case_id": [f"P{i}" for i in range(len(names))],
            "organ": list(planted.organ.values()),
            "site": ["X", "Y"] * (len(names) // 2),
            "label": ["a", "a", "b", "b"] * 3 + ["a", "b"],
        }
    )


def test_everything_is_written_for_base_features(planted, encoder, tmp_path):
    gene = encoder.model.genes[0]
    made = write_expert_maps(
        tmp_path / "out", planted.features, encoder=encoder, mapped=["S12"],
        table=table_of(planted), genes=[gene], wishes=Wishes(top=3), sample=100, formats=("png",),
    )  # fmt: skip
    names = {str(path.relative_to(tmp_path / "out").as_posix()) for path in made.files}
    assert names == {
        *(f"maps/S12-{what}.png" for what in ("expert", "entropy", "distance", "weights")),
        f"genes/S12-{gene}.png", "expert_shares.csv", "expert_shares.png", "top_patches.csv",
        "expert_shares_by_case.csv", "umap.csv", "umap.png",
        *(f"expert_shares_by_{column}.{kind}" for column in ("site", "organ", "label")
          for kind in ("csv", "png")),
    }  # fmt: skip
    assert all(path.stat().st_size for path in made.files)
    assert list(made.layers) == ["S12"]
    assert any("predicted" in layer.key for layer in made.layers["S12"])
    shares = pd.read_csv(tmp_path / "out" / "expert_shares.csv", index_col=0)
    assert len(shares) == len(planted.organ)
    by_organ = pd.read_csv(tmp_path / "out" / "expert_shares_by_organ.csv", index_col=0)
    # Each organ has an expert of its own.
    main = by_organ[["expert 0", "expert 1"]].idxmax(axis=1)
    assert main.nunique() == 2
    assert (by_organ[["expert 0", "expert 1"]].max(axis=1) > 0.9).all()
    points = pd.read_csv(tmp_path / "out" / "umap.csv")
    assert {"expert", "organ", "site", "umap_1", "umap_2"} <= set(points)
    assert len(points) == 100
    top = pd.read_csv(tmp_path / "out" / "top_patches.csv")
    assert list(top["expert"]) == [0, 0, 0, 1, 1, 1]


def test_encoded_features_with_routing_give_the_same_as_base_features(
    planted, encoder, encoded, tmp_path
):
    how = {"mapped": ["S12"], "sample": 50, "formats": ("png",)}
    write_expert_maps(tmp_path / "base", planted.features, encoder=encoder, **how)
    write_expert_maps(tmp_path / "encoded", encoded[0], **how)
    for name in ("expert_shares", "top_patches", "umap"):
        a, b = (pd.read_csv(tmp_path / folder / f"{name}.csv") for folder in ("base", "encoded"))
        # The last bit of a feature, which the batch decides, turns a whole UMAP.
        kept = [column for column in a if not column.startswith("umap_")]
        pd.testing.assert_frame_equal(a[kept], b[kept], check_exact=False, rtol=1e-3)


def test_bags_in_memory_are_taken(planted, encoder, tmp_path):
    bags = [
        sb.encode(read_bag(planted.features / f"{name}.h5"), encoder, with_routing=True)
        for name in HELD_OUT
    ]
    made = write_expert_maps(tmp_path, bags, sample=0, formats=("png",), mapped=["S13"])
    assert list(made.layers) == ["S13"]
    assert not any("umap" in path.name for path in made.files)


def test_what_cannot_be_mapped_is_said(planted, encoder, encoded, tmp_path):
    with pytest.raises(DataError, match="carry no routing"):
        write_expert_maps(tmp_path, planted.features)
    with pytest.raises(ConfigError, match="sends patches to no experts"):
        write_expert_maps(tmp_path, planted.features, encoder=sb.load_encoder("mean-pool"))
    with pytest.raises(UserError, match="none is given"):
        write_expert_maps(tmp_path, encoded[0], genes=["A"])
    with pytest.raises(DataError, match="no features of slide 'NOPE'"):
        write_expert_maps(tmp_path, encoded[0], mapped=["NOPE"])
    with pytest.raises(UserError, match="is not in the panel"):
        write_expert_maps(tmp_path, planted.features, encoder=encoder, genes=["NOPE"])
    assert not list(tmp_path.iterdir())  # found out before anything was written
    bag = sb.encode(read_bag(planted.features / "S12.h5"), encoder, with_routing=True)
    with pytest.raises(DataError, match="where their patches lie"):
        expert_map(replace(bag, coords=None))
    other = replace(bag, slide_id="T", routing=replace(bag.routing, n_experts=5))
    with pytest.raises(DataError, match="same weights"):
        write_expert_maps(tmp_path, [bag, other], sample=0, formats=())


def test_a_bag_without_routing_says_how_to_get_it():
    bag = Bag("A", np.zeros((1, 2), np.float32), np.zeros((1, 2), int), 10)
    with pytest.raises(DataError, match="--with-routing"):
        expert_map(bag)


def test_a_sheet_has_a_row_per_expert_and_its_title_on_one_line(write_slide, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
    slides = {"a": write_slide(tmp_path / "a.tif", pixels)}
    patches = top_patches([made_map("a", np.repeat(np.eye(2), 30, axis=0))], 0, 5)
    names = {0: "expert 0", 1: "expert 1"}
    figure = expert_sheet(patches, slides, names, "Patches of each expert", each=4)
    words = [text.get_text() for text in figure.findobj(has_text)]
    assert "Patches of each expert" in words
    assert sum(word.startswith("expert ") for word in words) == 1  # none of the other is at hand
    assert expert_sheet(patches, {}, names, "t") is None


@pytest.mark.parametrize("flag", [1, 0])
def test_pictures_of_simulated_data_say_so(planted, encoder, tmp_path, monkeypatch, flag):
    marked = []
    monkeypatch.setattr(
        expertfiles,
        "plot_shares",
        lambda shares, title, marks: marked.append(marks) or new_figure(1, 1),
    )
    table = table_of(planted).assign(simulated=flag)
    write_expert_maps(
        tmp_path, planted.features, encoder=encoder, table=table, mapped=["S12"], sample=0,
        formats=(), marks=("mine",),
    )  # fmt: skip
    assert set(marked) == {("mine", "simulated data") if flag else ("mine",)}


def test_a_picture_says_what_the_nearest_expert_does_not_show() -> None:
    def one(weights: np.ndarray, expert: list[int], mode: str) -> ExpertMap:
        routing = routing_of(weights, np.array(expert), np.zeros(len(expert)), mode=mode)
        coords = np.arange(2 * len(expert)).reshape(-1, 2) * 100
        return ExpertMap("s", "spade", coords, 100, routing)

    sharp = np.eye(3)[[0, 1, 2, 0]]
    assert routing_marks([one(sharp, [0, 1, 2, 0], "hard")]) == ()
    (said,) = routing_marks([one(np.eye(3)[[1] * 20], [1] * 20, "hard")])
    assert said == "expert 1 of 3 is the nearest for 100% of the patches"
    (said,) = routing_marks([one(sharp, [1, 2, 0, 0], "random")])
    assert said == ("random routing gives the nearest expert the largest weight for 25% of the "
                    "patches: it is not where they were sent")  # fmt: skip
    assert (
        "0% of the patches" in routing_marks([one(np.full((4, 3), 1 / 3), [0, 1, 2, 0], "mean")])[0]
    )
    assert routing_marks([one(np.ones((4, 1)), [0] * 4, "hard")]) == ()  # there is no other expert
    many = routing_of(np.eye(40)[[3, 4]], np.array([3, 5]), np.zeros(2))  # the largest eight alone
    assert many.nearest_leads() == 0.5
