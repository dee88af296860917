"""The cache of digests and packs: faster, and never anything but what the files say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from spade_bench.cohorts.checks import featurescan as scan
from spade_bench.errors import DataError, UserError
from spade_bench.features import bagfiles, casebags
from spade_bench.features import bags as bags_module
from spade_bench.features import cache as packcache
from spade_bench.features.bags import find_bags, read_bag
from spade_bench.features.cache import CACHE_FOLDER, FeatureCache, KnownFiles
from spade_bench.features.casebags import CaseBags
from spade_bench.features.packs import HEADER, open_pack, split_path
from spade_bench.files import write_sealed

RNG = np.random.default_rng(0)
scan_bags = partial(casebags.scan_bags, cache="copy")


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Caches lie beside the features, and files count as settled at once."""
    monkeypatch.delenv("SPADE_BENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "central"))
    monkeypatch.setattr(packcache, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read, in order."""
    seen: list[Path] = []

    def spy(path: Path) -> object:
        seen.append(path)
        return read_bag(path)

    monkeypatch.setattr(casebags, "read_bag", spy)
    monkeypatch.setattr(bagfiles, "read_bag", spy)
    return seen


def _chunked(path: Path, x: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_dataset("features", data=x, chunks=(1, x.shape[1]))
        data.attrs["encoder"] = "uni"


def _folder(folder: Path) -> dict[str, Path]:
    """Slides in four layouts and two number types."""
    folder.mkdir()
    x = [RNG.normal(size=(4 + i, 6)).astype(np.float32) for i in range(5)]
    _chunked(folder / "a.h5", x[0])
    _chunked(folder / "b.h5", x[1].astype(np.float16))
    torch.save(torch.from_numpy(x[2]), folder / "c.pt")
    torch.save(torch.from_numpy(x[3]).bfloat16(), folder / "d.pt")
    np.savez(folder / "e.npz", features=x[4].astype(np.float64))
    return {path.stem: path for path in sorted(folder.iterdir())}


def test_nothing_is_read_twice_and_bags_come_from_packs(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    exact = {slide: read_bag(path).features for slide, path in files.items()}
    first = scan_bags(files)
    assert sorted(reads) == sorted(files.values())
    assert (tmp_path / "f" / CACHE_FOLDER / "index.json").is_file()
    reads.clear()
    assert scan_bags(files) == first
    bags = CaseBags.from_files([[path] for path in files.values()], 6)
    pairs = CaseBags.from_files([[files["a"], files["c"]]], 6)
    for i, slide in enumerate(files):
        assert np.array_equal(bags[i], exact[slide].astype(np.float32))
    assert np.array_equal(pairs[0], np.concatenate([exact["a"], exact["c"]]))
    assert reads == []
    for slide, path in files.items():  # the very type of the file
        source = KnownFiles().fastest(path)
        assert split_path(source) is not None
        assert read_bag(source).features.dtype == exact[slide].dtype
    assert find_bags(tmp_path / "f", "uni") == {s: files[s] for s in "ab"}


def test_a_check_reads_what_no_run_has_read_and_the_other_way_round(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "read_bag", casebags.read_bag)  # the spy
    files = _folder(tmp_path / "f")
    with h5py.File(files["a"], "a") as file:
        file["features"].attrs["mpp"] = 0.5
    np.save(tmp_path / "f" / "nan.npy", np.full((3, 6), np.nan, np.float32))
    files["nan"] = tmp_path / "f" / "nan.npy"
    slides = dict.fromkeys(files, "case")
    monkeypatch.setenv("SPADE_BENCH_CACHE", "off")
    plain = scan.scan_features(tmp_path / "f", slides).bags
    monkeypatch.delenv("SPADE_BENCH_CACHE")
    reads.clear()
    assert scan.scan_features(tmp_path / "f", slides).bags == plain
    assert set(reads) == set(files.values())
    reads.clear()
    assert scan.scan_features(tmp_path / "f", slides).bags == plain
    assert reads == [files["nan"]]  # which rows are bad is in the file alone
    reads.clear()
    infos = casebags.scan_bags(files)
    assert reads == []
    assert {s: (i.n, i.dim, i.encoder) for s, i in infos.items() if not i.problem} == {
        s: (b.n, b.dim, b.encoder) for s, b in plain.items() if not b.bad
    }
    assert (plain["a"].mpp, plain["b"].mpp, plain["nan"].bad) == (0.5, None, 3)


def test_a_first_check_opens_each_file_once_and_a_second_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"s{i}" for i in range(6)]
    for name in names:
        _chunked(tmp_path / "f" / f"{name}.h5", RNG.normal(size=(4, 3)).astype(np.float32))
    opened: list[str] = []
    read_hdf5, open_path = h5py.File, Path.open

    def of_hdf5(path: Path, mode: str) -> h5py.File:
        opened.append(path.stem)
        return read_hdf5(path, mode)

    def of_path(path: Path, *given: Any, **named: Any) -> object:
        if path.suffix == ".h5":
            opened.append(path.stem)
        return open_path(path, *given, **named)

    with monkeypatch.context() as spying:
        spying.setattr(h5py, "File", of_hdf5)
        first = scan.scan_features(tmp_path / "f", names)
        assert sorted(opened) == names
        opened.clear()
        spying.setattr(Path, "open", of_path)
        assert scan.scan_features(tmp_path / "f", names) == first
        assert opened == []
    _chunked(tmp_path / "f" / "s5.h5", RNG.normal(size=(5, 3)).astype(np.float32))
    with monkeypatch.context() as spying:
        spying.setattr(h5py, "File", of_hdf5)
        changed = scan.scan_features(tmp_path / "f", names).bags
    assert set(opened) == {"s5"}
    assert [name for name in names if changed[name] != first.bags[name]] == ["s5"]


def test_pooled_numbers_are_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _folder(tmp_path / "f")
    cases = [[files["a"], files["b"]], [files["c"]], [files["d"]], [files["e"]]]
    monkeypatch.setenv("SPADE_BENCH_CACHE", "off")
    plain = CaseBags.from_files(cases, 6).pooled()
    infos = scan_bags(files)
    assert not (tmp_path / "f" / CACHE_FOLDER).exists()
    monkeypatch.delenv("SPADE_BENCH_CACHE")
    assert scan_bags(files) == infos
    assert CaseBags.from_files(cases, 6).pooled().tobytes() == plain.tobytes()


@pytest.mark.parametrize("how", ["rewrite", "same size and time", "shorter", "folder renamed"])
def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[Path], how: str) -> None:
    path = tmp_path / "features_x" / "s.npy"
    path.parent.mkdir()
    np.save(path, np.ones((3, 4), np.float32))
    before = path.stat()
    first = scan_bags({"s": path})["s"]
    assert first.encoder == "x"
    reads.clear()
    if how == "folder renamed":
        path = path.parent.rename(tmp_path / "features_y") / "s.npy"
    else:
        np.save(path, np.full((2 if how == "shorter" else 3, 4), 2, np.float32))
        if how == "same size and time":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = scan_bags({"s": path})["s"]
    assert reads == [path]
    if how == "folder renamed":
        assert (second.encoder, second.digest) == ("y", first.digest)
        return
    assert second.digest != first.digest
    assert CaseBags.from_files([[path]], 4)[0].max() == 2


def test_fresh_files_are_not_trusted(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packcache, "SETTLED_SECONDS", 60.0)
    files = _folder(tmp_path / "f")
    scan_bags(files)
    scan_bags(files)
    assert len(reads) == 2 * len(files)


def test_bad_files_are_remembered_as_bad(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    bad = np.ones((3, 6), np.float16)
    bad[0, 0], bad[1, 1] = np.nan, np.inf
    _chunked(tmp_path / "f" / "bad.h5", bad)
    _chunked(tmp_path / "f" / "wide.h5", np.ones((3, 7), np.float32))
    with h5py.File(tmp_path / "f" / "zero.h5", "w") as file:
        file["features"] = np.zeros(0, np.float32)
    files |= {name: tmp_path / "f" / f"{name}.h5" for name in ("bad", "wide", "zero")}
    for _ in range(2):
        found = scan_bags(files)
        assert {slide: info.problem for slide, info in found.items() if info.problem} == {
            "bad": "1 of 3 rows are NaN, 1 of 3 rows are infinite (float16 overflow)",
            "wide": "7 wide, others 6",
            "zero": "no patches",
        }
    assert len(reads) == len(files)


def test_large_contiguous_files_are_read_where_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = np.ones((300, 1024), np.float32)
    with h5py.File(tmp_path / "big.h5", "w") as file:
        file["features"] = big
    np.save(tmp_path / "array.npy", big + 1)
    _chunked(tmp_path / "slow.h5", big + 2)
    files = {path.stem: path for path in sorted(tmp_path.glob("*.*")) if path.is_file()}
    scan_bags(files)
    fastest = {slide: KnownFiles().fastest(path) for slide, path in files.items()}
    assert [slide for slide in files if fastest[slide] != files[slide]] == ["slow"]
    monkeypatch.setattr(packcache, "FREE_SHARE", 1 << 60)  # a full disk
    _chunked(tmp_path / "more.h5", big + 3)
    scan_bags({"more": tmp_path / "more.h5"})
    assert KnownFiles().fastest(tmp_path / "more.h5") == tmp_path / "more.h5"


def test_read_only_folders_stay_as_they_are(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    (tmp_path / "f").chmod(0o555)
    try:
        for _ in range(2):
            scan_bags(files)
        assert len(reads) == len(files)
        assert sorted((tmp_path / "f").iterdir()) == sorted(files.values())
    finally:
        (tmp_path / "f").chmod(0o755)


def test_damaged_caches_are_made_anew(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    first = scan_bags(files)
    home = tmp_path / "f" / CACHE_FOLDER
    for pack in home.glob("*.pack"):
        pack.write_bytes(pack.read_bytes()[:-9])
    (home / "index.json").write_text("{")
    reads.clear()
    assert scan_bags(files) == first
    assert len(reads) == len(files)
    assert CaseBags.from_files([[files["a"]]], 6)[0].shape == (4, 6)


def test_an_edited_index_is_named_and_made_anew(
    tmp_path: Path, reads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = _folder(tmp_path / "f")
    first = scan_bags(files)
    index = tmp_path / "f" / CACHE_FOLDER / "index.json"
    content = json.loads(index.read_text())
    next(iter(content["files"].values()))["known"]["dim"] += 1
    index.write_text(json.dumps(content))
    reads.clear()
    capsys.readouterr()
    assert scan_bags(files) == first
    assert len(reads) == len(files)
    told = capsys.readouterr().err
    assert told.count(f"{index}: damaged or edited") == 1
    reads.clear()
    assert scan_bags(files) == first
    assert reads == []


def test_vanished_files_and_unused_packs_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _folder(tmp_path / "f")
    scan_bags(files)
    home = tmp_path / "f" / CACHE_FOLDER
    old = set(home.glob("*.pack"))
    for path in files.values():
        path.unlink()
    monkeypatch.setattr(packcache, "STALE_SECONDS", -1.0)
    _chunked(tmp_path / "f" / "new.h5", np.ones((2, 6), np.float32))
    scan_bags({"new": tmp_path / "f" / "new.h5"})
    left = set(home.glob("*.pack"))
    assert len(left) == 1
    assert not left & old
    cache = FeatureCache.of([tmp_path / "f" / "new.h5"], "copy")
    assert cache is not None
    assert list(cache._entries) == ["new.h5"]


def test_an_interrupted_scan_leaves_no_half_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _folder(tmp_path / "f")
    look: Callable[..., object] = casebags._look

    def stop(path: Path, *more: object) -> object:
        if path.stem == "d":
            raise KeyboardInterrupt
        return look(path, *more)

    monkeypatch.setattr(casebags, "_look", stop)
    with pytest.raises(KeyboardInterrupt):
        scan_bags(files)
    assert not (tmp_path / "f" / CACHE_FOLDER).exists()


def test_finding_known_files_opens_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _folder(tmp_path / "f")
    for name in ("c", "d", "e"):
        files.pop(name).unlink()
    scan_bags(files)

    def refuse(path: Path) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(bags_module, "look", refuse)
    assert find_bags(tmp_path / "f") == files
    assert find_bags(tmp_path, "uni") == files  # from above too
    _chunked(tmp_path / "f" / "new.h5", np.ones((2, 6), np.float32))
    with pytest.raises(AssertionError, match=r"new\.h5 was opened"):
        find_bags(tmp_path / "f")


def test_two_runs_at_once_keep_what_both_found(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    paths = list(files.values())
    first, second = (FeatureCache.of(paths, "copy") for _ in range(2))
    assert first is not None
    assert second is not None
    for cache, path in ((first, files["a"]), (second, files["c"])):
        casebags._look(path, cache)
    first.commit()
    second.commit()
    reads.clear()
    scan_bags({slide: files[slide] for slide in "ac"})
    assert reads == []
    assert split_path(KnownFiles().fastest(files["a"])) is not None
    assert split_path(KnownFiles().fastest(files["c"])) is not None


def _damage(home: Path, digest: str) -> Path:
    """Flip one bit of a bag in the cache's packs."""
    for pack in home.glob("*.pack"):
        if (slide := open_pack(pack).slides.get(digest)) is not None:
            content = bytearray(pack.read_bytes())
            wide = open_pack(pack).rows.dtype.itemsize * open_pack(pack).dim
            content[HEADER + slide.start * wide] ^= 1
            pack.write_bytes(bytes(content))
            return pack
    raise AssertionError(digest)


def test_a_damaged_copy_is_replaced_by_the_file_and_made_anew(
    tmp_path: Path, reads: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = _folder(tmp_path / "f")
    exact = {slide: read_bag(path).features.astype(np.float32) for slide, path in files.items()}
    first = scan_bags(files)
    pack = _damage(tmp_path / "f" / CACHE_FOLDER, first["c"].digest)
    capsys.readouterr()
    reads.clear()
    bags = CaseBags.from_files([[path] for path in files.values()], 6)
    for i, slide in enumerate(files):
        assert np.array_equal(bags[i], exact[slide])
    for i, slide in enumerate(files):
        assert np.array_equal(bags[i], exact[slide])
    assert reads == [files["c"]]  # sound bags of the same pack are not read from the files
    assert capsys.readouterr().err.count(f"{pack}: damaged") == 1
    assert not pack.exists()
    assert scan_bags(files) == first
    assert pack.is_file()
    reads.clear()
    again = CaseBags.from_files([[path] for path in files.values()], 6)
    assert np.array_equal(again[2], exact["c"])
    assert reads == []
    assert capsys.readouterr().err.count("damaged") == 0


def test_a_lost_pack_is_made_anew(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    first = scan_bags(files)
    packs = set((tmp_path / "f" / CACHE_FOLDER).glob("*.pack"))
    for pack in packs:
        pack.unlink()
    assert scan_bags(files) == first
    assert set((tmp_path / "f" / CACHE_FOLDER).glob("*.pack")) == packs


@pytest.mark.parametrize(
    ("old", "new"),
    [('"n": 4', '"n": 5'), ('"problem": ""', '"problem": "no"'), ('"files"', '"flies"')],
)
def test_a_changed_index_is_not_believed(
    tmp_path: Path, reads: list[Path], old: str, new: str
) -> None:
    files = _folder(tmp_path / "f")
    first = scan_bags(files)
    index = tmp_path / "f" / CACHE_FOLDER / "index.json"
    text = index.read_text()
    assert old in text
    index.write_text(text.replace(old, new, 1))
    reads.clear()
    assert scan_bags(files) == first
    assert sorted(reads) == sorted(files.values())


@pytest.mark.parametrize(
    "files", ["text", ["list"], {"a.h5": None}, {"a.h5": {"known": {"n": 1}, "signature": []}}]
)
def test_an_index_of_another_shape_is_not_believed(
    tmp_path: Path, reads: list[Path], files: object
) -> None:
    found = _folder(tmp_path / "f")
    first = scan_bags(found)
    index = tmp_path / "f" / CACHE_FOLDER / "index.json"
    index.write_text(json.dumps({"version": 1, "files": files}))
    reads.clear()
    assert scan_bags(found) == first
    assert sorted(reads) == sorted(found.values())


def test_other_numbers_than_at_the_first_reading_are_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = _folder(tmp_path / "f")
    scan_bags(files)
    assert "other numbers" not in capsys.readouterr().err
    _chunked(files["a"], np.ones((4, 6), np.float32))
    (tmp_path / "f" / "c.pt").write_bytes((tmp_path / "f" / "c.pt").read_bytes())  # written anew
    for said in (1, 0):
        scan_bags(files)
        line = "1 feature file(s) hold other numbers than when they were last read: a.h5\n"
        assert capsys.readouterr().err.count(line) == said


def test_a_file_that_a_disk_changed_is_refused(tmp_path: Path, reads: list[Path]) -> None:
    """Size and times stay as they were, and so it is not read again before it is used."""
    path = tmp_path / "big.npy"
    np.save(path, np.ones((300, 1024), np.float32))
    first = scan_bags({"s": path})
    index = tmp_path / CACHE_FOLDER / "index.json"
    assert first["s"].digest in index.read_text()
    bags = CaseBags.from_files([[path]], 1024)
    assert bags[0].shape == (300, 1024)
    array = np.load(path)
    array[7, 7] = 9
    np.save(path, array)
    content = json.loads(index.read_text())["files"]
    content["big.npy"]["signature"] = packcache.signature(path)
    write_sealed(index, {"version": 1, "files": content})
    assert scan_bags({"s": path}) == first
    with pytest.raises(DataError, match=r"big\.npy: holds other numbers than when it was first"):
        CaseBags.from_files([[path]], 1024)[0]
    later = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    assert scan_bags({"s": path})["s"].digest != first["s"].digest
    assert CaseBags.from_files([[path]], 1024)[0].max() == 9


def test_nothing_large_is_written_unasked(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    exact = {slide: read_bag(path).features.astype(np.float32) for slide, path in files.items()}
    first = casebags.scan_bags(files)
    home = tmp_path / "f" / CACHE_FOLDER
    assert [path.name for path in home.iterdir()] == ["index.json"]
    reads.clear()
    assert casebags.scan_bags(files) == first
    assert reads == []
    bags = CaseBags.from_files([[path] for path in files.values()], 6)
    for i, slide in enumerate(files):
        assert np.array_equal(bags[i], exact[slide])
    assert reads == list(files.values())
    reads.clear()
    assert scan_bags(files) == first  # asked for now
    assert sorted(reads) == sorted(files.values())
    assert list(home.glob("bags-*.pack"))
    reads.clear()
    assert casebags.scan_bags(files) == first  # copies that are there are used whatever is asked
    assert np.array_equal(CaseBags.from_files([[files["c"]]], 6)[0], exact["c"])
    assert reads == []


def test_off_leaves_no_trace_and_reads_none(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    off = partial(casebags.scan_bags, cache="off")
    first = off(files)
    assert not (tmp_path / "f" / CACHE_FOLDER).exists()
    assert scan_bags(files) == first
    reads.clear()
    assert off(files) == first
    bags = CaseBags.from_files([[path] for path in files.values()], 6, cache="off")
    assert len(bags[0]) == 4
    assert reads == [*files.values(), files["a"]]


def test_copies_that_do_not_fit_are_not_tried_again(
    tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _folder(tmp_path / "f")
    monkeypatch.setattr(packcache, "FREE_SHARE", 1 << 60)
    first = scan_bags(files)
    reads.clear()
    assert scan_bags(files) == first
    assert reads == []


def test_an_index_of_the_version_before_is_understood(tmp_path: Path, reads: list[Path]) -> None:
    files = _folder(tmp_path / "f")
    first = scan_bags(files)
    index = tmp_path / "f" / CACHE_FOLDER / "index.json"
    content = json.loads(index.read_text())["files"]
    for entry in content.values():
        entry["kept"] = entry.pop("slow")
    write_sealed(index, {"version": 1, "files": content})
    reads.clear()
    assert scan_bags(files) == first
    for pack in index.parent.glob("*.pack"):
        pack.unlink()
    assert casebags.scan_bags(files) == first
    assert reads == []
    assert scan_bags(files) == first
    assert sorted(reads) == sorted(files.values())


def test_slow_files_get_one_word_of_advice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _folder(tmp_path / "f")
    casebags.scan_bags(files)
    assert "--cache copy" not in capsys.readouterr().err  # they are too small to matter
    monkeypatch.setattr(packcache, "ADVICE_BYTES", 1)
    for said in (1, 0):
        casebags.scan_bags(files)
        text = capsys.readouterr().err.replace("\n", " ")
        assert text.count("5 of 5 feature files") == said
        assert text.count("`run --cache copy`") == text.count("`spade-bench pack`") == said
    monkeypatch.setattr(packcache, "_advised", set())
    scan_bags(files)
    casebags.scan_bags(files)
    assert "--cache copy" not in capsys.readouterr().err


def test_an_unknown_mode_is_refused() -> None:
    for mode in packcache.CACHE_MODES:
        packcache.check_cache_mode(mode)
    with pytest.raises(UserError, match="Use digests, copy, off"):
        packcache.check_cache_mode("copies")
