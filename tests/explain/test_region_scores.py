"""Maps held against regions: known answers, and numbers that others compute alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
from sklearn.metrics import roc_auc_score

from spade_bench.errors import DataError
from spade_bench.explain.regionscores import METRICS, score_slide, score_slides
from spade_bench.explain.slidemap import SlideMap
from spade_bench.regions.outlines import Region, SlideRegions

GRID = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * 100
INSIDE = (GRID < 400).all(axis=1)


def square(slide_id: str = "s") -> SlideRegions:
    return SlideRegions(slide_id, (Region(shapely.box(0, 0, 400, 400), label="Tumor"),))


def slide_map(attention: Any, slide_id: str = "s", **more: Any) -> SlideMap:
    values = None if attention is None else np.asarray(attention, dtype=float)
    if values is not None:
        values = values / values.sum()
    n = len(GRID)
    made: dict[str, Any] = {
        "case_id": slide_id, "encoder": "uni", "head": "abmil", "task": "t",
        "classes": ("no", "yes"), "contribution": np.zeros((n, 2)),
    }  # fmt: skip
    return SlideMap(slide_id=slide_id, coords=GRID, side=100, attention=values, **(made | more))


def test_uniform_attention_is_blind() -> None:
    score = score_slide(slide_map(np.ones(100)), square())
    assert (score.patches, score.inside, score.area_share) == (100, 16, 0.16)
    assert score.attention_share == pytest.approx(0.16)
    assert score.ratio == pytest.approx(1.0)
    assert score.auroc == 0.5
    assert score.region == "Tumor"


def test_attention_inside_alone_is_perfect_and_outside_alone_is_the_opposite() -> None:
    best = score_slide(slide_map(INSIDE), square())
    assert (best.attention_share, best.auroc) == (pytest.approx(1.0), 1.0)
    assert best.ratio == pytest.approx(100 / 16)
    worst = score_slide(slide_map(~INSIDE), square())
    assert (worst.attention_share, worst.ratio, worst.auroc) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_that_of_sklearn_with_ties(seed: int) -> None:
    values = np.random.default_rng(seed).integers(1, 6, size=100)
    score = score_slide(slide_map(values), square())
    assert score.auroc == pytest.approx(roc_auc_score(INSIDE, values), abs=1e-12)
    assert score.attention_share == pytest.approx(values[INSIDE].sum() / values.sum())


def test_heads_without_attention_are_ranked_by_contribution() -> None:
    rng = np.random.default_rng(0)
    contribution = rng.normal(size=(100, 2))
    score = score_slide(slide_map(None, contribution=contribution), square())
    assert score.shown == "towards yes"
    assert (score.attention_share, score.ratio) == (None, None)
    assert score.auroc == pytest.approx(roc_auc_score(INSIDE, contribution[:, 1]))


def test_contributions_are_scored_beside_attention() -> None:
    rng = np.random.default_rng(0)
    contribution = rng.normal(size=(100, 2))
    score = score_slide(slide_map(~INSIDE, contribution=contribution), square())
    assert (score.auroc, score.towards) == (0.0, "yes")
    expected = roc_auc_score(INSIDE, contribution[:, 1])
    assert score.contribution_auroc == pytest.approx(expected)


def test_a_region_without_or_with_every_patch_has_no_auroc() -> None:
    for box, inside in ((shapely.box(0, 0, 10, 10), 0), (shapely.box(0, 0, 1000, 1000), 100)):
        score = score_slide(slide_map(np.ones(100)), SlideRegions("s", (Region(box),)))
        assert (score.inside, score.auroc) == (inside, None)
        assert score.ratio == (None if not inside else pytest.approx(1.0))


def test_shares_of_area_choose_patches_too() -> None:
    half = SlideRegions("s", (Region(shapely.box(0, 0, 450, 1000)),))
    assert score_slide(slide_map(np.ones(100)), half, share=0.5).inside == 50
    assert score_slide(slide_map(np.ones(100)), half, share=0.6).inside == 40


def test_regions_of_another_slide_are_refused() -> None:
    with pytest.raises(DataError, match="regions are of 'x', not of 's'"):
        score_slide(slide_map(np.ones(100)), square("x"))


def several(gain: float, n: int = 12) -> list[SlideMap]:
    """Maps of n cases, the first with two slides; SPADE attends `gain` times as much inside."""
    rng = np.random.default_rng(1)
    maps = []
    for i in range(n + 1):
        slide, case = f"s{i}", f"c{max(i - 1, 0)}"
        base = rng.gamma(2.0, size=100)
        spade = base * np.where(INSIDE, gain, 1.0)
        maps += [
            slide_map(base, slide, case_id=case),
            slide_map(spade, slide, case_id=case, encoder="spade"),
        ]
    return maps


def test_differences_are_paired_over_slides_and_resample_cases() -> None:
    scores = score_slides(several(3.0), {f"s{i}": square(f"s{i}") for i in range(13)})
    of = {d.metric: d for d in scores.differences("spade", "uni")}
    assert set(of) == set(METRICS)
    table = pd.DataFrame([vars(s) for s in scores.slides])
    assert of.pop("contribution_auroc").mean == 0.0  # of contributions that are all zero
    for metric, found in of.items():
        wide = table.pivot(index=["case_id", "slide_id"], columns="encoder", values=metric)
        by_case = (wide["spade"] - wide["uni"]).groupby("case_id").mean()
        assert found.mean == pytest.approx(by_case.mean())
        assert (found.slides, found.cases) == (13, 12)
        assert found.low is not None
        assert found.high is not None
        assert 0 < found.low < found.mean < found.high
        # An interval of a mean over cases: near that of the t distribution.
        margin = 2.2 * by_case.std() / np.sqrt(12)
        assert found.high - found.low == pytest.approx(2 * margin, rel=0.25)
        assert found.p is not None
        assert found.p < 0.01
    back = {d.metric: d for d in scores.differences("uni", "spade")}
    assert back["auroc"].mean == pytest.approx(-of["auroc"].mean)


def test_equal_maps_do_not_differ() -> None:
    scores = score_slides(several(1.0), {f"s{i}": square(f"s{i}") for i in range(13)})
    for found in scores.differences("spade", "uni"):
        assert (found.mean, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_means_hold_the_truth_as_often_as_they_say() -> None:
    """Blind attention: the interval of AUROC holds one half in about 95 of 100 studies."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(100):
        maps = [slide_map(rng.gamma(2.0, size=100), f"s{i}") for i in range(10)]
        scores = score_slides(maps, {f"s{i}": square(f"s{i}") for i in range(10)})
        mean = next(m for m in scores.means() if m.metric == "auroc")
        assert mean.low is not None
        assert mean.high is not None
        hits += mean.low <= 0.5 <= mean.high
    assert 88 <= hits <= 100


def test_slides_without_regions_are_listed_and_one_case_has_no_interval() -> None:
    scores = score_slides(several(3.0)[:4], {"s0": square("s0")})
    assert scores.without == ("s1",)
    assert {(m.cases, m.low, m.high) for m in scores.means()} == {(1, None, None)}
    assert all(d.p is None for d in scores.differences("spade", "uni"))
    with pytest.raises(DataError, match="No map of encoder 'gigapath' has a region"):
        scores.differences("gigapath", "uni")
    with pytest.raises(DataError, match="None of the slides has a region: s0"):
        score_slides(several(3.0)[:2], {})
    apart = score_slides(
        [slide_map(np.ones(100), "s0"), slide_map(np.ones(100), "s0", encoder="b", head="cox")],
        {"s0": square("s0")},
    )
    with pytest.raises(DataError, match="no slide with one head in common"):
        apart.differences("uni", "b")


def test_rows_are_written_with_a_schema(tmp_path: Path) -> None:
    scores = score_slides(several(2.0), {f"s{i}": square(f"s{i}") for i in range(12)})
    table, about = scores.write(tmp_path, [("spade", "uni")])
    rows = pd.read_csv(table)
    assert len(rows) == 24
    assert rows["auroc"].tolist() == pytest.approx([s.auroc for s in scores.slides])
    content = json.loads(about.read_text())
    assert content["schema"] == "spade-bench/region-scores/1"
    assert content["without_region"] == ["s12"]
    assert [d["a"] for d in content["differences"]] == ["spade"] * len(METRICS)
    assert len(content["means"]) == 2 * len(METRICS)
