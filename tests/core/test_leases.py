"""Leases: one holder at a time, given up when it is gone, whatever the clocks say."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spade_bench import leases
from spade_bench.errors import DataError
from spade_bench.leases import EXPIRY, Leases, exclusive

HOLD = """
import sys, time
from pathlib import Path
from spade_bench.leases import Leases
lease = Leases(Path(sys.argv[1]), float(sys.argv[2])).take("work")
print("held" if lease else "not held", flush=True)
time.sleep(60)
"""


def holder(folder: Path, expiry: float = 90.0) -> subprocess.Popen[str]:
    """Start a process that holds "work" until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), str(expiry)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    process.stdout.close()
    return process


def test_a_lease_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    folder = Leases(tmp_path / "leases")
    first = folder.take("work")
    assert first is not None
    assert folder.take("work") is None
    assert folder.take("other") is not None
    first.release()
    again = folder.take("work")
    assert again is not None
    again.release()
    assert not list(tmp_path.glob("leases/.*.claim"))


def test_of_many_threads_one_gets_it(tmp_path: Path) -> None:
    folder, barrier = Leases(tmp_path), threading.Barrier(16)
    got: list[object] = []

    def rush() -> None:
        barrier.wait()
        if (lease := folder.take("work")) is not None:
            got.append(lease)

    threads = [threading.Thread(target=rush) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


@pytest.mark.skipif(os.name == "nt", reason="processes cannot be asked there")
def test_a_killed_holder_on_this_machine_is_noticed_at_once(tmp_path: Path) -> None:
    process = holder(tmp_path)
    assert Leases(tmp_path).take("work") is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert Leases(tmp_path).take("work") is not None


def test_a_holder_elsewhere_is_given_up_when_its_lease_has_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of processes of another machine but the time of the file."""
    process = holder(tmp_path, expiry=1.2)
    monkeypatch.setattr(leases, "_is_gone", lambda about: False)
    try:
        mine = Leases(tmp_path, expiry=1.2)
        time.sleep(2)
        assert mine.take("work") is None  # it has been renewed meanwhile
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert mine.take("work") is None
        time.sleep(1.4)
        assert mine.take("work") is not None
    finally:
        process.kill()
        process.wait()


def test_clocks_of_machines_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = Leases(tmp_path).take("work")
    assert lease is not None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert Leases(tmp_path).take("work") is None


def test_of_many_one_takes_an_abandoned_lease_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work.lease").write_text('{"token": "gone"}')
    os.utime(tmp_path / "work.lease", (1, 1))
    folder, barrier, got = Leases(tmp_path), threading.Barrier(12), []

    def rush() -> None:
        barrier.wait()
        for _ in range(20):
            if (lease := folder.take("work")) is not None:
                got.append(lease)

    threads = [threading.Thread(target=rush) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_a_lease_that_was_taken_over_is_not_released_by_its_old_holder(tmp_path: Path) -> None:
    old = Leases(tmp_path).take("work")
    assert old is not None
    old.path.unlink()
    new = Leases(tmp_path).take("work")
    assert new is not None
    old.renew()
    old.release()
    assert new.path.exists()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lease = Leases(tmp_path).take("work")
    assert lease is not None
    assert Leases(tmp_path).take("work") is None
    lease.release()
    assert Leases(tmp_path).take("work") is not None


def test_what_others_hold_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_POLL", 0.01)
    folder, done = Leases(tmp_path / "leases"), set()
    other = folder.take("b")
    assert other is not None
    order = []
    for item in folder.in_turn("abcd", str, done.__contains__):
        order.append(item)
        done.add(item)
        if item == "d":
            other.release()
        assert folder.take(item) is None
    assert order == ["a", "c", "d", "b"]
    assert not (tmp_path / "leases").exists()


def test_what_others_finish_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_POLL", 0.01)
    folder, done = Leases(tmp_path / "leases"), set()
    other = folder.take("b")
    assert other is not None
    order = []
    for item in folder.in_turn("abc", str, done.__contains__):
        order.append(item)
        if item == "c":
            done.add("b")
            other.release()
    assert order == ["a", "c"]


def test_what_tells_that_work_is_done_is_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients of shared file systems forget what they know of what they have changed themselves."""
    rows, made = tmp_path / "rows.jsonl", tmp_path / "made"
    rows.write_text("rows", encoding="utf-8")
    made.mkdir()
    for path in (rows, made):
        os.utime(path, (0, 0))
    told = {"work": [rows, made], "more": [tmp_path / "not there" / "x"]}
    folder = Leases(tmp_path / "leases", told_by=told.__getitem__)
    lease = folder.take("work")
    assert lease is not None
    assert min(path.stat().st_mtime for path in (rows, made)) > 0
    for path in (rows, made):
        os.utime(path, (0, 0))
    assert folder.take("work") is None  # it is somebody's: nothing to look for
    assert {path.stat().st_mtime for path in (rows, made)} == {0}
    assert folder.take("more") is not None
    assert rows.read_text(encoding="utf-8") == "rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["leases", "made", "rows.jsonl"]
    assert not list(made.iterdir())


def test_one_at_a_time_and_the_holder_is_named(tmp_path: Path) -> None:
    count, most, told = [0], [0], []

    def work() -> None:
        with exclusive(tmp_path / "one", waits=told.append):
            count[0] += 1
            most[0] = max(most[0], count[0])
            time.sleep(0.02)
            count[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert told
    assert all(one.get("pid", os.getpid()) == os.getpid() for one in told)
    assert not list(tmp_path.iterdir())


FUTURE = 10**6  # seconds


@pytest.mark.parametrize("content", ["", "{}", "\udcff", "[" * 200_000, '{"pid": 1e400}'])
@pytest.mark.parametrize("seconds", [-2 * EXPIRY, FUTURE])
def test_a_lease_that_nobody_renews_is_taken_over_whatever_it_holds(
    tmp_path: Path, content: str, seconds: float
) -> None:
    """A clock that was set back, or a copy with its times, must not be waited for for days."""
    path = tmp_path / "x.lease"
    path.write_bytes(content.encode(errors="surrogateescape"))
    os.utime(path, (time.time() + seconds,) * 2)
    guard = path.with_name(f"{path.name}.evict")
    guard.touch()
    os.utime(guard, (time.time() + seconds,) * 2)
    with exclusive(path):
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_no_process_holds_until_it_expires(tmp_path: Path) -> None:
    path = tmp_path / "x.lease"
    with exclusive(path):
        held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "pid": 10**30}))
    assert Leases(tmp_path).take("x") is None
    os.utime(path, (0, 0))
    lease = Leases(tmp_path).take("x")
    assert lease is not None
    lease.release()


@pytest.mark.skipif(os.name == "nt", reason="there are no such files")
@pytest.mark.parametrize("kind", ["folder", "dangling link", "link in a ring", "pipe"])
@pytest.mark.parametrize("name", ["x.lease", "x.lease.evict"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    make: dict[str, Callable[[Path], object]] = {
        "folder": lambda path: path.mkdir(),
        "dangling link": lambda path: path.symlink_to("nowhere"),
        "link in a ring": lambda path: path.symlink_to(path),
        "pipe": os.mkfifo,
    }
    stale = tmp_path / "x.lease"
    if name != stale.name:
        stale.touch()
        os.utime(stale, (0, 0))
    make[kind](tmp_path / name)
    with (
        pytest.raises(DataError, match=f"{name}: is no file.*Remove it"),
        exclusive(stale),
    ):
        pass
    assert (tmp_path / name).is_symlink() or (tmp_path / name).exists()
