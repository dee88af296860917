"""The packed store: what goes in comes out, and anything broken says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from spade_bench.cli.main import app
from spade_bench.errors import DataError, UserError
from spade_bench.extraction.feature_bags import encode_bags
from spade_bench.features.bags import bag_dim, bag_encoder, find_bags, read_bag, write_features
from spade_bench.features.casebags import scan_bags
from spade_bench.features.packing import pack_features
from spade_bench.features.packs import is_pack, open_pack
from spade_bench.features.packwriter import PackWriter
from spade_bench.types import Bag, EncoderCard

RNG = np.random.default_rng(0)


def _folder(folder: Path, n: int = 4, dim: int = 6, scale: float = 1.0) -> Path:
    for i in range(n):
        x = (scale * RNG.normal(size=(3 + i, dim))).astype(np.float32)
        xy = RNG.integers(0, 9999, size=(3 + i, 2)) if i % 2 else None
        spots = [f"b{j}-1" for j in range(3 + i)] if i == 3 else None
        write_features(folder / f"s.{i}.h5", x, xy, slide_id=f"s.{i}", encoder="uni",
                       barcodes=spots,
                       attrs={"mpp": 0.5, "patch_size_level0": 448, "level0_mpp": 0.25,
                              "bounds_x": 30, "bounds_y": 40})  # fmt: skip
    return folder


def _same(a: Bag, b: Bag) -> None:
    assert np.array_equal(a.features, b.features)
    assert a.features.dtype == b.features.dtype
    assert (a.coords is None) == (b.coords is None)
    assert a.coords is None or np.array_equal(a.coords, b.coords)
    names = ("slide_id", "patch_size_level0", "mpp", "level0_mpp", "offset", "encoder", "barcodes")
    rest = [[getattr(x, name) for name in names] for x in (a, b)]
    assert rest[0] == rest[1]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    dim=st.integers(1, 5),
    dtype=st.sampled_from(["float16", "float32"]),
    placed=st.booleans(),
)
def test_any_bags_come_back(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], dim: int, dtype: str, placed: bool
) -> None:
    path = tmp_path_factory.mktemp("pack") / "x.pack"
    bags = []
    for i, n in enumerate(lengths):
        xy = RNG.integers(-5, 1 << 40, size=(n, 2)) if placed or i % 2 else None
        bags.append(Bag(f"s{i}", RNG.normal(size=(n, dim)).astype(dtype), xy, 224, 0.5, "e",
                        level0_mpp=0.25))  # fmt: skip
    writer = PackWriter(path, dim, dtype)
    for bag in bags:
        writer.add(bag)
    writer.finish()
    pack = open_pack(path)
    assert list(pack.slides) == [bag.slide_id for bag in bags]
    for bag in bags:
        _same(pack.bag(bag.slide_id), bag)
    plain = np.load(path)  # a pack is a plain array too
    assert np.array_equal(plain, np.concatenate([bag.features for bag in bags]))
    assert list(path.parent.iterdir()) == [path]


def test_packed_folder_reads_like_the_files(tmp_path: Path) -> None:
    files = find_bags(_folder(tmp_path / "features"))
    done = pack_features(tmp_path / "features", tmp_path, dtype="float32")
    assert done.path == tmp_path / "features.pack"
    packed = find_bags(done.path, "uni")
    assert list(packed) == list(files)
    for slide, path in packed.items():
        _same(read_bag(path), read_bag(files[slide]))
        assert (bag_dim(path), bag_encoder(path)) == (6, "uni")
    assert find_bags(tmp_path) == files  # beside the files it was made of, a pack yields to them
    again = pack_features(done.path, tmp_path / "again.bin", dtype="float32")
    assert again.content == done.content
    assert is_pack(again.path)
    (tmp_path / "sub").mkdir()
    inside = pack_features(tmp_path / "features", tmp_path / "sub", dtype="float32").path
    assert list(find_bags(tmp_path / "sub")) == list(files)
    assert inside.read_bytes() == done.path.read_bytes()


def test_content_key_follows_values_ids_and_type(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "features")

    def key(dtype: str = "float32") -> str:
        return pack_features(folder, tmp_path / "x.pack", dtype=dtype).content

    first = key()
    assert key() == first
    assert key("float16") != first
    (folder / "s.0.h5").rename(folder / "t.h5")
    renamed = key()
    assert renamed != first
    np.save(folder / "u.npy", np.ones((2, 6), np.float32))
    with pytest.raises(DataError, match="several encoders"):
        key()
    write_features(folder / "t.h5", np.ones((2, 6)), slide_id="t", encoder="uni")
    (folder / "u.npy").unlink()
    assert key() != renamed


def test_float16_halves_the_file_says_the_rounding_and_never_overflows(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "features")
    half = pack_features(folder, tmp_path / "h.pack")
    assert 0 < half.rounding < 2**-11 * 1.01
    for slide, path in find_bags(half.path).items():
        exact = read_bag(folder / f"{slide}.h5").features
        assert np.array_equal(read_bag(path).features, exact.astype(np.float16))
    write_features(folder / "big.h5", np.full((2, 6), 7e4), slide_id="big", encoder="uni")
    before = half.path.read_bytes()
    with pytest.raises(DataError, match=r"big: values up to 7e\+04 overflow float16.*--float32"):
        pack_features(folder, tmp_path / "h.pack")
    assert half.path.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    full = pack_features(folder, tmp_path / "f.pack", dtype="float32")
    assert read_bag(find_bags(full.path)["big"]).features.max() == np.float32(7e4)


def test_unusable_slides_are_named_and_left_out_only_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path / "features")
    bad = np.ones((4, 6))
    bad[1, 2] = np.nan
    write_features(folder / "nan.h5", bad, slide_id="nan", encoder="uni")
    write_features(folder / "wide.h5", np.ones((4, 7)), slide_id="wide", encoder="uni")
    (folder / "broken.h5").write_bytes(b"x")
    with pytest.raises(DataError, match="3 of 7 slides cannot be packed"):
        pack_features(folder, tmp_path / "x.pack")
    said = capsys.readouterr().err
    for line in ("nan: 1 of 4 rows are NaN", "wide: 7 wide, others 6", "broken: not a readable"):
        assert line in said
    assert not (tmp_path / "x.pack").exists()
    done = pack_features(folder, tmp_path / "x.pack", allow_missing=True)
    assert (done.slides, sorted(done.left_out)) == (4, ["broken", "nan", "wide"])


def test_packing_again_says_which_slides_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path / "features")
    done = pack_features(folder, tmp_path / "x.pack")  # rounded: not what the files hold
    sources = {slide: info.digest for slide, info in scan_bags(find_bags(folder)).items()}
    assert {s: packed.source for s, packed in open_pack(done.path).slides.items()} == sources
    pack_features(folder, tmp_path / "x.pack")
    assert "other numbers" not in capsys.readouterr().err
    write_features(folder / "s.1.h5", np.ones((2, 6)), slide_id="s.1", encoder="uni")
    pack_features(folder, tmp_path / "x.pack")
    said = "1 slide(s) hold other numbers than when they were packed before: s.1\n"
    assert said in capsys.readouterr().err


def test_damaged_packs_and_odd_targets_are_refused(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "features")
    path = pack_features(folder, tmp_path / "x.pack").path
    data = path.read_bytes()
    path.write_bytes(data[:-7])
    with pytest.raises(DataError, match="incomplete"):
        open_pack(path)
    path.write_bytes(data[:5000] + data[5100:])
    with pytest.raises(DataError, match="damaged"):
        find_bags(path)
    path.write_bytes(data[:-32] + b"\x09" + data[-31:])
    with pytest.raises(DataError, match="version 9"):
        open_pack(path)
    path.write_bytes(data)
    with pytest.raises(DataError, match="holds no slide 'none'"):
        read_bag(path / "none.bag")
    with pytest.raises(DataError, match="among the features"):
        pack_features(folder, folder / "x.pack")
    (tmp_path / "y.txt").write_text("mine")
    with pytest.raises(DataError, match="another file of this name"):
        pack_features(folder, tmp_path / "y.txt")
    with pytest.raises(DataError, match="no such features folder, nor a pack"):
        pack_features(tmp_path / "none", tmp_path / "z.pack")


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "x.pack", 3, "float32")
    writer.add(Bag("a", np.ones((2, 3), np.float32)))
    with pytest.raises(DataError, match="twice"):
        writer.add(Bag("a", np.ones((2, 3), np.float32)))
    with pytest.raises(DataError, match=r"shape \(2, 4\), not \(n, 3\)"):
        writer.add(Bag("b", np.ones((2, 4), np.float32)))
    writer.abandon()
    assert not list(tmp_path.iterdir())


def test_command(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "features")
    arguments = ["pack", "--features", str(folder), "--out", str(tmp_path / "x.pack")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["path"] == str(tmp_path / "x.pack")
    assert (told["slides"], told["rows"], told["dim"], told["dtype"]) == (4, 18, 6, "float16")
    failed = CliRunner().invoke(app, ["pack", "--features", str(tmp_path / "no"), "--out", "x"])
    assert isinstance(failed.exception, UserError)


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from spade_bench.features.packwriter import PackWriter
writer = PackWriter(Path(sys.argv[1]), 3, "float32")
os._exit(1)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x.pack")]
    assert subprocess.run(command, check=False).returncode == 1
    assert len(list(tmp_path.iterdir())) == 1
    writer = PackWriter(tmp_path / "y.pack", 3, "float32")
    writer.add(Bag("a", np.ones((2, 3), np.float32)))
    writer.finish()
    assert list(tmp_path.iterdir()) == [tmp_path / "y.pack"]


class _Sum:
    """An encoder of features: the sum and the count of each row."""

    card = EncoderCard("sums", "features", 2, "Sums rows.", upstream="uni")
    dim = 2

    def encode(self, features: np.ndarray) -> np.ndarray:
        return np.stack([features.sum(axis=1), np.full(len(features), 6)], axis=1)


def test_packs_can_be_encoded(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "features")
    path = pack_features(folder, tmp_path / "features_uni.pack", dtype="float32").path
    for source in (folder, path):
        done = encode_bags(_Sum(), source, tmp_path / "out" / source.name, recipe={"r": 1})
        assert not done.failed
    a, b = (find_bags(tmp_path / "out" / source.name, "sums") for source in (folder, path))
    assert list(a) == list(b) == ["s.0", "s.1", "s.2", "s.3"]
    for slide in a:
        _same(read_bag(a[slide]), read_bag(b[slide]))
    again = encode_bags(_Sum(), path, tmp_path / "out" / path.name, recipe={"r": 1})
    assert not again.written
    assert len(again.skipped) == 4
