"""Features are numbers as they were stored, or they are refused by name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from spade_bench.errors import DataError
from spade_bench.extraction.feature_bags import encode_bags
from spade_bench.features import storedarrays as bagchecks
from spade_bench.features.bags import look, read_bag
from spade_bench.types import EncoderCard

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


def write_placed(path: Path, coords: Any, **attrs: Any) -> Path:
    """Write features with coordinates and attributes beside them."""
    if path.suffix == ".h5":
        write(path, X)
        with h5py.File(path, "a") as file:
            file["coords"] = coords
            file.attrs.update(attrs)
    elif path.suffix == ".npz":
        np.savez(path, features=X, coords=coords, **attrs)
    else:
        tensor = coords if getattr(coords, "dtype", None) is None else torch.from_numpy(coords)
        torch.save({"features": torch.from_numpy(X), "coords": tensor, **attrs}, path)
    return path


PLACED = [".h5", ".npz", ".pt"]


@pytest.mark.parametrize("suffix", PLACED)
@pytest.mark.parametrize("form", FORMS)
def test_coordinates_of_every_form_are_kept(form: str, suffix: str, tmp_path: Path) -> None:
    coords = np.arange(10).reshape(5, 2) * 7
    if suffix == ".pt" and form.startswith("records"):
        pytest.skip("tensors have no fields")
    path = write_placed(tmp_path / f"s{suffix}", FORMS[form](coords))
    np.testing.assert_array_equal(read_bag(path).coords, coords)


def test_coordinates_of_other_spellings_are_kept(tmp_path: Path) -> None:
    coords = np.arange(10).reshape(5, 2) * 7
    np.savez(tmp_path / "a.npz", features=X, x=coords[:, 0], y=coords[:, 1])
    np.savez(tmp_path / "b.npz", features=X, coordinates=coords)
    torch.save({"features": torch.from_numpy(X), "coords": coords.tolist()}, tmp_path / "c.pt")
    with h5py.File(write(tmp_path / "d.h5", X), "a") as file:
        file["coordinates"] = coords
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_bag(path).coords, coords)


@pytest.mark.parametrize("suffix", PLACED)
@pytest.mark.parametrize("shape", [(5,), (5, 1), (2, 5, 2), (4, 2)])
def test_coordinates_that_nobody_understands_are_refused(
    shape: tuple[int, ...], suffix: str, tmp_path: Path
) -> None:
    path = write_placed(tmp_path / f"s{suffix}", np.zeros(shape, dtype=np.int64))
    with pytest.raises(DataError, match=r"coordinates of shape|4 coords for 5"):
        read_bag(path)


@pytest.mark.parametrize("suffix", PLACED)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1j, True])
def test_coordinates_that_are_no_numbers_are_refused(
    value: Any, suffix: str, tmp_path: Path
) -> None:
    path = write_placed(tmp_path / f"s{suffix}", np.full((5, 2), value))
    with pytest.raises(DataError, match=r"coordinates (hold NaN|are (complex128|bool))"):
        read_bag(path)


STEP = np.arange(10).reshape(5, 2)  # tiles, side by side
UM = {
    "STAMP 2.1": ({"unit": "um", "tile_size_um": 256.0, "tile_size_px": 224}, 224, 256 / 224),
    "512 px": ({"unit": "um", "tile_size_um": 256.0, "tile_size_px": 512}, 512, 0.5),
    "no unit": ({"tile_size_um": 256.0, "tile_size_px": 512}, 512, 0.5),
    "another spelling": ({"unit": "Micrometers", "tile_size_um": 256.0, "tile_size_px": 512}, 512,
                         0.5),
    "STAMP 2.0": ({"unit": "um", "tile_size": 256.0}, 224, None),
    "no px": ({"unit": "um", "tile_size_um": 256.0}, 224, None),
    "px by mpp": ({"unit": "um", "tile_size_um": 256.0, "mpp": 0.5}, 512, 0.5),
}  # fmt: skip


@pytest.mark.parametrize("suffix", PLACED)
@pytest.mark.parametrize("kind", UM)
def test_micrometres_become_pixels(
    kind: str, suffix: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bagchecks, "_told", [])
    attrs, side, mpp = UM[kind]
    path = write_placed(tmp_path / f"s{suffix}", (STEP * 256).astype(np.float32), **attrs)
    bag = read_bag(path)
    np.testing.assert_array_equal(bag.coords, STEP * side)
    assert (bag.patch_size_level0, bag.mpp) == (side, mpp)
    read_bag(path)
    said = capsys.readouterr().err
    assert said.count("tiles are taken as 224 px wide, STAMP's default") == (mpp is None)


def test_pixels_stay_pixels(tmp_path: Path) -> None:
    path = write_placed(tmp_path / "s.h5", STEP * 224.0, unit="px", tile_size=224)
    bag = read_bag(path)
    np.testing.assert_array_equal(bag.coords, STEP * 224)
    assert bag.patch_size_level0 == 224


@pytest.mark.parametrize("suffix", PLACED)
@pytest.mark.parametrize(
    ("attrs", "said"),
    [
        ({"unit": "um"}, "does not say how large a tile is"),
        ({"unit": "um", "tile_size_px": 224}, "does not say how large a tile is"),
        ({"unit": "um", "tile_size_um": float("nan")}, "does not say how large a tile is"),
        ({"unit": "furlong", "tile_size_um": 256.0}, "coordinates are in 'furlong'"),
    ],
)
def test_units_that_cannot_be_converted_are_refused(
    attrs: dict[str, Any], said: str, suffix: str, tmp_path: Path
) -> None:
    path = write_placed(tmp_path / f"s{suffix}", STEP * 256.0, **attrs)
    with pytest.raises(DataError, match=said):
        read_bag(path)


def test_encoded_files_keep_no_unit_that_their_coordinates_have_lost(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    path = write(tmp_path / "f" / "s.h5", X)
    with h5py.File(path, "a") as file:
        file["coords"] = STEP * 256.0
        file["coords"].attrs.update({"unit": "um", "tile_size_um": 256.0, "tile_size_px": 512})
    encode_bags(_Same(), tmp_path / "f", tmp_path / "out", recipe={})
    done = read_bag(next((tmp_path / "out").rglob("s.h5")))
    np.testing.assert_array_equal(done.coords, STEP * 512)
    assert (done.patch_size_level0, done.mpp) == (512, 0.5)


class _Same:
    card = EncoderCard("same", "features", 8, "Changes nothing.", upstream="any")
    dim = 8

    def encode(self, features: np.ndarray) -> np.ndarray:
        return features


def _slide2vec(root: Path, content: bytes | dict[str, Any]) -> Path:
    for folder in ("tile_embeddings", "tiles"):
        (root / folder).mkdir()
    file = root / "tiles" / "s.coordinates.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez_compressed(file, **content)
    return write(root / "tile_embeddings" / "s.pt", X)


ROW = np.arange(5)
BESIDE: dict[str, tuple[Any, str]] = {
    "no archive": (b"PK\x03\x04 no archive", "unreadable"),
    "empty": (b"", "unreadable"),
    "without y": ({"x": ROW}, "unreadable"),
    "lengths differ": ({"x": ROW, "y": ROW[:4]}, "unreadable"),
    "too few": ({"x": ROW[:4], "y": ROW[:4]}, "4 coords for 5 features"),
    "scalars": ({"x": 1, "y": 2}, "unreadable"),
    "text": ({"x": ROW.astype(str), "y": ROW.astype(str)}, "not numbers"),
    "NaN": ({"x": ROW * np.nan, "y": ROW}, "NaN"),
    "far too large": ({"x": np.zeros(1 << 20, np.int64), "y": np.zeros(1 << 20)}, "its arrays"),
}


@pytest.mark.parametrize("how", BESIDE)
def test_damaged_coordinates_of_slide2vec_are_refused(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, said = BESIDE[how]
    if how == "far too large":
        monkeypatch.setattr(bagchecks, "_LARGE", 1 << 20)
    with pytest.raises(DataError, match=said):
        read_bag(_slide2vec(tmp_path, content))


def test_a_changed_bit_in_slide2vecs_coordinates_is_noticed(tmp_path: Path) -> None:
    path = _slide2vec(tmp_path, {"x": ROW, "y": ROW})
    file = tmp_path / "tiles" / "s.coordinates.npz"
    content = bytearray(file.read_bytes())
    content[60] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="unreadable"):
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


def _elsewhere(path: Path, name: str, kind: str, target: Path) -> Path:
    """Write a file in which the numbers of one name lie in another file."""
    write(path, X)
    values = {"features": X, "coords": STEP, "barcode": np.array([b"a"] * 5)}[name]
    with h5py.File(path, "a") as file:
        file.pop(name, None)
        if kind == "external storage":
            where = [(str(target), 0, values.nbytes)]
            file.create_dataset(name, values.shape, values.dtype, external=where)
        elif kind == "external link":
            file[name] = h5py.ExternalLink(str(target), "features")
        elif kind == "soft link through an external link":
            file["elsewhere"] = h5py.ExternalLink(str(target), "/")
            file[name] = h5py.SoftLink("/elsewhere/features")
        else:
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(target), "features", values.shape)
            file.create_virtual_dataset(name, layout)
    return path


KINDS = ["external storage", "external link", "soft link through an external link", "virtual"]
_OPEN_ALL = """
import sys
from pathlib import Path
from spade_bench.features.formats import look, read_bag
from spade_bench.errors import DataError
for path in map(Path, sys.argv[1:]):
    for read in (look, read_bag):
        try:
            read(path)
            print(path.stem, "was read")
        except DataError as error:
            print(error)
"""


@pytest.mark.parametrize("name", ["features", "coords", "barcode"])
def test_numbers_of_other_files_are_refused_and_those_files_never_opened(
    name: str, tmp_path: Path
) -> None:
    # Whoever opens a pipe that nobody writes to waits for ever.
    os.mkfifo(tmp_path / "pipe.h5")
    paths = [
        _elsewhere(tmp_path / f"{i}.h5", name, kind, tmp_path / "pipe.h5")
        for i, kind in enumerate(KINDS)
    ]
    done = subprocess.run(
        [sys.executable, "-c", _OPEN_ALL, *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * len(KINDS)
    for i in range(len(KINDS)):
        pair = lines[2 * i : 2 * i + 2]
        assert f"{i}.h5: '{name}' lies in another file" in pair[1]
        if name == "features":
            assert pair[0] == pair[1]


@pytest.mark.parametrize("kind", KINDS)
def test_readable_numbers_of_other_files_are_refused_too(kind: str, tmp_path: Path) -> None:
    target = write(tmp_path / "other.h5", X)
    path = _elsewhere(tmp_path / "s.h5", "features", kind, target)
    for read in (look, read_bag):
        with pytest.raises(DataError, match="lies in another file"):
            read(path)


def test_links_within_a_file_are_followed_and_not_for_ever(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "inside.h5", "w") as file:
        file["deep/numbers"] = X
        file["deep/again"] = h5py.SoftLink("numbers")
        file["features"] = h5py.SoftLink("/deep/again")
    np.testing.assert_array_equal(read_bag(tmp_path / "inside.h5").features, X)
    with h5py.File(tmp_path / "loop.h5", "w") as file:
        file["features"] = h5py.SoftLink("/feats")
        file["feats"] = h5py.SoftLink("/features")
    with h5py.File(tmp_path / "nowhere.h5", "w") as file:
        file["features"] = h5py.SoftLink("/none")
    for name, said in (("loop", "links to itself"), ("nowhere", "links to nothing")):
        with pytest.raises(DataError, match=said):
            look(tmp_path / f"{name}.h5")


BARCODES: dict[str, tuple[Any, str]] = {
    "numbers": (np.arange(5), "barcodes are int64, not text"),
    "latin-1": (np.array(["\xe9".encode("latin-1")] * 5), "not text in UTF-8"),
    "too few": (np.array([b"a", b"b"]), "2 barcodes for 5 features"),
}


@pytest.mark.parametrize("odd", BARCODES)
def test_odd_barcodes_are_refused(odd: str, tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", X)
    with h5py.File(path, "a") as file:
        file["barcode"] = BARCODES[odd][0]
    with pytest.raises(DataError, match=BARCODES[odd][1]):
        read_bag(path)


def test_damaged_and_huge_barcodes_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", X)
    with h5py.File(path, "a") as file:
        codes = np.array([b"a-1"] * 5)
        data = file.create_dataset("barcode", data=codes, chunks=(5,), compression="gzip")
        offset = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset : offset + 8] = bytes(8)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="damaged chunk"):
        read_bag(path)
    path = write(tmp_path / "huge.h5", X)
    with h5py.File(path, "a") as file:
        file.create_dataset("barcode", (10**12,), "S16", chunks=(1024,))
    with pytest.raises(DataError, match="'barcode' declares shape"):
        read_bag(path)


def test_a_dataset_without_values_holds_no_features(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["features"] = h5py.Empty("f4")
    assert look(tmp_path / "s.h5") is None


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
