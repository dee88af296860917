"""Maps as files: what is written is read, and nothing else passes for a map."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from spade_bench.errors import DataError
from spade_bench.explain.agreement import agreement, matching_patches
from spade_bench.explain.mapstore import read_map, write_map
from spade_bench.explain.slidemap import SlideMap

GRID = np.array([[x, y] for y in range(6) for x in range(6)], dtype=np.int64) * 100


def make_map(seed: int = 0, **changes) -> SlideMap:
    rng = np.random.default_rng(seed)
    attention = rng.dirichlet(np.ones(36))
    values = {
        "slide_id": "s1", "case_id": "c1", "encoder": "mine", "head": "abmil", "task": "t",
        "classes": ("no", "yes/ä"), "coords": GRID, "side": 100, "attention": attention,
        "contribution": rng.normal(size=(36, 2)), "sd": rng.uniform(size=36), "method": "exact",
        "predicted": (0.25, 0.75), "models": 3, "trained": True, "simulated": False, "mpp": 0.25,
        "offset": (7, 9), "about": {"models": ["a", "b", "c"], "k_shot": None, "seed": 1},
    }  # fmt: skip
    return SlideMap(**{**values, **changes})


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention": None}, {"sd": None, "models": 1}, {"mpp": None, "about": {}},
     {"classes": ("risk",), "contribution": np.ones((36, 1)), "predicted": (-2.5,)}],
    ids=["full", "no attention", "one model", "no resolution", "risk"],
)  # fmt: skip
def test_what_is_written_is_read(changes, tmp_path) -> None:
    shown = make_map(**changes)
    again = read_map(write_map(shown, tmp_path / "m.h5"))
    for name, value in vars(shown).items():
        found = getattr(again, name)
        if isinstance(value, np.ndarray):
            assert np.array_equal(found, value), name
        else:
            assert found == value, name
    assert read_map(tmp_path / "m.h5", Path("s.svs")).slide == Path("s.svs")


def test_anndata_opens_it(tmp_path) -> None:
    shown = make_map()
    data = anndata.read_h5ad(write_map(shown, tmp_path / "m.h5"))
    assert np.array_equal(data.obsm["spatial"], GRID)
    assert np.array_equal(data.obsm["centre"], GRID + 50)
    assert list(data.var_names) == ["no", "yes/ä"]
    assert data.obs["percentile"].to_numpy() == pytest.approx(shown.percentile)
    assert data.uns["patch_size_level0"] == 100
    assert "top-left" in data.uns["spatial_is"]


def _drop(name):
    def change(file) -> None:
        del file[name]

    return change


def _put(name, value):
    def change(file) -> None:
        file[name][...] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("obsm/spatial"), "incomplete or damaged"),
        (_drop("uns/task"), "incomplete or damaged"),
        (_drop("uns/format"), "is not the map of a slide"),
        (_put("uns/version", 9), "of format version 9; this version of spade-bench reads 1"),
        (_put("uns/patch_size_level0", 0), "patches are 0 pixels wide"),
        (_put("X", np.nan), "values are not finite"),
        (_put("obs/percentile", 0.5), "percentiles are not those of what is shown"),
        (_put("obs/attention", -1.0), "attention is negative"),
    ],
)
def test_what_was_changed_is_refused(change, message, tmp_path) -> None:
    path = write_map(make_map(), tmp_path / "m.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        read_map(path)


def test_what_is_no_map_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="no such map"):
        read_map(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as a map"):
        read_map(tmp_path / "text.h5")
    path = write_map(make_map(), tmp_path / "m.h5")
    shutil.copy(path, tmp_path / "cut.h5")
    with (tmp_path / "cut.h5").open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(DataError, match="cannot be read as a map"):
        read_map(tmp_path / "cut.h5")


def test_agreement_is_spearmans_on_the_patches_that_both_have() -> None:
    from scipy.stats import spearmanr

    one, other = make_map(0), make_map(1, encoder="theirs")
    assert one.attention is not None
    assert other.attention is not None
    found = agreement(one, other)
    assert found.spearman == pytest.approx(spearmanr(one.attention, other.attention).statistic)
    assert (found.a, found.b, found.patches, found.same_grid) == ("mine", "theirs", 36, True)
    assert agreement(one, one).spearman == pytest.approx(1.0)
    order = np.random.default_rng(2).permutation(36)[:20]
    part = replace(other, coords=GRID[order], attention=other.attention[order],
                   contribution=other.contribution[order])  # fmt: skip
    wanted = spearmanr(one.attention[order], other.attention[order]).statistic
    assert agreement(one, part).spearman == pytest.approx(wanted)
    assert agreement(one, part).patches == 20
    flat = replace(other, attention=np.full(36, 1 / 36))
    assert agreement(one, flat).spearman is None


def test_other_grids_are_matched_by_the_nearest_centre() -> None:
    one = make_map(0)
    fine = np.array([[x, y] for y in range(12) for x in range(12)], dtype=np.int64) * 50
    parent = (fine[:, 1] // 100) * 6 + fine[:, 0] // 100  # the coarse patch of each fine one
    assert one.attention is not None
    other = replace(one, encoder="theirs", coords=fine, side=50,
                    attention=one.attention[parent] / 4,
                    contribution=np.zeros((144, 2)))  # fmt: skip
    rows, partners, same = matching_patches(one, other)
    assert not same
    assert np.array_equal(rows, np.arange(36))
    assert np.array_equal(parent[partners], rows)
    assert agreement(one, other).spearman == pytest.approx(1.0)
    shifted = replace(one, coords=GRID + 30)
    assert agreement(one, shifted).spearman == pytest.approx(1.0)
    with pytest.raises(DataError, match="no patch of 'mine' lies where one of"):
        agreement(one, replace(one, coords=GRID + 10_000))
    with pytest.raises(DataError, match="'s1' and 's2' cannot be compared"):
        agreement(one, replace(one, slide_id="s2"))
