"""Each producer's own layout, written here as the producer writes it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from spade_bench.errors import DataError
from spade_bench.features.bags import bag_encoder, find_bags, read_bag
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.formats import look
from spade_bench.features.packing import pack_features
from spade_bench.types import Bag

RNG = np.random.default_rng(0)
N, D = 6, 8
X = RNG.normal(size=(N, D)).astype(np.float32)
XY = np.stack([np.arange(N) % 3, np.arange(N) // 3], axis=1) * 512


def trident(root: Path) -> Path:
    """`{mag}x_{px}px_{ov}px_overlap/{patches,features_*,slide_features_*}/`."""
    base = root / "20x_256px_0px_overlap"
    attrs = {
        "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40,
        "target_magnification": 20, "overlap": 0, "name": "s1", "savetodir": "None",
        "level0_width": 9000, "level0_height": 8000,
    }  # fmt: skip
    for folder, name in (("patches", "s1_patches"), ("features_uni_v1", "s1")):
        (base / folder).mkdir(parents=True)
        with h5py.File(base / folder / f"{name}.h5", "w") as file:
            coords = file.create_dataset("coords", data=XY, chunks=(1, 2), maxshape=(None, 2))
            coords.attrs.update(attrs)
            if folder != "patches":
                data = file.create_dataset("features", data=X, chunks=(1, D), maxshape=(None, D))
                data.attrs.update({"name": "s1", "encoder": "uni_v1", "savetodir": "None"})
    (base / "slide_features_titan").mkdir()
    with h5py.File(base / "slide_features_titan" / "s1.h5", "w") as file:
        file.create_dataset("features", data=X[0]).attrs["encoder"] = "titan"
    return base / "features_uni_v1" / "s1.h5"


def clam_h5(root: Path) -> Path:
    (root / "h5_files").mkdir(parents=True)
    with h5py.File(root / "h5_files" / "s1.h5", "w") as file:
        file.create_dataset("features", data=X, chunks=(1, D), maxshape=(None, D))
        file.create_dataset("coords", data=XY.astype(np.int32), chunks=(1, 2), maxshape=(None, 2))
    (root / "pt_files").mkdir()
    torch.save(torch.from_numpy(X), root / "pt_files" / "s1.pt")
    return root / "h5_files" / "s1.h5"


def clam_pt(root: Path) -> Path:
    (root / "pt_files").mkdir(parents=True)
    torch.save(torch.from_numpy(X), root / "pt_files" / "s1.pt")
    return root / "pt_files" / "s1.pt"


def clam_old_pt(root: Path) -> Path:
    path = clam_pt(root)
    torch.save(torch.from_numpy(X), path, _use_new_zipfile_serialization=False)
    return path


def stamp(root: Path) -> Path:
    folder = root / "uni-0123abcd" / "site" / "case"
    folder.mkdir(parents=True)
    with h5py.File(folder / "s1.h5", "w") as file:
        file["feats"], file["coords"] = X.astype(np.float16), (XY / 2).astype(np.float32)
        file.attrs.update({"stamp_version": "2.3.0", "extractor": "uni", "unit": "um",
                           "tile_size_um": 256.0, "tile_size_px": 224,
                           "feat_type": "tile"})  # fmt: skip
    return folder / "s1.h5"


def stamp_old(root: Path) -> Path:
    root.mkdir(parents=True)
    with h5py.File(root / "s1.h5", "w") as file:
        file["patch_embeddings"], file["coords"] = X.astype(np.float16), XY.astype(np.float32)
        file.attrs["extractor"] = "uni"
    return root / "s1.h5"


def slide2vec(root: Path) -> Path:
    for folder in ("tile_embeddings", "tiles", "slide_embeddings"):
        (root / folder).mkdir(parents=True)
    path = root / "tile_embeddings" / "s1.pt"
    torch.save(torch.from_numpy(X).half(), path)
    torch.save(torch.from_numpy(X[0]), root / "slide_embeddings" / "s1.pt")
    meta = {"sample_id": "s1", "artifact_type": "tile_embeddings", "encoder_name": "uni",
            "encoder_level": "tile", "feature_dim": D, "num_tiles": N, "format": "pt",
            "requested_spacing_um": 0.5, "tile_size_lv0": 512}  # fmt: skip
    (root / "tile_embeddings" / "s1.meta.json").write_text(json.dumps(meta))
    np.savez(root / "tiles" / "s1.coordinates.npz", x=XY[:, 0], y=XY[:, 1],
             tile_index=np.arange(N))  # fmt: skip
    (root / "tiles" / "s1.coordinates.meta.json").write_text("{}")
    return path


def npy(root: Path) -> Path:
    root.mkdir(parents=True)
    np.save(root / "s1.npy", X)
    return root / "s1.npy"


def npz(root: Path) -> Path:
    root.mkdir(parents=True)
    np.savez_compressed(root / "s1.npz", X)
    return root / "s1.npz"


def packed(root: Path) -> Path:
    npy(root / "plain")
    return pack_features(root / "plain", root / "p" / "x.pack", dtype="float32").path / "s1.bag"


PLACED = {trident, clam_h5, stamp, stamp_old, slide2vec}
ALL = [trident, clam_h5, clam_pt, clam_old_pt, stamp, stamp_old, slide2vec, npy, npz, packed]


@pytest.mark.parametrize("write", ALL)
def test_layout_is_found_and_read(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "root")  # type: ignore[operator]
    root = path.parent if write is packed else tmp_path / "root"
    assert find_bags(root) == {"s1": path}
    bag = read_bag(path)
    assert bag.slide_id == "s1"
    half = write in {stamp, stamp_old, slide2vec}
    assert bag.features.dtype == (np.float16 if half else np.float32)
    assert np.array_equal(bag.features, X.astype(bag.features.dtype))
    header = look(path)
    assert header is not None
    assert (header.n, header.dim, header.encoder) == (N, D, bag.encoder)
    assert scan_bags({"s1": path})["s1"].problem == ""
    if write not in PLACED:
        assert bag.coords is None
        return
    assert bag.coords is not None
    assert bag.coords.dtype == np.int64
    # Every layout lies on the same grid; STAMP's new one in pixels of the encoded resolution.
    step = 224 if write is stamp else 512
    assert np.array_equal(bag.coords, XY // 512 * step)


def test_what_the_files_say_besides(tmp_path: Path) -> None:
    def facts(bag: Bag) -> tuple[object, ...]:
        return bag.encoder, bag.mpp, bag.patch_size_level0

    assert facts(read_bag(trident(tmp_path / "t"))) == ("uni_v1", 0.5, 512)
    assert facts(read_bag(clam_h5(tmp_path / "c"))) == (None, None, None)
    assert facts(read_bag(stamp(tmp_path / "s"))) == ("uni", 256 / 224, 224)
    assert facts(read_bag(stamp_old(tmp_path / "so"))) == ("uni", None, None)
    path = slide2vec(tmp_path / "v")
    assert facts(read_bag(path)) == ("uni", 0.5, 512)
    assert bag_encoder(path) == "uni"
    (path.parent / "s1.meta.json").write_text("{")
    with pytest.raises(DataError, match=r"s1\.meta\.json: not valid JSON"):
        read_bag(path)


def test_layouts_may_lie_side_by_side_and_a_case_joins_its_slides(tmp_path: Path) -> None:
    first, second = trident(tmp_path / "a"), clam_pt(tmp_path / "b")
    second = second.rename(second.with_name("s2.pt"))
    bags = CaseBags.from_files([[first, second], [second]], D)
    assert np.array_equal(bags[0], np.concatenate([X, X]))
    assert np.array_equal(bags[1], X)


def test_stamps_slide_vectors_are_no_bags(tmp_path: Path) -> None:
    for kind in ("slide", "patient"):
        with h5py.File(tmp_path / f"{kind}.h5", "w") as file:
            file["feats"] = X[:1]
            file.attrs.update({"extractor": "titan", "feat_type": kind})
    with pytest.raises(DataError, match="no patch features found"):
        find_bags(tmp_path)


def test_unusable_features_get_one_clear_line_each(tmp_path: Path) -> None:
    bad = X.copy()
    bad[2:4, 1] = np.nan
    np.save(tmp_path / "nan.npy", bad)
    with np.errstate(over="ignore"):
        np.save(tmp_path / "inf.npy", (X * 1e6).astype(np.float16))
    np.save(tmp_path / "empty.npy", X[:0])
    with h5py.File(tmp_path / "zero.h5", "w") as file:
        file["features"] = np.zeros((0,), np.float32)
    np.save(tmp_path / "wide.npy", np.ones((N, D + 1), np.float32))
    np.save(tmp_path / "good.npy", X)
    np.save(tmp_path / "fine.npy", X)
    problems = {
        slide: info.problem
        for slide, info in scan_bags(find_bags(tmp_path)).items()
        if info.problem
    }
    assert problems == {
        "nan": "2 of 6 rows are NaN",
        "inf": "6 of 6 rows are infinite (float16 overflow)",
        "empty": "no patches",
        "zero": "no patches",
        "wide": "9 wide, others 8",
    }
    torch.save({"model": torch.ones(2)}, tmp_path / "m.pt")
    with pytest.raises(DataError, match="holds no patch features"):
        read_bag(tmp_path / "m.pt")
    (tmp_path / "text.npy").write_text("not an array")
    with pytest.raises(DataError, match="unreadable"):
        find_bags(tmp_path)
