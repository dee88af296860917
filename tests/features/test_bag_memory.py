"""Bags stay within one budget, and what encoders made of them within another one on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spade_bench.errors import ConfigError
from spade_bench.features import encodedbags
from spade_bench.features.bagmemory import BAG_BYTES, BagMemory, bag_bytes
from spade_bench.features.bags import find_bags, read_bag, write_features
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.encodedbags import ENCODED, EncodedBags
from spade_bench.features.packing import pack_features
from spade_bench.features.packs import open_pack

RNG = np.random.default_rng(0)
KB = np.zeros(256, dtype=np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_no_more_is_kept_than_the_budget_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    memory = BagMemory(20 * KB.nbytes)
    for step in range(200):
        if rng.random() < 0.1:
            memory.turn()
        bag = np.zeros(int(rng.integers(1, 8)) * 256, dtype=np.float32)
        kept = memory.keep(step, bag)
        assert memory.nbytes <= memory.size
        assert (memory.get(step) is bag) == kept


def test_what_a_step_uses_stays_and_the_oldest_of_others_goes() -> None:
    memory = BagMemory(3 * KB.nbytes)
    assert all(memory.keep(name, KB.copy()) for name in "abc")
    assert not memory.keep("d", KB)  # of one step: the next epoch would need what it displaced
    memory.turn()
    memory.get("a")
    assert memory.keep("d", KB.copy())
    assert [memory.get(name) is not None for name in "abcd"] == [True, False, True, True]


def test_bags_without_names_go_with_their_owner() -> None:
    memory = BagMemory()
    bags = CaseBags(lambda i: np.ones((2, 3), np.float32), 4, 3, memory=memory)
    assert [bags[i].sum() for i in range(4)] == [6.0] * 4
    assert memory.nbytes == 4 * 24
    del bags
    memory.keep("next", KB)
    assert memory.nbytes == KB.nbytes


def test_small_things_are_kept_beyond_the_budget_and_are_equal() -> None:
    memory, rows = BagMemory(0), RNG.normal(size=(500, 3, 100))
    for i, row in enumerate(rows):
        memory.keep_small(i, row)
    assert all(np.array_equal(memory.get(i), row) for i, row in enumerate(rows))


def test_the_budget_is_half_of_the_memory() -> None:
    assert (bag_bytes("4GB"), bag_bytes(None)) == (2 * 10**9, BAG_BYTES)
    with pytest.raises(ConfigError):
        bag_bytes("much")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for name in "abc":
        x = RNG.normal(size=(2000, 16)).astype(np.float32)
        write_features(tmp_path / "f" / f"{name}.h5", x, slide_id=name, encoder="mine")
    pack_features(tmp_path / "f", tmp_path / "all.pack")
    return tmp_path / "all.pack"


def test_pages_that_were_let_go_hold_the_same_numbers(packed: Path) -> None:
    pack = open_pack(packed)
    views = {name: pack.features(name) for name in pack.slides}
    before = {name: view.copy() for name, view in views.items()}
    for name in pack.slides:
        pack.let_go(name)
    assert all(np.array_equal(views[name], before[name]) for name in views)


def test_maps_beyond_the_budget_are_let_go_in_the_order_of_their_use(packed: Path) -> None:
    files = find_bags(packed)
    size = 2000 * 16 * pack_bytes(packed)
    memory = BagMemory(2 * size)
    bags = CaseBags.from_files([[path] for path in files.values()], 16, memory=memory)
    for _ in range(2):
        for index in range(3):
            assert len(bags[index]) == 2000
            assert memory.mapped <= memory.size


def pack_bytes(path: Path) -> int:
    return int(open_pack(path).rows.dtype.itemsize)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in /proc")
def test_memory_does_not_grow_with_the_cohort(repo: Path) -> None:
    words = ["--gb", "0.4", "1.0", "--rows", "1000", "--hidden", "8", "--memory", "50MB", "--json"]
    run = subprocess.run(
        [sys.executable, str(repo / "benchmarks" / "epoch.py"), *words],
        check=True,
        capture_output=True,
        cwd=repo,
        env={**os.environ, "PYTHONPATH": str(repo)},
    )
    small, large = json.loads(run.stdout.splitlines()[-1])["rows"]
    more = large["feature_bytes"] - small["feature_bytes"]
    assert more > 5e8
    for kind in ("anonymous_bytes", "resident_bytes"):
        assert large[kind] - small[kind] < 0.2 * more
        assert large[kind] < 0.5 * large["feature_bytes"]
    # One pass for the moments of those trained on, one epoch, and one pass over those predicted.
    assert small["reads_per_bag"] == large["reads_per_bag"] == 1.5


@pytest.fixture
def bag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPADE_BENCH_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "f" / "a.h5"
    x = RNG.normal(size=(50, 8)).astype(np.float32)
    return write_features(path, x, slide_id="a", encoder="mine")


def _store(path: Path, maker: str = "m") -> EncodedBags:
    store = EncodedBags.of([path], maker)
    assert store is not None
    return store


def test_what_was_encoded_comes_back_to_the_bit(bag: Path) -> None:
    x = RNG.normal(size=(50, 4)).astype(np.float32)
    _store(bag).write("s", x)
    found = _store(bag).read("s", 4)
    assert found is not None
    assert found.dtype == np.float32
    assert np.array_equal(found, x)
    assert _store(bag, "other").read("s", 4) is None
    assert EncodedBags.of([bag], "m", "off") is None


@pytest.mark.parametrize("harm", ["cut", "bit", "empty", "width"])
def test_a_damaged_file_is_made_again(
    bag: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = RNG.normal(size=(50, 4)).astype(np.float32)
    _store(bag).write("s", x)
    (file,) = (Path(os.environ["SPADE_BENCH_CACHE"])).rglob("s.pack")
    content = bytearray(file.read_bytes())
    content[4200] ^= 1
    if harm != "width":
        file.write_bytes({"cut": content[:-50], "bit": content, "empty": b""}[harm])
    assert _store(bag).read("s", 5 if harm == "width" else 4) is None
    assert "made again" in capsys.readouterr().err
    assert not file.exists()


def test_the_oldest_goes_first_and_never_what_is_in_use(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.zeros((50, 4), np.float32)
    first = _store(bag)
    for name in "abcd":
        first.write(name, x)
    files = {p.stem: p for p in Path(os.environ["SPADE_BENCH_CACHE"]).rglob("*.pack")}
    size = files["a"].stat().st_size
    for age, name in enumerate("dcba"):
        os.utime(files[name], (time.time() - 100 * age - 50,) * 2)
    monkeypatch.setenv("SPADE_BENCH_CACHE_SIZE", str(4 * size + 8000))
    monkeypatch.setattr(encodedbags, "_used", set())  # as a process that begins
    second = _store(bag)
    assert second.read("a", 4) is not None  # the oldest, and in use now
    second.write("e", x)
    left = {p.stem for p in Path(os.environ["SPADE_BENCH_CACHE"]).rglob("*.pack")}
    assert {"a", "d", "e"} <= left
    assert "b" not in left
    for name in "fghij":
        second.write(name, x)
    used = sum(p.stat().st_size for p in Path(os.environ["SPADE_BENCH_CACHE"]).rglob("*.pack"))
    assert used <= 4 * size + 8000
    assert second.read("a", 4) is not None


def test_what_cannot_be_kept_costs_nothing_that_is(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.zeros((50, 4), np.float32)
    _store(bag).write("a", x)
    files = list(Path(os.environ["SPADE_BENCH_CACHE"]).rglob("*.pack"))
    monkeypatch.setattr(encodedbags, "_used", set())
    monkeypatch.setenv("SPADE_BENCH_CACHE_SIZE", "20kB")
    _store(bag, "other").write("b", np.zeros((5000, 4), np.float32))  # larger than the limit
    assert list(Path(os.environ["SPADE_BENCH_CACHE"]).rglob("*.pack")) == files


def test_an_encoder_does_not_drop_what_another_has_just_made(
    bag: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPADE_BENCH_CACHE_SIZE", "60kB")
    x = np.zeros((50, 4), np.float32)
    for maker in ("m", "n", "o", "p"):
        for name in "abcd":
            _store(bag, maker).write(name, x)
    assert all(_store(bag).read(name, 4) is not None for name in "abcd")


def test_vectors_of_whole_files_are_those_of_their_own_places(tmp_path: Path) -> None:
    x = RNG.normal(size=(5, 3)).astype(np.float32)
    for at in (0, 1):
        coords = np.arange(10).reshape(5, 2) + 1000 * at
        write_features(tmp_path / f"{at}.h5", x, coords, slide_id=str(at), encoder="mine")
    infos = {info.path: info for info in scan_bags(find_bags(tmp_path)).values()}
    bags = CaseBags.from_files([[tmp_path / "0.h5"], [tmp_path / "1.h5"]], 3, infos=infos)
    mean = bags.map_slides(lambda path: read_bag(path).coords.mean(axis=0), 2, made_by="place")
    assert (mean[1] - mean[0] == 1000).all()


def test_a_size_that_is_none_is_refused(bag: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPADE_BENCH_CACHE_SIZE", "plenty")
    with pytest.raises(ConfigError, match="SPADE_BENCH_CACHE_SIZE"):
        _store(bag).write("s", np.zeros((2, 2), np.float32))


def test_a_full_disk_costs_the_cache_and_not_the_run(
    bag: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encodedbags, "PackWriter", full)
    store = _store(bag)
    store.write("s", np.zeros((2, 2), np.float32))
    store.write("t", np.zeros((2, 2), np.float32))
    assert capsys.readouterr().err.count("not kept") == 1


def test_a_bag_is_encoded_again_when_its_file_changes(bag: Path) -> None:
    calls: list[int] = []

    def double(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        return 2 * x

    def encoded() -> np.ndarray:
        infos = {info.path: info for info in scan_bags({"a": bag}).values()}
        return CaseBags.from_files([[bag]], 8, infos=infos).map(double, 8, made_by="d")[0]

    for _ in range(2):
        assert np.array_equal(encoded(), 2 * read_bag(bag).features)
    assert calls == [50]
    write_features(bag, np.ones((3, 8), np.float32), slide_id="a", encoder="mine")
    assert encoded().shape == (3, 8)
    assert calls == [50, 3]
    assert len(list(Path(os.environ["SPADE_BENCH_CACHE"]).rglob(f"{ENCODED}/d/*.pack"))) == 2
