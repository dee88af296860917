"""Bags: what is written is read back, and everybody's layout is recognised by content."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from spade_bench.errors import DataError
from spade_bench.features.bags import (
    bag_dim,
    bag_encoder,
    features_folder,
    find_bags,
    read_bag,
    write_features,
)

X = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
XY = np.arange(10).reshape(5, 2) * 256


def test_written_bag_comes_back(tmp_path: Path) -> None:
    barcodes = ["a-1", "b-1", "c-1", "d-1", "e-1"]
    attrs = {"patch_size_level0": 448, "mpp": 0.5, "level0_width": None, "recipe_hash": "r"}
    path = write_features(
        tmp_path / "s.h5", X, XY, slide_id="s", encoder="uni", barcodes=barcodes, attrs=attrs
    )
    bag = read_bag(path)
    assert np.array_equal(bag.features, X)
    assert bag.coords is not None
    assert np.array_equal(bag.coords, XY)
    assert bag.coords.dtype == np.int64
    assert (bag.slide_id, bag.encoder, bag.patch_size_level0, bag.mpp) == ("s", "uni", 448, 0.5)
    assert bag.barcodes == tuple(barcodes)
    assert (bag_dim(path), bag_encoder(path)) == (7, "uni")


def test_layout_is_tridents_and_contiguous(tmp_path: Path) -> None:
    attrs = {"patch_size": 224, "patch_size_level0": 448, "level0_width": None, "mpp": 0.5}
    path = write_features(tmp_path / "s.h5", X, XY, slide_id="s", encoder="uni", attrs=attrs)
    with h5py.File(path) as file:
        assert file["features"].chunks is None
        assert file["features"].dtype == np.float32
        assert dict(file["features"].attrs) == {"name": "s", "encoder": "uni", "mpp": 0.5}
        coords = dict(file["coords"].attrs)
    assert coords["patch_size_level0"] == 448
    assert coords["level0_width"] == "None"
    other = features_folder(tmp_path, "hf:owner/model", 0.5, 224)
    assert other.name == "features_hf-owner-model"
    folder = features_folder(tmp_path, "uni", 0.5, 224)
    assert folder == tmp_path / "20x_224px_0px_overlap" / "features_uni"


def test_mismatched_lengths_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 coords for 5 features"):
        write_features(tmp_path / "s.h5", X, XY[:4], slide_id="s", encoder="uni")
    with pytest.raises(DataError, match="3 barcodes for 5"):
        write_features(tmp_path / "s.h5", X, barcodes=["a"] * 3, slide_id="s", encoder="uni")
    assert not list(tmp_path.iterdir())


def _foreign(folder: Path) -> None:
    """One slide in each layout that other tools write."""
    with h5py.File(folder / "trident.h5", "w") as file:
        data = file.create_dataset("features", data=X, chunks=(1, 7))
        data.attrs.update({"name": "trident", "encoder": "uni_v1"})
        coords = file.create_dataset("coords", data=XY)
        coords.attrs.update({"patch_size_level0": 512, "target_magnification": 20, "name": "None"})
    with h5py.File(folder / "clam.h5", "w") as file:
        file["features"], file["coords"] = X, XY.astype(np.int32)
    with h5py.File(folder / "stamp.h5", "w") as file:
        file["feats"], file["coords"] = X.astype(np.float16), XY.astype(np.float32)
        file.attrs.update({"extractor": "uni", "unit": "um", "tile_size_um": 256.0})
        file.attrs["tile_size_px"] = 224
    np.save(folder / "npy.npy", X)
    np.savez(folder / "npz.npz", features=X, other=XY)
    torch.save(torch.from_numpy(X), folder / "bare.pt")
    torch.save({"features": torch.from_numpy(X).bfloat16()}, folder / "named.pt")


def test_every_layout_is_found_and_read(tmp_path: Path) -> None:
    _foreign(tmp_path)
    names = ["bare", "clam", "named", "npy", "npz", "stamp", "trident"]
    with pytest.raises(DataError, match="several encoders: uni, uni_v1, unnamed"):
        find_bags(tmp_path)
    for name in names:
        path = next(tmp_path.glob(f"{name}.*"))
        bag = read_bag(path)
        assert bag.slide_id == name
        assert bag.features.shape == (5, 7)
        assert np.allclose(bag.features, X, atol=0.02)
    assert list(find_bags(tmp_path, "uni")) == ["stamp", "trident"]
    assert read_bag(tmp_path / "trident.h5").mpp == 0.5
    stamp = read_bag(tmp_path / "stamp.h5")
    assert stamp.features.dtype == np.float16
    assert stamp.coords is not None
    assert stamp.coords[1].tolist() == [448, 672]  # 512, 768 µm at 256 / 224 µm per pixel


def test_files_without_patch_features_are_passed_over(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s_patches.h5", "w") as file:
        file["coords"] = XY
    with h5py.File(tmp_path / "vector.h5", "w") as file:
        file["features"] = X[0]
    (tmp_path / ".hidden.h5").write_bytes(b"")
    with pytest.raises(DataError, match="no patch features found"):
        find_bags(tmp_path)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["features"] = np.zeros(0, np.float32)
    assert list(find_bags(tmp_path)) == ["empty"]
    assert read_bag(tmp_path / "empty.h5").features.shape == (0, 0)
    assert bag_dim(tmp_path / "empty.h5") == 0


def test_encoder_is_chosen_by_file_or_folder(tmp_path: Path) -> None:
    write_features(tmp_path / "features_a" / "s.h5", X, slide_id="s", encoder="a")
    (tmp_path / "features_b").mkdir()
    np.save(tmp_path / "features_b" / "s.npy", X)
    assert find_bags(tmp_path, "a")["s"].parent.name == "features_a"
    assert find_bags(tmp_path, "b")["s"].parent.name == "features_b"
    with pytest.raises(DataError, match=r"no features of encoder 'c', only of a, b"):
        find_bags(tmp_path, "c")


def test_unnamed_files_are_taken_for_any_encoder(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", X)
    assert list(find_bags(tmp_path, "whatever")) == ["s"]


def test_a_slide_twice_is_refused_but_clams_twins_are_not(tmp_path: Path) -> None:
    for name in ("h5_files", "pt_files", "more"):
        (tmp_path / name).mkdir()
    with h5py.File(tmp_path / "h5_files" / "s.h5", "w") as file:
        file["features"], file["coords"] = X, XY
    torch.save(torch.from_numpy(X), tmp_path / "pt_files" / "s.pt")
    assert find_bags(tmp_path) == {"s": tmp_path / "h5_files" / "s.h5"}
    np.save(tmp_path / "more" / "s.npy", X[:2])
    with pytest.raises(DataError, match="slide 's' has 3 feature files"):
        find_bags(tmp_path)


def test_unreadable_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable HDF5 file"):
        find_bags(tmp_path)
    torch.save({"features": Path("x")}, tmp_path / "objects.pt")
    with pytest.raises(DataError, match="not loaded for safety"):
        read_bag(tmp_path / "objects.pt")
    with pytest.raises(DataError, match="no such feature file"):
        read_bag(tmp_path / "none.h5")
    with h5py.File(tmp_path / "short.h5", "w") as file:
        file["features"], file["coords"] = X, XY[:3]
    with pytest.raises(DataError, match="3 coords for 5 features"):
        read_bag(tmp_path / "short.h5")


def test_real_bags(shared_data: Path) -> None:
    folder = shared_data / "tcga_hipt" / "features_hipt4k"
    path = next(iter(sorted(folder.glob("*.h5"))))
    bag = read_bag(path)
    assert bag.features.shape[1] == 192
    assert bag.features.dtype == np.float16
    assert bag.encoder == "hipt4k"
    assert bag.coords is None
