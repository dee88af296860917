"""The viewer's view of maps: one page per slide, with what every encoder and head shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from viewed_slides import SIDE, coloured_slide, patch_places, view_of_slide

from spade_bench.errors import UserError
from spade_bench.explain.mapfolder import Wishes, write_maps
from spade_bench.explain.slidemap import SlideMap
from spade_bench.explain.viewer.mapviews import map_views
from spade_bench.report.page.maplinks import MapLink, find_maps, links_of


def a_map(slide: Path | None, slide_id: str = "case-1-A", encoder: str = "uni") -> SlideMap:
    rng = np.random.default_rng(len(encoder))
    coords = patch_places(6, 8)
    return SlideMap(
        slide_id=slide_id, case_id="case-1", encoder=encoder, head="abmil", task="braf",
        classes=("wild type", "mutant"), coords=coords, side=SIDE,
        attention=rng.dirichlet(np.ones(len(coords))),
        contribution=rng.normal(size=(len(coords), 2)), method="attention x logit",
        predicted=(0.25, 0.75), slide=slide,
    )  # fmt: skip


@pytest.fixture
def slide(tmp_path: Path, write_slide: Callable[..., Path]) -> Path:
    return write_slide(tmp_path / "case-1-A.tif", coloured_slide())


def test_encoders_of_one_slide_share_a_page(slide: Path) -> None:
    base, spade = a_map(slide), a_map(slide, encoder="spade")
    other = a_map(slide, "case-1-B")
    first, second = map_views([base, spade, other], top=3)
    assert (first.slide_id, second.slide_id) == ("case-1-A", "case-1-B")
    assert [one.key for one in first.layers] == [
        one.key for m in (base, spade) for one in m.layers()
    ]
    assert first.facts == {
        "Case": "case-1",
        "Task": "braf",
        "UNI, ABMIL": "wild type 0.25, mutant 0.75",
        "SPADE, ABMIL": "wild type 0.25, mutant 0.75",
    }
    assert len(second.layers) == len(other.layers())


def test_the_top_patches_are_the_highest_and_the_lowest_that_lie_apart(slide: Path) -> None:
    one = a_map(slide)
    (view,) = map_views([one], top=4)
    for lowest in (False, True):
        listed = [patch for patch in view.top if patch.lowest is lowest]
        assert [patch.rank for patch in listed] == [1, 2, 3, 4]
        scores = [patch.score for patch in listed]
        assert scores == sorted(scores, reverse=not lowest)
        stored = {one.attention[row] for row in range(len(one.coords))}
        assert stored.issuperset(scores)  # the attention itself, not its rank
        best = one.percentile.argmin() if lowest else one.percentile.argmax()
        assert (listed[0].x, listed[0].y) == tuple(one.coords[best])
        places = np.array([(patch.x, patch.y) for patch in listed])
        apart = np.abs(places[:, None] - places[None]).max(axis=-1)
        assert (apart[~np.eye(4, dtype=bool)] >= 2 * SIDE).all()


def test_marks_and_regions_come_along(
    slide: Path, tmp_path: Path, write_slide: Callable[..., Path]
) -> None:
    other = view_of_slide(tmp_path, write_slide)
    (region,) = other.outlined
    marked = replace(a_map(slide), trained=True, simulated=True, mpp=0.25)
    (view,) = map_views(
        [marked, a_map(slide, encoder="spade")],
        outlined={"case-1-A": [region]},
    )
    assert view.marks == marked.marks
    assert view.marks
    assert view.outlined == [region]
    assert view.mpp == 0.25


def test_the_report_finds_the_page_of_a_case(slide: Path, tmp_path: Path) -> None:
    """Links of `report --maps` go by the listing, in the form in which it is written today."""
    wishes = Wishes(top=0, pictures=False, viewer=True)
    write_maps([a_map(slide), a_map(slide, encoder="spade")], tmp_path / "out", wishes)
    found = find_maps(tmp_path / "out", tmp_path)
    assert [one.encoder for one in found] == ["uni", "spade"]
    assert links_of(found, "braf", "case-1", ["spade"]) == [
        MapLink("case-1-A", "out/viewer/slides/case-1-A.html")
    ]


def test_a_map_without_its_slide_is_refused() -> None:
    with pytest.raises(UserError, match=r"case-1-A.*--slides"):
        map_views([a_map(None)])
