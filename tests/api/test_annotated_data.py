"""Bags and feature folders as AnnData, and back."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import spade_bench as sb
from spade_bench.errors import DataError
from spade_bench.features.annotated import bags_of, read_features
from spade_bench.features.bags import write_features
from spade_bench.types import Bag


def bag(slide: str = "s1", n: int = 5, **changes: object) -> Bag:
    rng = np.random.default_rng(len(slide) + n)
    values: dict[str, object] = {
        "features": rng.normal(size=(n, 4)).astype(np.float32),
        "coords": rng.integers(0, 9000, (n, 2)),
        "patch_size_level0": 448,
        "mpp": 0.5,
        "encoder": "uni",
        "barcodes": tuple(f"B{i}" for i in range(n)),
        **changes,
    }
    return Bag(slide, **values)  # type: ignore[arg-type]


def same(left: Bag, right: Bag) -> bool:
    return (
        np.array_equal(left.features, right.features)
        and (left.coords is None) == (right.coords is None)
        and (left.coords is None or np.array_equal(left.coords, right.coords))  # type: ignore[arg-type]
        and (left.slide_id, left.patch_size_level0, left.mpp, left.encoder, left.barcodes)
        == (right.slide_id, right.patch_size_level0, right.mpp, right.encoder, right.barcodes)
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"coords": None}, {"barcodes": None}, {"mpp": None, "patch_size_level0": None}],
    ids=["whole", "no coords", "no barcodes", "no resolution"],
)
def test_a_bag_survives_the_way_through_a_file(tmp_path: Path, changes: dict[str, object]) -> None:
    original = bag(**changes)
    assert same(Bag.from_anndata(original.to_anndata()), original)
    original.to_anndata().write_h5ad(tmp_path / "bag.h5ad")
    assert same(Bag.from_anndata(anndata.read_h5ad(tmp_path / "bag.h5ad")), original)


def test_sparse_values_and_other_positions_are_taken() -> None:
    data = anndata.AnnData(sp.csr_matrix(np.eye(3, dtype=np.float32)))
    data.obsm["spatial"] = np.array([[1.4, 2.6, 9.0]] * 3)
    made = Bag.from_anndata(data, "mine")
    assert np.array_equal(made.features, np.eye(3))
    assert made.coords is not None
    assert made.coords.tolist() == [[1, 3]] * 3


def test_a_bag_of_two_slides_is_refused() -> None:
    both = anndata.concat([bag("a").to_anndata(), bag("b").to_anndata()])
    with pytest.raises(DataError, match="2 names"):
        Bag.from_anndata(both)


def write(folder: Path, one: Bag) -> None:
    write_features(
        folder / "features_uni" / f"{one.slide_id}.h5",
        one.features,
        one.coords,
        slide_id=one.slide_id,
        encoder=str(one.encoder),
        barcodes=one.barcodes,
        attrs={"mpp": one.mpp, "patch_size_level0": one.patch_size_level0},
    )


def test_a_folder_is_one_anndata_and_splits_into_the_same_bags(tmp_path: Path) -> None:
    bags = [bag("a"), bag("b", 3)]
    for one in bags:
        write(tmp_path, one)
    data = read_features(tmp_path)
    assert data.shape == (8, 4)
    assert data.obs["slide_id"].value_counts().to_dict() == {"a": 5, "b": 3}
    assert (data.uns["encoder"], data.uns["mpp"]) == ("uni", 0.5)
    assert all(same(*pair) for pair in zip(bags_of(data), bags, strict=True))
    assert read_features(tmp_path, slides=["b"]).n_obs == 3
    data.write_h5ad(tmp_path / "all.h5ad")
    with pytest.raises(DataError, match="no features of slide 'c'"):
        read_features(tmp_path, slides=["c"])


def test_slides_of_two_resolutions_keep_theirs(tmp_path: Path) -> None:
    bags = [bag("a"), bag("b", 3, mpp=1.0, patch_size_level0=896)]
    for one in bags:
        write(tmp_path, one)
    data = read_features(tmp_path)
    assert "mpp" not in data.uns
    assert sorted(set(data.obs["mpp"])) == [0.5, 1.0]
    assert all(same(*pair) for pair in zip(bags_of(data), bags, strict=True))


def test_a_label_takes_the_bags_of_the_encoder_that_it_stands_for(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    bags = [bag(f"s{i:02d}", encoder=None, features=rng.normal(size=(5, 1024)) + i % 2)
            for i in range(24)]  # fmt: skip
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(24)],
                          "slide_id": [b.slide_id for b in bags],
                          "label": ["no" if i % 2 else "yes" for i in range(24)]})  # fmt: skip
    results = sb.evaluate(
        {"mine": "uni"}, "t", table=table, features={"mine": bags}, heads=("logistic",),
        shots=(4,), draws=2, controls=False, out=tmp_path / "o",
    )  # fmt: skip
    frame = results.to_dataframe()
    assert set(frame["encoder"]) == {"mine"}
    assert not any("mismatch" in str(flags) for flags in frame["flags"])
