"""Other processes share the work and change nothing of what comes out."""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from spade_bench.cohorts.checks.featurescan import FeatureScan, scan_features
from spade_bench.features import cache as packcache
from spade_bench.features import casebags, otherprocesses
from spade_bench.features.otherprocesses import in_order, processes_for
from spade_bench.files import read_json

RNG = np.random.default_rng(0)


@pytest.fixture(params=[1, 2, 3])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """So many processes, whatever the machine has."""
    monkeypatch.setattr(otherprocesses, "processes_for", lambda _, __: request.param)
    return int(request.param)


@pytest.mark.usefixtures("processes")
def test_results_come_in_the_order_of_the_jobs() -> None:
    jobs = [float(i) for i in range(100)]
    assert list(in_order(math.sqrt, jobs, 4)) == list(map(math.sqrt, jobs))
    assert list(in_order(math.sqrt, jobs[:3], 4)) == list(map(math.sqrt, jobs[:3]))
    assert list(in_order(math.sqrt, [], 4)) == []


@pytest.mark.usefixtures("processes")
def test_a_fault_is_met_where_it_would_be_met_alone() -> None:
    results = in_order(math.sqrt, [1.0, 4.0, 9.0, -1.0, 16.0], 2)
    assert [next(results) for _ in range(3)] == [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="domain"):
        next(results)


def _who(_: int) -> int:
    return os.getpid()


def test_the_others_do_their_share(processes: int) -> None:
    done = list(in_order(_who, range(40), 4))
    assert set(done[:2]) == {os.getpid()}
    assert len(set(done)) == processes


def _die(parent: int) -> int:
    if os.getpid() != parent:
        os._exit(1)
    return parent


def _speak(job: str) -> str:
    print(job, file=sys.stderr)
    return job


@pytest.mark.usefixtures("processes")
def test_what_another_process_cannot_do_or_would_say_is_left_to_this_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert list(in_order(_die, [os.getpid()] * 7, 2)) == [os.getpid()] * 7
    said = [f"job {i}" for i in range(7)]
    assert list(in_order(_speak, said, 2)) == said
    assert capsys.readouterr().err.split("\n")[:-1] == said


@pytest.mark.usefixtures("processes")
def test_a_script_of_the_folder_that_is_called_like_a_module_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", ".")])
    for name in ("pickle", "random"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n")
    assert list(in_order(math.sqrt, [1.0, 4.0, 9.0, 16.0], 2)) == [1.0, 2.0, 3.0, 4.0]
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_new_when_it_was_read_is_not_trusted_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have read it long before this one asks."""
    monkeypatch.delenv("SPADE_BENCH_CACHE")
    path = tmp_path / "s.npy"
    np.save(path, np.ones((2, 5), np.float32))
    ahead = [casebags._found(path)]
    monkeypatch.setattr(casebags, "in_order", lambda *_: (one for one in ahead))
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    casebags.scan_bags({"s": path}, beside=True)
    store = packcache.FeatureCache.of([path])
    assert store is not None
    assert path not in store
    casebags.scan_bags({"s": path})
    store = packcache.FeatureCache.of([path])
    assert store is not None
    assert path in store


def test_few_jobs_are_worth_no_process() -> None:
    assert processes_for(1999, 1000) == 1
    assert 1 <= processes_for(10**9, 1000) <= otherprocesses.MOST_PROCESSES


def _folder(folder: Path) -> list[str]:
    """Sound files, and one of each kind that is not."""
    folder.mkdir()
    names = [f"s{i:02d}" for i in range(40)]
    for i, name in enumerate(names):
        values = RNG.normal(size=(3 + i, 5)).astype(np.float32)
        if i == 9:
            values[1] = np.nan
        with h5py.File(folder / f"{name}.h5", "w") as file:
            data = file.create_dataset("features", data=values[:, :4] if i == 20 else values)
            data.attrs["mpp"] = 0.5
    (folder / "s31.h5").write_bytes(b"no HDF5")
    np.save(folder / "s40.npy", np.ones((2, 5), np.float32))
    return [*names, "s40", "absent"]


def test_a_check_finds_the_same_with_any_number_of_processes(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPADE_BENCH_CACHE")
    monkeypatch.setattr(packcache, "SETTLED_SECONDS", -1.0)
    names = _folder(tmp_path / "f")
    monkeypatch.setattr(casebags, "_WORTH_A_PROCESS", 8)
    found = scan_features(tmp_path / "f", names)
    index = read_json(tmp_path / "f" / ".spade-bench" / "index.json")["files"]
    (tmp_path / "f" / ".spade-bench" / "index.json").unlink()
    monkeypatch.setattr(otherprocesses, "processes_for", lambda _, __: 1)
    alone = scan_features(tmp_path / "f", names)
    assert _in_order(found) == _in_order(alone)
    assert found.bags["s09"].bad == 1
    assert "s31" in found.unreadable
    assert list(index.items()) == list(
        read_json(tmp_path / "f" / ".spade-bench" / "index.json")["files"].items()
    ), processes


def _in_order(scan: FeatureScan) -> list[object]:
    return [list(scan.files.items()), list(scan.bags.items()), list(scan.unreadable.items())]
