"""Checks of paired samples: each fault planted alone is found, counted, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp

from spade_bench.spatial.expression import Expression
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.geometry import (
    check_axes,
    check_patches,
    check_pixel_size,
    known_pitch,
    measure_spacing,
)
from spade_bench.spatial.sample import StSample
from spade_bench.spatial.sectionchecks import DuplicateFinder, check_sample, spot_prints
from spade_bench.spatial.sectionimages import ImageView


def lattice(rows: int = 12, columns: int = 10, pitch: float = 200.0) -> np.ndarray:
    """A hexagonal Visium lattice, (n, 2) as (x, y) in px."""
    grid = [
        (pitch * (c + 0.5 * (r % 2)), pitch * r * np.sqrt(3) / 2)
        for r in range(rows)
        for c in range(columns)
    ]
    return np.array(grid) + 300.0


def visium(**changes: object) -> StSample:
    return replace(
        StSample("s", organ="Skin", patient="P", technology="Visium", pixel_size_um=0.5),
        **changes,  # type: ignore[arg-type]
    )


def expression(n: int, seed: int = 0) -> Expression:
    counts = np.random.default_rng(seed).poisson(3, size=(n, 30)).astype(np.float32)
    genes = np.array([f"G{i}" for i in range(30)])
    barcodes = np.array([f"b{i}" for i in range(n)])
    spatial = lattice()[:n]
    return Expression(sp.csr_matrix(counts), "counts", genes, barcodes, spatial)


def kinds(findings: list[Finding] | tuple[Finding, ...]) -> dict[str, bool]:
    return {f.kind: f.fatal for f in findings}


def test_a_sound_sample_has_no_findings() -> None:
    assert check_sample(visium(), expression(100)).findings == ()


def test_unknown_organ_and_patient_are_said_and_kept() -> None:
    found = check_sample(visium(organ="unknown", patient=None), expression(100)).findings
    assert kinds(found) == {"organ-unknown": False, "patient-unknown": False}


def test_spots_without_counts_are_counted() -> None:
    data = expression(100)
    values = data.values.toarray()
    values[:7] = 0
    (found,) = check_sample(visium(), replace(data, values=sp.csr_matrix(values))).findings
    assert (found.kind, found.count, found.total, found.fatal) == ("empty-spots", 7, 100, False)


@pytest.mark.parametrize(("raw", "fatal"), [(False, False), (True, True)])
def test_log_normalised_input_is_said_and_refused_only_for_raw(raw: bool, fatal: bool) -> None:
    data = replace(expression(100), kind="log-normalised")
    assert kinds(check_sample(visium(), data, raw=raw).findings) == {"log-normalised": fatal}


@pytest.mark.parametrize(
    ("factor", "said", "fatal"),
    [(1.0, False, False), (1.05, False, False), (1.2, True, False), (2.0, True, True),
     (0.8, True, False), (0.5, True, True)],
)  # fmt: skip
def test_pixel_size_is_compared_with_the_lattice(factor: float, said: bool, fatal: bool) -> None:
    size, found = check_pixel_size(visium(pixel_size_um=0.5 * factor), lattice(), None)
    assert size == pytest.approx(0.5 * factor)
    assert kinds(found) == ({"pixel-size-wrong": fatal} if said else {})


def test_sparse_spots_do_not_make_a_right_pixel_size_wrong() -> None:
    rng = np.random.default_rng(1)
    spots = lattice(30, 30)[rng.permutation(900)[:250]]
    assert check_pixel_size(visium(), spots, None)[1] == []
    assert kinds(check_pixel_size(visium(pixel_size_um=1.0), spots, None)[1]) == {
        "pixel-size-wrong": True
    }


def test_a_missing_pixel_size_follows_from_the_pitch() -> None:
    size, found = check_pixel_size(visium(pixel_size_um=None), lattice(), None)
    assert size == pytest.approx(0.5)
    assert kinds(found) == {"pixel-size-estimated": False}
    unknown = visium(pixel_size_um=None, technology=None)
    assert check_pixel_size(unknown, lattice(), None) == (None, [])


def test_pitch_is_known_from_metadata_technology_or_the_ratio_to_the_diameter() -> None:
    spacing = measure_spacing(lattice())
    assert spacing is not None
    assert known_pitch(visium(spot_pitch_um=50.0), spacing, None)[0] == 50
    assert known_pitch(visium(), spacing, None)[0] == 100
    assert known_pitch(visium(technology="Spatial Transcriptomics"), spacing, None)[0] == 200
    nothing = visium(technology=None)
    assert known_pitch(nothing, spacing, 130.0)[0] == 100  # drawn 65 µm wide
    assert known_pitch(nothing, spacing, 100.0)[0] == 200  # 100 µm spots, 200 µm apart
    assert known_pitch(nothing, spacing, 160.0)[0] is None


def test_image_without_scale_is_refused_only_when_patches_must_be_cut(tmp_path: Path) -> None:
    from PIL import Image

    image = tmp_path / "x.png"
    Image.new("RGB", (3000, 3000), "white").save(image)
    sample = visium(pixel_size_um=None, technology=None, image=image)
    assert kinds(check_sample(sample, expression(100)).findings) == {"pixel-size-missing": True}
    ready = replace(sample, features=tmp_path / "x.h5")
    assert kinds(check_sample(ready, expression(100)).findings) == {}


def test_spots_off_the_image_are_counted() -> None:
    spots = lattice()
    view = ImageView(width=2000, height=9000)
    (found,) = check_axes(spots, view)
    off = int((spots[:, 0] >= 2000).sum())
    assert (found.kind, found.count, found.fatal) == ("spots-off-image", off, False)
    assert off > 0


def test_swapped_axes_are_refused_by_the_image_border() -> None:
    spots = lattice(rows=30, columns=5)  # about 1,300 x 5,300 px
    view = ImageView(width=1700, height=6000)
    assert check_axes(spots, view) == []
    (found,) = check_axes(spots[:, ::-1], view)
    assert found.kind == "axes-swapped"
    assert found.fatal


def test_swapped_axes_are_refused_by_tissue_where_the_image_is_square() -> None:
    spots = lattice(rows=30, columns=5)
    tissue = np.zeros((60, 60), dtype=bool)
    tissue[:, :18] = True  # the strip x < 1,800 of a 6,000 px square
    view = ImageView(6000, 6000, tissue)
    assert check_axes(spots, view) == []
    (found,) = check_axes(spots[:, ::-1], view)
    assert found.kind == "axes-swapped"
    assert found.fatal


def test_patches_are_compared_with_their_spots(tmp_path: Path) -> None:
    spots = lattice(rows=30, columns=5)
    names = np.array([f"b{i}" for i in range(len(spots))])
    with h5py.File(tmp_path / "p.h5", "w") as handle:
        image = handle.create_dataset("img", (len(spots), 2, 2, 3), np.uint8)
        image.attrs["patch_size_src"] = 100.0
        handle["coords"] = (spots - 50).round().astype(np.int64)
        handle["barcode"] = names.astype("S")[:, None]
    path = tmp_path / "p.h5"
    assert check_patches(path, names, spots) == []
    assert kinds(check_patches(path, names, spots[:, ::-1])) == {"axes-swapped": True}
    moved = spots.copy()
    moved[:4] += 500
    (found,) = check_patches(path, names, moved)
    assert (found.kind, found.count, found.fatal) == ("patches-elsewhere", 4, False)


def test_a_duplicate_is_known_by_content_and_not_by_name() -> None:
    finder = DuplicateFinder()
    first, other = expression(100), expression(100, seed=1)
    assert finder.add("a", spot_prints(first)) is None
    assert finder.add("b", spot_prints(other)) is None
    order = np.random.default_rng(0).permutation(100)[:80]
    renamed = replace(
        first, values=first.values[order], barcodes=np.array([f"x{i}" for i in range(80)]),
        spatial=first.spatial[order] * 3,
    )  # fmt: skip
    found = finder.add("c", spot_prints(renamed))
    assert found is not None
    assert found.fatal
    assert "duplicate of a: 80 of 80" in found.text
