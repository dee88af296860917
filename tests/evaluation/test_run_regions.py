"""Bags cut to regions: the numbers are those of files cut by hand, and nothing confuses the two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

import spade_bench as sb
from spade_bench.cli.main import app, main
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.settings import read_settings
from spade_bench.features.bags import read_bag, write_features
from spade_bench.features.identity import Identity, stored_identity
from spade_bench.features.packing import pack_features
from spade_bench.regions.regionbags import PatchRule, RegionChoice, cut_bags
from spade_bench.types import Bag

DIM, SIDE = 6, 100
RNG = np.random.default_rng(5)


def square(left: int, top: int, right: int, bottom: int, label: str = "Tumor") -> dict[str, Any]:
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": label}},
    }


class Study:
    """Twenty cases, a grid of 16 patches on each slide; the signal lies in the left half."""

    def __init__(self, folder: Path) -> None:
        self.features, self.regions = folder / "features_mine", folder / "regions"
        self.by_hand, self.table = folder / "cut" / "features_mine", folder / "table.csv"
        self.regions.mkdir()
        self.slides = [f"case{i:02d}" for i in range(20)]
        xy = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) * SIDE
        lines = ["case_id,slide_id,label"]
        for i, slide in enumerate(self.slides):
            inside = xy[:, 0] < 200
            x = RNG.normal(size=(16, DIM)).astype(np.float32)
            x[inside, 0] += 3.0 * (i % 2)
            x[~inside, 0] -= 3.0 * (i % 2)
            common: dict[str, Any] = {"slide_id": slide, "encoder": "mine"}
            attrs = {
                "patch_size_level0": SIDE, "mpp": 0.5, "level0_width": 400, "level0_height": 400,
                "patch_size": 224, "identity": Identity("mine").to_json(),
            }  # fmt: skip
            write_features(self.features / f"{slide}.h5", x, xy, **common, attrs=attrs)
            write_features(
                self.by_hand / f"{slide}.h5", x[inside], xy[inside], **common, attrs=attrs
            )
            self.outline(slide, square(0, 0, 200, 400))
            lines.append(f"{slide},{slide},{('no', 'yes')[i % 2]}")
        self.table.write_text("\n".join(lines) + "\n")

    def outline(self, slide: str, *features: dict[str, Any]) -> None:
        content = {"type": "FeatureCollection", "features": list(features)}
        (self.regions / f"{slide}.geojson").write_text(json.dumps(content))

    def run(self, out: Path, features: Path | None = None, **more: Any) -> sb.Results:
        keywords: dict[str, Any] = {"shots": (2, 4), "draws": 2, "device": "cpu", **more}
        return sb.evaluate(
            "mine", "t", table=self.table, features=features or self.features, out=out, **keywords
        )


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def metrics(rows: list[dict[str, Any]]) -> dict[Any, Any]:
    return {
        (r["encoder"], r["control"], r["k_shot"], r["draw"], r["inputs"].get("permutation")): (
            r["metrics"]
        )
        for r in rows
    }


@pytest.mark.slow
@pytest.mark.parametrize("heads", [("logistic",), ("abmil",)])
def test_a_run_inside_regions_is_a_run_on_files_cut_by_hand(
    study: Study, tmp_path: Path, heads: tuple[str, ...]
) -> None:
    more: dict[str, Any] = {"heads": heads, "permutations": 1}
    more |= {"set": {"abmil": {"epochs": 3}}} if heads == ("abmil",) else {}
    study.run(tmp_path / "a", regions=study.regions, **more)
    study.run(tmp_path / "b", study.by_hand, **more)
    inside, by_hand = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert metrics(inside) == metrics(by_hand)
    assert all(row["status"] == "ok" for row in inside)
    assert {row["inputs"]["features"] for row in inside} == {
        row["inputs"]["features"] for row in by_hand
    }
    assert not {row["run_id"] for row in inside} & {row["run_id"] for row in by_hand}


def test_rows_say_that_bags_were_cut_and_are_never_taken_for_whole_slides(
    study: Study, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    study.run(out, shots=(2,), draws=1, controls=False)
    study.run(out, shots=(2,), draws=1, controls=False, regions=study.regions)
    whole, inside = rows_of(out)
    assert "regions" in inside["flags"]
    assert "regions" not in whole["flags"]
    assert "regions" not in whole["inputs"]
    assert whole["identity"] == Identity("mine").digest != inside["identity"]
    assert whole["run_id"] != inside["run_id"]
    assert inside["env"]["regions"] == "patches whose centre lies in a region"
    # The same again runs nothing; another outline of one slide runs everything.
    study.run(out, shots=(2,), draws=1, controls=False, regions=study.regions)
    assert len(rows_of(out)) == 2
    study.outline(study.slides[3], square(0, 0, 200, 390))
    study.run(out, shots=(2,), draws=1, controls=False, regions=study.regions)
    assert len(rows_of(out)) == 3
    assert rows_of(out)[2]["inputs"]["regions"] != inside["inputs"]["regions"]
    said = sb.load_results(out).leaderboard()
    assert len(said) == 3


def test_every_control_stands_on_the_same_patches(study: Study, tmp_path: Path) -> None:
    study.run(tmp_path / "runs", shots=(2,), draws=1, regions=study.regions)
    rows = rows_of(tmp_path / "runs")
    assert len({row["control"] for row in rows}) > 1
    assert len({row["inputs"]["features"] for row in rows}) == 1
    assert all("regions" in row["flags"] for row in rows)


def test_names_and_shares_choose_patches(study: Study, tmp_path: Path) -> None:
    for slide in study.slides:
        study.outline(slide, square(0, 0, 240, 400), square(0, 0, 400, 100, "Fat"))
    files = {slide: study.features / f"{slide}.h5" for slide in study.slides}

    def n_patches(**rule: Any) -> int:
        choice = RegionChoice(study.regions, PatchRule(**rule))
        folder = tmp_path / f"cut-{len(list(tmp_path.iterdir()))}"
        cut = cut_bags(files, study.slides[:1], choice, folder, label="mine")
        return len(read_bag(cut.files[study.slides[0]]).features)

    assert n_patches(names=("Tumor",)) == 8
    assert n_patches(names=("fat",)) == 4
    assert n_patches() == 8 + 2
    assert n_patches(names=("Tumor",), share=0.4) == 12
    assert n_patches(names=("Tumor",), share=0.41) == 8


def test_cut_files_keep_what_their_source_says_and_more(study: Study, tmp_path: Path) -> None:
    slide = study.slides[0]
    source = study.features / f"{slide}.h5"
    choice = RegionChoice(study.regions)
    cut = cut_bags({slide: source}, [slide], choice, tmp_path / "cut", label="mine").files[slide]
    whole, part = read_bag(source), read_bag(cut)
    assert part.coords is not None
    assert whole.coords is not None
    keep = whole.coords[:, 0] < 200
    assert np.array_equal(part.features, whole.features[keep])
    assert np.array_equal(part.coords, whole.coords[keep])
    assert (part.mpp, part.patch_size_level0, part.size) == (0.5, SIDE, (400, 400))
    with h5py.File(cut) as file:
        assert file["coords"].attrs["patch_size"] == 224
    of_whole, of_part = stored_identity(source), stored_identity(cut)
    assert of_whole is not None
    assert of_part is not None
    assert of_part.regions
    assert replace(of_part, regions="") == of_whole
    assert of_part.digest != of_whole.digest
    assert of_part.differences(of_whole)
    # Left alone while neither features nor regions change, made again when one does.
    before = cut.stat().st_mtime_ns
    again = RegionChoice(study.regions)
    cut_bags({slide: source}, [slide], again, tmp_path / "cut", label="mine")
    assert cut.stat().st_mtime_ns == before
    study.outline(slide, square(0, 0, 100, 400))
    changed = RegionChoice(study.regions)
    cut_bags({slide: source}, [slide], changed, tmp_path / "cut", label="mine")
    assert len(read_bag(cut).features) == 4


def test_a_pack_is_cut_as_its_files_are(study: Study, tmp_path: Path) -> None:
    pack = pack_features(study.features, tmp_path / "mine.pack", dtype="float32").path
    more: dict[str, Any] = {"shots": (2,), "draws": 1, "controls": False}
    study.run(tmp_path / "a", regions=study.regions, **more)
    study.run(tmp_path / "b", pack, regions=study.regions, **more)
    assert metrics(rows_of(tmp_path / "a")) == metrics(rows_of(tmp_path / "b"))


def test_slides_without_regions_or_patches_are_named_or_left_out(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study.regions / f"{study.slides[0]}.geojson").unlink()
    with pytest.raises(DataError, match=r"1 slide\(s\) have no region file \(case00\)") as caught:
        study.run(tmp_path / "a", regions=study.regions)
    assert "allow_missing=True" in str(caught.value)
    study.outline(study.slides[0], square(0, 0, 30, 30))
    with pytest.raises(DataError, match=r"1 slide\(s\) have no patch inside a region \(case00\)"):
        study.run(tmp_path / "a", regions=study.regions)
    (study.regions / f"{study.slides[1]}.geojson").unlink()
    more: dict[str, Any] = {"shots": (2,), "draws": 1, "controls": False}
    study.run(tmp_path / "a", regions=study.regions, allow_missing=True, **more)
    said = capsys.readouterr().err.replace("\n", " ")
    assert "no region file (case01)" in said
    assert "no patch inside a region (case00)" in said
    (row,) = rows_of(tmp_path / "a")
    assert {"missing-slides", "regions"} <= set(row["flags"])
    assert row["env"]["cohort"].startswith("18 cases")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        (json.dumps(square(0, 0, 500, 400)), r"outside the slide \(400 x 400 px\)"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "no region"),
    ],
)
def test_an_unsound_region_file_stops_the_run(
    study: Study, tmp_path: Path, content: str, said: str
) -> None:
    file = study.regions / f"{study.slides[2]}.geojson"
    file.write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        study.run(tmp_path / "a", regions=study.regions, allow_missing=True)
    assert str(file) in str(caught.value)


def test_features_without_positions_cannot_be_cut(study: Study, tmp_path: Path) -> None:
    bags = [Bag(s, RNG.normal(size=(3, DIM)), encoder="mine") for s in study.slides]
    with pytest.raises(DataError, match="do not say where their patches lie"):
        sb.evaluate("mine", "t", table=study.table, features=bags, out=tmp_path / "a",
                    regions=study.regions)  # fmt: skip


def test_options_of_regions_need_regions(study: Study, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="region_name= chooses among regions"):
        study.run(tmp_path / "a", region_name=("Tumor",))
    with pytest.raises(UserError, match="share of a patch that must lie inside is 2"):
        study.run(tmp_path / "a", regions=study.regions, region_share=2.0)
    with pytest.raises(DataError, match="no such folder or file of regions"):
        study.run(tmp_path / "a", regions=tmp_path / "none")


def test_a_sweep_names_regions_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("regions: mine\nregion_names: Tumor\n")
    settings = read_settings(tmp_path / "sweep.yaml")
    assert (settings.regions, settings.region_names) == (tmp_path / "mine", ("Tumor",))


def test_offsets_of_a_scan_are_added_to_regions(study: Study, tmp_path: Path) -> None:
    slide = study.slides[0]
    for pack in (False, True):
        whole = read_bag(study.features / f"{slide}.h5")
        assert whole.coords is not None
        moved = tmp_path / f"moved-{pack}" / f"{slide}.h5"
        write_features(moved, whole.features, whole.coords + np.array([1000, 500]), slide_id=slide,
                       encoder="mine", attrs={"patch_size_level0": SIDE, "bounds_x": 1000,
                                              "bounds_y": 500})  # fmt: skip
        source = moved
        if pack:
            name = tmp_path / "m.pack"
            source = pack_features(moved.parent, name, dtype="float32").path / f"{slide}.bag"
        choice = RegionChoice(study.regions)
        cut = cut_bags({slide: source}, [slide], choice, tmp_path / f"c{pack}", label="mine")
        part = read_bag(cut.files[slide])
        assert part.coords is not None
        assert len(part.coords) == 8
        assert part.coords[:, 0].max() == 1100
        assert part.offset == (1000, 500)


def test_a_model_of_regions_predicts_inside_regions_only(study: Study, tmp_path: Path) -> None:
    common: dict[str, Any] = {"table": study.table, "head": "logistic", "device": "cpu"}
    model = sb.fit("mine", "t", features=study.features, regions=study.regions, **common)
    by_hand = sb.fit("mine", "t", features=study.by_hand, **common)
    assert model.info.regions == PatchRule()
    assert "regions" in model.info.flags
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model")
    frame = loaded.predict(study.features, regions=study.regions)
    expected = by_hand.predict(study.by_hand)
    assert frame["probability_yes"].tolist() == expected["probability_yes"].tolist()
    bags = [read_bag(study.features / f"{slide}.h5") for slide in study.slides[:2]]
    in_memory = loaded.predict(bags, regions=study.regions)
    assert in_memory["probability_yes"].tolist() == frame["probability_yes"].tolist()[:2]
    with pytest.raises(UserError, match="fitted on patches whose centre lies in a region, not"):
        loaded.predict(study.features)
    with pytest.raises(UserError, match="fitted on whole slides"):
        by_hand.predict(study.by_hand, regions=study.regions)
    (study.regions / f"{study.slides[0]}.geojson").unlink()
    with pytest.raises(DataError, match="no region file"):
        loaded.predict(study.features, regions=study.regions)
    one = {"c": [study.slides[1]]}
    assert len(loaded.predict(study.features, cases=one, regions=study.regions)) == 1


@pytest.mark.slow
def test_maps_of_a_run_and_of_a_model_hold_the_patches_inside(study: Study, tmp_path: Path) -> None:
    common: dict[str, Any] = {"protocol": "cv", "folds": 2, "controls": False, "shots": None}
    common |= {"draws": None, "heads": ("abmil",), "keep_heads": "all"}
    common |= {"set": {"abmil": {"epochs": 3}}}
    out = tmp_path / "runs"
    study.run(out, **common)  # a run on whole slides in the same folder is another one
    study.run(out, regions=study.regions, **common)
    study.run(tmp_path / "hand", study.by_hand, **common)
    only = tmp_path / "only"
    study.run(only, regions=study.regions, **common)
    inside, by_hand = sb.explain(only), sb.explain(tmp_path / "hand")
    assert len(inside) == len(by_hand) == 20
    for one, other in zip(inside, by_hand, strict=True):
        assert np.array_equal(one.coords, other.coords)
        assert np.array_equal(one.contribution, other.contribution)
        assert len(one.coords) == 8
    with pytest.raises(UserError, match="made on whole slides, not inside regions"):
        sb.explain(tmp_path / "hand", inside=study.regions)
    fit: dict[str, Any] = {"table": study.table, "head": "abmil", "device": "cpu"}
    fit |= {"set": {"abmil": {"epochs": 3}}}
    model = sb.fit("mine", "t", features=study.features, regions=study.regions, **fit)
    where: dict[str, Any] = {"slide_id": study.slides[0], "features": study.features}
    shown = sb.explain(model, inside=study.regions, **where)
    assert len(shown.coords) == 8
    with pytest.raises(UserError, match="lies in a region, not on whole slides"):
        sb.explain(model, **where)
    with pytest.raises(UserError, match="not on whole slides"):
        model.attention(study.features, study.slides[0])
    weights = model.attention(study.features, study.slides[0], regions=study.regions)
    assert weights.shape == (8,)
    assert np.allclose(weights, shown.attention)


def test_commands_take_regions(study: Study, tmp_path: Path) -> None:
    base = ["--encoder", "mine", "--task", "t", "--table", str(study.table)]
    base += ["--features", str(study.features), "--regions", str(study.regions)]
    base += ["--region-name", "Tumor", "--region-share", "0.9", "--device", "cpu"]
    run = ["run", *base, "--shots", "2", "--draws", "1", "--no-controls"]
    done = CliRunner().invoke(app, [*run, "--out", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    (row,) = rows_of(tmp_path / "runs")
    assert row["env"]["regions"] == "patches of which 90% or more lie in a region called Tumor"
    model = str(tmp_path / "model")
    done = CliRunner().invoke(app, ["fit", *base, "--head", "logistic", "--out", model])
    assert done.exit_code == 0, done.output
    scores = tmp_path / "scores.csv"
    predict = ["predict", model, "--features", str(study.features), "--out", str(scores)]
    done = CliRunner().invoke(app, [*predict, "--regions", str(study.regions)])
    assert done.exit_code == 0, done.output
    assert len(scores.read_text().splitlines()) == 21
    with pytest.raises(SystemExit) as stopped:
        main(predict)
    assert stopped.value.code == 2


def test_a_report_keeps_rows_inside_regions_apart_and_explains_the_flag(
    study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "runs"
    more: dict[str, Any] = {"shots": (2,), "draws": 1, "controls": False}
    study.run(out, **more)
    study.run(out, regions=study.regions, **more)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(out)])
    assert not stopped.value.code
    text = capsys.readouterr()
    said = " ".join((text.out + text.err).split())
    assert "bags hold the patches inside the regions that were outlined" in said
    assert "whole slides" in said
