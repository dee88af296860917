"""A whole study: what lies in the folder, and that only the seed decides it."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import openslide
import pytest

from spade_bench.errors import ConfigError, DataError
from spade_bench.simulate import simulate, story_hash
from spade_bench.simulate.studysettings import Size
from spade_bench.simulate.writers import HEST_COLUMNS
from spade_bench.slides.tissue import tissue_mask
from spade_bench.spatial import load_expression, read_hest

Study = tuple[Path, dict[str, Any]]


def _prints(folder: Path) -> dict[str, str]:
    """Hash every file; of counts the content, because HDF5 files carry layout of their own."""
    out = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".h5ad":
            data = anndata.read_h5ad(path)
            parts = [data.X.toarray(), data.obsm["spatial"], *map(str, data.obs_names)]
            parts += list(map(str, data.var_names))
            content = b"".join(p.tobytes() if hasattr(p, "tobytes") else p.encode() for p in parts)
        elif path.is_file():
            content = path.read_bytes()
        else:
            continue
        out[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return out


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    study: Study, mini: Size, tmp_path: Path
) -> None:
    simulate(tmp_path / "again", 3, mini)
    first, again = _prints(study[0]), _prints(tmp_path / "again")
    assert first == again
    simulate(tmp_path / "again", 4, mini)
    other = _prints(tmp_path / "again")
    same = {name for name in first if first[name] == other.get(name)}
    assert same == set()


@pytest.mark.slow
def test_coupling_changes_counts_only(study: Study, mini: Size, tmp_path: Path) -> None:
    simulate(tmp_path / "off", 3, mini, coupling=0.0)
    on, off = _prints(study[0]), _prints(tmp_path / "off")
    changed = {name for name in on if on[name] != off[name]}
    counts = {name for name in on if name.endswith(".h5ad")}
    assert changed == counts | {"tables/bulk_expression.csv", "truth.json"}


def test_slides_open_with_their_size_and_resolution(study: Study) -> None:
    folder, truth = study
    paths = sorted((folder / "slides").glob("*.tif"))
    assert len(paths) == 26
    for path in paths:
        site = truth["slides"]["cases"][path.stem[:-2]]["site"]
        mpp = truth["slides"]["sites"][site]["mpp"]
        with openslide.OpenSlide(path) as slide:
            assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-4)
            assert slide.dimensions == (round(450 / mpp),) * 2
            assert slide.level_count >= 2


def test_tissue_is_found_on_white_ground(study: Study) -> None:
    for path in sorted((study[0] / "slides").glob("*.tif")):
        with openslide.OpenSlide(path) as slide:
            image = np.asarray(slide.get_thumbnail((120, 120)).convert("RGB"))
            mpp = 450 / image.shape[0]
        corner = image[:2, :2].reshape(-1, 3).mean(axis=0)
        assert corner.min() > 215, path.name
        # About 86% of each side is tissue, of which lumens and the rounded corners are not.
        mask = tissue_mask(image, mpp)
        assert 0.35 < mask.mean() < 0.95, path.name
        assert mask[30:90, 30:90].mean() > mask[:6].mean() + 0.3, path.name


def test_sections_read_as_hest(study: Study) -> None:
    folder, truth = study
    rows = _table(folder / "hest" / "HEST_v1_1_0.csv")
    assert tuple(rows[0]) == HEST_COLUMNS
    samples = read_hest(folder / "hest")
    assert (
        [s.sample_id for s in samples]
        == [row["id"] for row in rows]
        == [f"SIM{i:03d}" for i in range(1, 9)]
    )
    assert {s.organ for s in samples} == {"Bowel", "Breast"}
    assert len({s.patient for s in samples}) == 6
    for sample, row in zip(samples, rows, strict=True):
        data = load_expression(sample)
        planted = truth["expression"]["samples"][sample.sample_id]
        assert list(data.obs_names) == planted["barcodes"]
        counts = data.X.toarray()
        assert np.array_equal(counts, np.rint(counts))
        assert counts.min() >= 0
        assert data.n_vars == int(row["nb_genes"]) > 10_000
        places = data.obsm["spatial"]
        reach = 56 / sample.pixel_size_um
        assert places.min() > reach
        assert places.max() < int(row["fullres_px_width"]) - reach
        with openslide.OpenSlide(folder / "hest" / "wsis" / row["image_filename"]) as slide:
            assert slide.dimensions[0] == int(row["fullres_px_width"])
        meta = json.loads((folder / "hest" / "metadata" / f"{sample.sample_id}.json").read_text())
        assert meta["pixel_size_um_estimated"] == sample.pixel_size_um


def test_tables_are_cohorts_and_say_that_they_are_simulated(study: Study) -> None:
    tables = study[0] / "tables"
    slides = {path.stem for path in (study[0] / "slides").glob("*.tif")}
    for name in ("crc_braf", "sim_subtype", "sim_survival"):
        rows = _table(tables / f"{name}.csv")
        assert {row["slide_id"] for row in rows} == slides
        assert {row["simulated"] for row in rows} == {"1"}
        assert len({row["case_id"] for row in rows}) == 24
        assert all(row["slide_id"].startswith(row["case_id"]) for row in rows)
    assert {row["label"] for row in _table(tables / "crc_braf.csv")} == {"mutant", "wildtype"}
    survival = _table(tables / "sim_survival.csv")
    assert {row["event"] for row in survival} == {"0", "1"}
    assert min(int(row["duration_days"]) for row in survival) >= 1


def test_bad_requests_are_refused(study: Study, mini: Size, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tiny, small"):
        simulate(tmp_path / "a", 0, "huge")
    with pytest.raises(ConfigError, match="0 to 1"):
        simulate(tmp_path / "a", 0, mini, coupling=1.5)
    with pytest.raises(ConfigError, match="positive"):
        simulate(tmp_path / "a", -1, mini)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="something else"):
        simulate(tmp_path / "mine", 0, mini)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_story_hash_tells_studies_apart(mini: Size) -> None:
    assert story_hash(0, "tiny", 1.0) == story_hash(0, "tiny", 1.0)
    hashes = {story_hash(s, size, c) for s in (0, 1) for size in ("tiny", mini) for c in (0.0, 1.0)}
    assert len(hashes) == 8


@pytest.mark.slow
def test_images_of_another_study_are_those_that_would_be_drawn(
    study: Study, mini: Size, tmp_path: Path
) -> None:
    simulate(tmp_path / "drawn", 3, mini, coupling=0.0)
    simulate(tmp_path / "linked", 3, mini, coupling=0.0, images_of=study[0])
    assert _prints(tmp_path / "drawn") == _prints(tmp_path / "linked")


def test_images_of_another_seed_are_refused(study: Study, mini: Size, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="same seed"):
        simulate(tmp_path / "out", 4, mini, coupling=0.0, images_of=study[0])
    with pytest.raises(DataError, match="same seed"):
        simulate(tmp_path / "out", 3, mini, coupling=0.0, images_of=tmp_path)
    assert not (tmp_path / "out").exists()
