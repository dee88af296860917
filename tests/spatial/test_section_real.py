"""The checks on real sections: sound as they are, each planted fault found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spade_bench.spatial import StSample, read_hest
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.sectionchecks import DuplicateFinder, check_sample, spot_prints

SECTIONS = ("SPA138", "SPA139", "SPA140", "SPA141", "SPA145")


@pytest.fixture(scope="module")
def sections(shared_data: Path) -> dict[str, StSample]:
    return {s.sample_id: s for s in read_hest(shared_data / "hest_her2st")}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_pass_and_their_faulty_copies_do_not(
    sections: dict[str, StSample], name: str
) -> None:
    sample = sections[name]
    data = read_expression(sample)
    assert data.kind == "counts"
    assert check_sample(sample, data).findings == ()
    swapped = check_sample(
        replace(sample, patches=None), replace(data, spatial=data.spatial[:, ::-1].copy())
    )
    assert [(f.kind, f.fatal) for f in swapped.findings] == [("axes-swapped", True)]
    assert sample.pixel_size_um is not None
    for factor in (0.5, 2.0):
        wrong = replace(sample, pixel_size_um=factor * sample.pixel_size_um)
        found = check_sample(wrong, data).findings
        assert [(f.kind, f.fatal) for f in found] == [("pixel-size-wrong", True)]


def test_sections_of_one_patient_are_no_duplicates(sections: dict[str, StSample]) -> None:
    finder = DuplicateFinder()
    for name in SECTIONS:
        prints = spot_prints(read_expression(sections[name]))
        assert finder.add(name, prints) is None
        assert finder.add(f"{name} again", prints) is not None


def test_mouse_brain_is_log_normalised_and_its_scale_is_questioned(shared_data: Path) -> None:
    folder = shared_data / "squidpy_mousebrain_st"
    sample = StSample(
        "mouse",
        organ="Brain",
        patient="m1",
        pixel_size_um=0.615,
        h5ad=folder / "test_data.h5ad",
        image=folder / "test_img.jpg",
    )
    data = read_expression(sample)
    found = {f.kind: f for f in check_sample(sample, data).findings}
    assert set(found) == {"log-normalised", "pixel-size-wrong"}
    # 0.615 takes the 89.4 px spot for 55 µm; the 137 px lattice of 100 µm says 0.73
    assert "expected about 0.72" in found["pixel-size-wrong"].text
    assert not found["pixel-size-wrong"].fatal
    swapped = replace(data, spatial=data.spatial[:, ::-1].copy())
    assert any(f.kind == "axes-swapped" for f in check_sample(sample, swapped).findings)
