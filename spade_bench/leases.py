"""Leases: who works on what in a folder that processes, of one machine or several, share.

A lease is a small file. It is written under a name of its own and appears under the name of the
work by `link`, which succeeds for one process alone, on NFS too; no byte range and no file is ever
locked. A thread renews the times of the files that this process holds. Who finds a lease that has
not been renewed for as long as it lasts, or whose process on this machine is gone, removes it and
takes the work over. Times are compared on the clock of the file system, never on those of two
machines: the file that somebody has just written tells the time.

A process that is stopped for longer than a lease lasts, and then goes on, may do what another has
taken over. That costs time and no more: work is named by its content, and equal work has equal
results.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import json
import os
import platform
import stat
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from spade_bench.errors import DataError
from spade_bench.files import ask_anew, file_name

__all__ = ["Lease", "Leases", "exclusive"]

T = TypeVar("T")

EXPIRY = 90.0
"""Seconds after which a lease that nobody renews may be taken over.

More than the 60 s for which clients of NFS may keep what they know of a file.
"""

_RENEWALS = 6  # while a lease lasts
_MOST_PID = 1 << 31
_POLL = 0.5  # seconds between two looks at leases that others hold
_BRIEF = 0.02  # likewise at one that is held for milliseconds
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Lease:
    """Work that this process holds; leave it as a context, or call `release`.

    Args:
        path: File of the lease.
        token: What stands in it, and in no other.
        expiry: Seconds that it lasts.
    """

    def __init__(self, path: Path, token: str, expiry: float) -> None:
        self.path, self.token, self.expiry = path, token, expiry
        _heart().add(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def renew(self) -> None:
        """Tell the others that the work goes on; a lease that was taken over is left alone."""
        with contextlib.suppress(OSError):
            if _read(self.path).get("token") == self.token:
                os.utime(self.path)  # the file server's time, where there is one

    def release(self) -> None:
        """Give the work free."""
        _heart().drop(self)
        with contextlib.suppress(OSError):
            if _read(self.path).get("token") == self.token:
                self.path.unlink()


class Leases:
    """The leases on the work of one folder.

    Args:
        folder: Where they lie; it comes with the first of them and goes with the last.
        expiry: Seconds after which one that is not renewed may be taken over.
        told_by: Tells the files or folders by which one sees that some work is done. What this
            machine remembers of them is older than a lease that it has just been given.
    """

    def __init__(
        self,
        folder: Path,
        expiry: float = EXPIRY,
        told_by: Callable[[str], Iterable[Path]] | None = None,
    ) -> None:
        self.folder = folder
        self.expiry = expiry
        self._told_by = told_by
        # Folders that the first lease makes: they go too, where nothing comes to lie in them.
        self._new = [place for place in folder.parents if not place.exists()]

    def take(self, key: str) -> Lease | None:
        """Take some work, unless somebody else holds it.

        Args:
            key: Names the work, such as a hash of what determines it.
        """
        lease = _take(self.folder / f"{file_name(key)}.lease", self.expiry)
        if lease is not None and self._told_by is not None:
            for path in self._told_by(key):
                ask_anew(path)
        return lease

    def close(self) -> None:
        """Remove the folder where no lease is left in it, and what was made for it alone."""
        for place in (self.folder, *self._new):
            with contextlib.suppress(OSError):
                place.rmdir()

    def in_turn(
        self, items: Iterable[T], key: Callable[[T], str], is_done: Callable[[T], bool]
    ) -> Generator[T, None, None]:
        """Yield every item that is to be done here, while its lease is held.

        What others hold comes last: when they have done it, it is passed over, and when they are
        gone it is yielded.

        Args:
            items: Work, in the order in which it is tried.
            key: Names an item; see `take`.
            is_done: Whether an item is done by now, whoever has done it. It is asked before an
                item is taken, and again once it is held, as others may have finished it meanwhile.
        """
        waiting = deque(items)
        while waiting:
            before = len(waiting)
            for _ in range(before):
                item = waiting.popleft()
                if is_done(item):
                    continue
                lease = self.take(key(item))
                if lease is None:
                    waiting.append(item)
                    continue
                with lease:
                    if not is_done(item):
                        yield item
            if len(waiting) == before:
                time.sleep(_POLL)
        self.close()


@contextlib.contextmanager
def exclusive(
    path: Path, *, waits: Callable[[dict[str, Any]], object] | None = None, expiry: float = EXPIRY
) -> Iterator[None]:
    """Do something that one process at a time may do, once it is this one's turn.

    Args:
        path: File of the lease, in a folder that is there.
        waits: Called once, with what is known of the holder (`pid`, `host`, `since`), where there
            is one to wait for.
        expiry: Seconds after which a holder that shows no life is given up.
    """
    pause = _BRIEF
    while (lease := _take(path, expiry)) is None:
        if waits is not None:
            with contextlib.suppress(OSError):
                waits(_read(path))
            waits = None
        time.sleep(pause)
        pause = min(2 * pause, _POLL)
    with lease:
        yield


def _take(path: Path, expiry: float) -> Lease | None:
    """Take a lease; None while somebody holds it."""
    token = uuid.uuid4().hex
    about = {**_self(), "token": token, "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    own = path.with_name(f".{token[:12]}.claim")
    try:
        _write(own, about)
        for _ in range(2):
            if _appear(own, path, about):
                return Lease(path, token, expiry)
            if not _evicted(path, own, expiry):
                return None
        return None
    finally:
        with contextlib.suppress(OSError):
            own.unlink()


def _write(own: Path, about: dict[str, Any]) -> None:
    """Write a file of this process's own; the folder may be removed by others at any moment."""
    for attempt in range(5):
        own.parent.mkdir(parents=True, exist_ok=True)
        try:
            own.write_text(json.dumps(about), encoding="utf-8")
            return
        except FileNotFoundError:
            if attempt == 4:
                raise


def _appear(own: Path, path: Path, about: dict[str, Any]) -> bool:
    """Give a file its name, unless another has it; True where this one has it now."""
    try:
        os.link(own, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if own.exists() and own.stat().st_nlink == 2:  # done, and the server's answer was lost
            return True
        if error.errno not in _NO_LINKS:
            raise
    try:  # a file system without links
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(about, file)
    return True


def _evicted(path: Path, own: Path, expiry: float) -> bool:
    """Remove a lease whose holder is gone; True where the name may be free now.

    Only one process at a time removes leases of others, and it looks again while it is the one, so
    that a lease which somebody has just taken over is never removed.
    """
    if (stale := _stale(path, own, expiry)) is None:
        return not path.exists()
    guard = path.with_name(f"{path.name}.evict")
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        with contextlib.suppress(OSError):
            _refuse_stranger(guard)
            if abs(_age(guard, own)) > expiry:  # its maker was killed between two lines
                guard.unlink()
        return False
    try:
        if _stale(path, own, expiry) == stale:
            with contextlib.suppress(OSError):
                path.unlink()
        return True
    finally:
        with contextlib.suppress(OSError):
            guard.unlink()


def _stale(path: Path, own: Path, expiry: float) -> str | None:
    """The token of a lease whose holder is gone; None where it is held, or not there."""
    with contextlib.suppress(OSError):
        _refuse_stranger(path)
        about = _read(path)
        # A holder that lives renews it by the same clock: it lies in no future.
        if _is_gone(about) or abs(_age(path, own)) > expiry:
            return str(about.get("token"))
    return None


def _refuse_stranger(path: Path) -> None:
    """Refuse what no process made that takes leases, and that would be waited for without end.

    Raises:
        DataError: When it is no file.
        OSError: When it is not there any more.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise DataError(
            "is no file, where that of a lease is to be", where=str(path), fix="Remove it"
        )


def _age(path: Path, own: Path) -> float:
    """Seconds since a file was renewed, by the clock of the file system."""
    os.utime(own)
    return _modified(own) - _modified(path)


def _modified(path: Path) -> float:
    """Time of a file as the server has it now: to open a file is what makes clients of NFS ask."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _read(path: Path) -> dict[str, Any]:
    """What stands in a lease; empty while it is being written, or where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_gone(about: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine and has ended."""
    own = _self()
    if os.name == "nt" or not about or about.get("machine") != own["machine"]:
        return False
    pid = about.get("pid")
    if not isinstance(pid, int) or not 0 < pid < _MOST_PID:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return about.get("born") != _born(pid)  # the number went to another process


def _self() -> dict[str, Any]:
    """What tells this process from all others."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "machine": _machine(),
        "born": _born(os.getpid()),
    }


@cache
def _machine() -> str:
    """Tells machines apart, and the containers on one whose processes do not see each other."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    if len(parts) == 1:
        parts.append(str(uuid.getnode()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _born(pid: int) -> str:
    """When a process began, where the system says it."""
    try:
        # The name, in brackets, may hold anything.
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""


class _Heart:
    """Renews the leases of this process, by a thread that begins with the first of them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._held: set[Lease] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        """Renew a lease from now on."""
        with self._changed:
            shortest = min((one.expiry for one in self._held), default=EXPIRY)
            self._held.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
                self._thread.start()
            elif lease.expiry < shortest:
                self._changed.notify()

    def drop(self, lease: Lease) -> None:
        """Renew a lease no more."""
        with self._changed:
            self._held.discard(lease)

    def drop_all(self) -> None:
        """Release what an end by error or signal has left."""
        for lease in list(self._held) if os.getpid() == self._pid else ():
            lease.release()

    def _beat(self) -> None:
        while True:
            with self._changed:
                every = min((lease.expiry for lease in self._held), default=EXPIRY) / _RENEWALS
                self._changed.wait(every)
                held = list(self._held)
            for lease in held:
                lease.renew()


_hearts: dict[int, _Heart] = {}


def _heart() -> _Heart:
    """The one of this process; a forked one has no thread and no leases of its parent."""
    pid = os.getpid()
    if pid not in _hearts:
        _hearts.clear()
        _hearts[pid] = _Heart()
        atexit.register(_hearts[pid].drop_all)
    return _hearts[pid]
