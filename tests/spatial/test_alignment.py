"""H&E images beside Xenium: put in place by their matrix, and doubted where they do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_sections import HE_UM, MORPHOLOGY_UM, SlideWriter, write_bundle, write_he_section

import spade_bench as sb
from spade_bench.errors import UserError
from spade_bench.spatial import StSample, read_manifest, read_section
from spade_bench.spatial.alignment import read_alignment
from spade_bench.spatial.expression import read_expression
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.sectionchecks import FindingsReport, check_sample


def findings(sample: StSample) -> dict[str, Finding]:
    known = replace(sample, organ="Skin", patient="P")
    return {f.kind: f for f in check_sample(known, read_expression(known)).findings}


@pytest.mark.parametrize("turn", [0.0, 0.6, np.pi / 2, np.pi])
def test_spots_lie_on_the_tissue_that_they_are_of(
    turn: float, tmp_path: Path, write_slide: SlideWriter
) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, turn)
    spots = sb.read_spots(bundle, spot_um=80)
    assert spots.uns["spatial_unit"] == "px"
    assert spots.uns["pixel_size_um"] == pytest.approx(HE_UM)
    frame = read_alignment(bundle / "A_he_imagealignment.csv", MORPHOLOGY_UM)
    row, column = np.array([name.split("_")[2:] for name in spots.obs_names], dtype=float).T
    um = (np.stack([column, row], axis=1) + 0.5) * 80
    back = np.column_stack([spots.obsm["spatial"], np.ones(len(um))]) @ frame.to_um.T
    np.testing.assert_allclose(back[:, :2], um, atol=1e-6)
    found = findings(read_section(bundle))
    assert set(found) == {"pseudo-spots", "alignment"}
    assert float(found["alignment"].text.split("correlation ")[1].split(",")[0]) > 0.8


@pytest.mark.parametrize(("shift", "doubted"), [(30.0, False), (200.0, True), (-250.0, True)])
def test_a_shifted_image_is_doubted_by_how_much(
    shift: float, doubted: bool, tmp_path: Path, write_slide: SlideWriter
) -> None:
    found = findings(read_section(write_he_section(tmp_path / "x", write_slide, 0.0, shift)))
    assert ("alignment-shifted" in found) == doubted
    if doubted:
        finding = found["alignment-shifted"]
        assert finding.fatal
        said = float(finding.text.split("by (")[1].split(",")[0])
        assert said == pytest.approx(shift, abs=50)


def test_an_image_beside_several_bundles_is_of_none(
    tmp_path: Path, write_slide: SlideWriter
) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, 0.0)
    for path in bundle.glob("A_he_*"):
        path.rename(tmp_path / path.name)
    assert read_section(bundle).image is not None
    write_bundle(tmp_path / "y")
    assert read_section(bundle).image is None


def test_what_fits_is_no_warning(
    tmp_path: Path, write_slide: SlideWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    report = FindingsReport()
    report.add(
        "S", list(findings(read_section(write_he_section(tmp_path / "x", write_slide, 0))).values())
    )
    said = capsys.readouterr().err
    assert "S: image and transcripts fit: correlation" in said
    assert "transcripts counted in" in said
    assert "warning" not in said


def test_an_even_image_says_nothing(tmp_path: Path, write_slide: SlideWriter) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, 0.0)
    write_slide(bundle / "A_he_image.ome.tif", np.full((900, 900, 3), 200, np.uint8), None)
    found = findings(read_section(bundle))
    assert "too even" in found["alignment-unchecked"].text


def test_an_image_needs_its_alignment(tmp_path: Path, write_slide: SlideWriter) -> None:
    bundle = write_he_section(tmp_path / "x", write_slide, 0.0)
    path = bundle / "A_he_imagealignment.csv"
    elsewhere = path.rename(tmp_path / "matrix.csv")
    with pytest.raises(sb.SpadeBenchError, match="has no alignment"):
        sb.read_spots(bundle)
    given = sb.read_spots(bundle, alignment=elsewhere)
    assert given.uns["spatial_unit"] == "px"
    rows = "sample_id,h5ad,alignment,spot_diameter_um,spot_grid,organ,patient,technology\n"
    (tmp_path / "m.csv").write_text(f"{rows}S,x,matrix.csv,100,square,Skin,P,Xenium\n")
    (sample,) = read_manifest(tmp_path / "m.csv")
    data = read_expression(sample)
    assert (sample.sample_id, sample.technology, sample.organ) == ("S", "Xenium", "Skin")
    np.testing.assert_allclose(data.spatial, given.obsm["spatial"])


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1,0,0\n0,1,0\n", "has rows of 3, 3 numbers, not three rows of three"),
        ("1,0,0\n0,1\n0,0,1\n", "has rows of 3, 2, 3 numbers"),
        ("", "has rows of no numbers"),
        ("1,0,nan\n0,1,0\n0,0,1\n", "a number is NaN or infinite"),
        ("1,0,0\n0,x,0\n0,0,1\n", "something else than numbers"),
        ("1,0,0\n0,2,0\n0,0,1\n", "stretches one axis 2 times"),
        ("1,0,0\n0,0,0\n0,0,1\n", "takes the whole image to a line or a point"),
        ("1,1,0\n1,1,0\n0,0,1\n", "takes the whole image to a line or a point"),
        ("0,0,0\n0,0,0\n0,0,1\n", "takes the whole image to a line or a point"),
        ("1,0,0\n0,1,0\n0.1,0,1\n", "its last row is not 0, 0, 1"),
    ],
)
def test_what_is_no_placement_is_refused(text: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(sb.SpadeBenchError, match=what):
        read_alignment(tmp_path / "m.csv", MORPHOLOGY_UM)


def test_a_width_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="spot_um: 'a' is not a number"):
        sb.read_spots(tmp_path, spot_um="a")  # type: ignore[arg-type]
