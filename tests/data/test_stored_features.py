"""Features are numbers as they were stored, or they are refused by name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from spade_bench.data.bags import look, read_bag
from spade_bench.errors import DataError

X = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
DTYPES = {
    "uint16": (X.view(np.uint32) >> 16).astype(np.uint16),
    "uint8": np.clip(X * 20 + 128, 0, 255).astype(np.uint8),
    "int8": (X * 20).astype(np.int8),
    "int64": (X * 20).astype(np.int64),
    "bool": X > 0,
    "complex64": X.astype(np.complex64),
}


def write(path: Path, values: np.ndarray) -> Path:
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file["features"] = values
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, features=values)
    else:
        signed = values.astype(np.int32) if values.dtype == np.uint16 else values
        torch.save(torch.from_numpy(signed), path)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".pt"])
@pytest.mark.parametrize("name", DTYPES)
def test_other_dtypes_are_refused_by_name(name: str, suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"s{suffix}", DTYPES[name])
    shown = "int32" if (name, suffix) == ("uint16", ".pt") else name
    for read in (look, read_bag):
        with pytest.raises(DataError, match=f"features are {shown}.*float16 or float32"):
            read(path)


def test_unsigned_16_bit_numbers_are_said_to_be_perhaps_bfloat16(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="bits of bfloat16"):
        read_bag(write(tmp_path / "s.h5", DTYPES["uint16"]))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz"])
def test_real_numbers_are_read_as_they_are(suffix: str, dtype: Any, tmp_path: Path) -> None:
    bag = read_bag(write(tmp_path / f"s{suffix}", X.astype(dtype)))
    np.testing.assert_allclose(bag.features, X, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_with_gradient_are_detached_and_odd_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    torch.save(torch.from_numpy(X).requires_grad_(), path)
    np.testing.assert_array_equal(read_bag(path).features, X)
    torch.save(torch.from_numpy(X).bfloat16(), path)
    np.testing.assert_allclose(read_bag(path).features, X, rtol=1e-2)
    for odd, said in (
        (torch.from_numpy(X).to_sparse(), "sparse"),
        (torch.from_numpy(X).to(torch.float8_e4m3fn), "float8"),
    ):
        torch.save(odd, path)
        with pytest.raises(DataError, match=said):
            read_bag(path)


FORMS = {
    "pairs": lambda c: c,
    "one more axis": lambda c: c[None],
    "flat": lambda c: c.reshape(-1),
    "three columns": lambda c: np.c_[c, c[:, :1]],
    "records": lambda c: np.array([tuple(row) for row in c], dtype=[("x", "i8"), ("y", "i8")]),
    "records y first": lambda c: np.array([(y, x) for x, y in c], dtype=[("y", "i8"), ("x", "i8")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_coordinates_of_every_form_are_kept(form: str, tmp_path: Path) -> None:
    coords = np.arange(10).reshape(5, 2) * 7
    path = write(tmp_path / "s.h5", X)
    with h5py.File(path, "a") as file:
        file["coords"] = FORMS[form](coords)
    np.testing.assert_array_equal(read_bag(path).coords, coords)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 5, 2)])
def test_coordinates_that_nobody_understands_are_refused(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "s.h5", X)
    with h5py.File(path, "a") as file:
        file["coords"] = np.zeros(shape, dtype=np.int64)
    with pytest.raises(DataError, match="coordinates of shape"):
        read_bag(path)


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("features", data=X, chunks=(5, 8), compression="gzip")
        offset = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = b"\x00" * 8
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"cannot be read.*damaged chunk"):
        read_bag(path)


def test_numbers_of_other_files_are_not_followed(tmp_path: Path) -> None:
    raw = tmp_path / "raw.bin"
    raw.write_bytes(X.tobytes())
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("features", X.shape, "f4", external=[(str(raw), 0, X.nbytes)])
    write(tmp_path / "other.h5", X)
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "features")
    for name in ("external", "link"):
        for read in (look, read_bag):
            with pytest.raises(DataError, match="lies in another file"):
                read(tmp_path / f"{name}.h5")


def test_sizes_are_judged_before_anything_is_inflated(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        file.create_dataset("features", (10**9, 1024), "f4", chunks=(1024, 1024))
    with pytest.raises(DataError, match="declares shape"):
        read_bag(tmp_path / "huge.h5")
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("features.npy", "w", force_zip64=True) as member,
    ):
        block = bytes(1 << 24)
        for _ in range(65):
            member.write(block)
    with pytest.raises(DataError, match="its arrays"):
        read_bag(tmp_path / "bomb.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="unreadable"):
        read_bag(tmp_path / "bad.npz")
