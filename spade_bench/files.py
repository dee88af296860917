"""Files that are never half-written, names that are never paths, hashes that name content."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import warn
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import h5py
    import numpy as np

__all__ = [
    "ask_anew",
    "atomic_dir",
    "atomic_hdf5",
    "atomic_path",
    "check_target",
    "file_name",
    "hash_array",
    "hash_file",
    "hash_obj",
    "need_space",
    "parse_json",
    "read_json",
    "read_sealed",
    "remember",
    "remembered",
    "remove_leftovers",
    "replace_folder",
    "sha256_file",
    "sync",
    "temporary_beside",
    "write_json",
    "write_sealed",
    "write_text",
]

_NAME_BYTES = 200  # of a name made from somebody's text; room for a suffix and a mark
_MAX_NAME_BYTES = 255  # what common file systems take
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt")
                                                     for n in range(1, 10))})  # fmt: skip
_LEFTOVER = re.compile(r"\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?:tmp|old)(?:\.|$)")
_swept: set[Path] = set()  # folders whose leftovers this process has removed


def file_name(text: str) -> str:
    """Return a file name for a task, encoder, case or slide: one rule for all that are written.

    Letters, digits, dot, dash, underscore and other harmless characters stay, so that ordinary
    names are their own file names. Anything that could leave the folder, hide the file or upset
    a file system becomes ``_``, and then a short hash of the text keeps different names apart.

    Args:
        text: Any text, from a user, a table or a stored file.

    Returns:
        At most 200 bytes, never empty, without separators, control characters, or a leading dot.
    """
    kept = [
        "_" if char in '/\\:*?"<>|\0' or unicodedata.category(char)[0] == "C" else char
        for char in text
    ]
    name = "".join(kept).strip(" ")
    name = re.sub(r"^\.+", lambda dots: "_" * len(dots.group()), name)
    name = re.sub(r"[. ]+$", lambda end: "_" * len(end.group()), name)
    if name.split(".")[0].lower() in _RESERVED:
        name = f"_{name}"
    if name == text and name and len(name.encode()) <= _NAME_BYTES:
        return name
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    start = name.encode("utf-8", "replace")[: _NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{start or '_'}-{mark}"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary file name beside ``path``; rename it to ``path`` on success.

    The temporary keeps the suffix of ``path``, because several writers look at it. Its content
    reaches the disk before it takes the name. On an error nothing is left behind and an older
    ``path`` stays as it was; what a killed process left is removed by the next one that writes.

    Args:
        path: The file.
        durable: Wait for the disk. Without it a power cut may leave a file empty: for many small
            files whose checksum stands elsewhere and that are made again.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    temporary = _temporary(target, target.stem, "tmp", target.suffix)
    try:
        with _naming(target):
            yield temporary
            if durable:
                sync(temporary)
            temporary.replace(target)
            if durable:
                sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; it takes the place of ``path`` on success."""
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        with _naming(Path(path)):
            yield temporary
            replace_folder(path, temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Let an error of the system say what was written: a full disk does not say which it is."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(target)
        raise


def temporary_beside(path: str | os.PathLike[str]) -> Path:
    """Return a new name beside ``path``, for a folder that :func:`replace_folder` moves there.

    What a killed process leaves under such a name is removed by the next one that writes there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    return _temporary(target, target.name, "tmp", "")


def replace_folder(path: str | os.PathLike[str], temporary: Path) -> None:
    """Move a folder, once its files have reached the disk, to ``path``; an older one goes."""
    target = Path(path)
    retired = _temporary(target, target.name, "old", "")
    try:
        for file in temporary.rglob("*"):
            if file.is_file():
                sync(file)
        if target.exists():
            target.rename(retired)
        try:
            temporary.rename(target)
        except OSError:
            if retired.exists():
                retired.rename(target)
            raise
        sync(target.parent)
    finally:
        shutil.rmtree(retired, ignore_errors=True)


@contextlib.contextmanager
def atomic_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Yield an HDF5 file that appears at ``path`` on success. See `atomic_path`.

    It is made in memory, for files that fit there: where the disk is full, HDF5 cannot close a file
    on it and brings the interpreter down.
    """
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        yield file
    with atomic_path(path) as temporary:
        temporary.write_bytes(memory.getbuffer())


def sync(path: Path) -> None:
    """Have a file or folder reach the disk, where the system can."""
    if path.is_dir():
        # Windows opens no folders, and some network file systems refuse to sync them.
        with contextlib.suppress(OSError):
            _fsync(path)
    elif path.exists():
        _fsync(path)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files and folders that dead processes of this machine left in ``folder``.

    Done once per process and folder. What another machine or a living process writes stays.
    """
    folder = folder.absolute()
    if folder in _swept:
        return
    _swept.add(folder)
    host = _host()
    for entry in os.scandir(folder):
        leftover = _LEFTOVER.search(entry.name) if entry.name.startswith(".") else None
        if leftover is None or leftover["host"] != host or _alive(int(leftover["pid"])):
            continue
        with contextlib.suppress(OSError):  # another process may be removing it too
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink()


def _temporary(target: Path, stem: str, kind: str, suffix: str) -> Path:
    mark = f".{_host()}-{os.getpid()}-{uuid.uuid4().hex[:8]}.{kind}{suffix}"
    room = _MAX_NAME_BYTES - 1 - len(mark.encode())
    short = stem.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore")
    return target.with_name(f".{short}{mark}")


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _fsync(path: Path) -> None:
    flags = os.O_RDONLY if os.name != "nt" or path.is_dir() else os.O_RDWR
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_target(path: Path, option: str, example: str, *, inputs: Iterable[Path] = ()) -> None:
    """Refuse a file that could not or must not be written, before the work for it begins.

    Args:
        path: The file; it need not be there.
        option: The option that names it.
        example: A name that would do.
        inputs: Files that the call reads, and folders in which nothing may be written.

    Raises:
        UserError: When it is a folder, lies below a file, may not be written, or is an input.
    """
    from spade_bench.errors import UserError

    whole = path.resolve()
    for one in inputs:
        if whole == one.resolve() or (one.is_dir() and whole.is_relative_to(one.resolve())):
            raise UserError(
                f"'{path}' is {'' if whole == one.resolve() else 'in '}'{one}', which is read here",
                where=option,
                fix="Choose another place",
            )

    if path.is_dir():
        what = "no file is named" if path == Path() else f"'{path}' is a folder, not a file"
        raise UserError(what, where=option, fix=f"Give the name of a file, such as {example}")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"'{parent}' is a file, where a folder is needed", where=option,
                        fix="Choose another place")  # fmt: skip
    if not os.access(path if path.exists() else parent, os.W_OK):
        raise UserError(f"'{path}' may not be written", where=option,
                        fix="Change the permissions or choose another place")  # fmt: skip


def ask_anew(path: Path) -> None:
    """Make the client of a shared file system ask its server about a file, or about a folder.

    Clients remember for seconds, those of NFS for up to a minute, how long a file is and that
    something was not there. A change of one's own makes them forget: a new time for a file, a new
    file for a folder. Nothing is changed where that is not allowed, or nothing is there.
    """
    with contextlib.suppress(OSError):
        if path.is_file():
            os.utime(path)
    mark = _temporary(path / "asked" if path.is_dir() else path, "asked", "tmp", "")
    with contextlib.suppress(OSError):
        mark.touch()
        mark.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")  # the same bytes everywhere


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
    """Write ``obj`` as indented JSON, atomically. NaN becomes ``null``, arrays become lists."""
    _write_plain(path, _plain(obj))


def _write_plain(path: str | os.PathLike[str], obj: Any) -> None:
    write_text(path, json.dumps(obj, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        DataError: When the file is missing or not JSON.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    return parse_json(content, str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON that anybody may have written.

    Args:
        text: The text, or its UTF-8 bytes.
        where: The file, and the line in it.

    Raises:
        DataError: When it is not JSON, or nested or numbered beyond what Python reads.
    """
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # bad syntax, bad text, endless digits, depth
        raise DataError(f"not valid JSON ({error})", where=where) from error


def write_sealed(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON with a checksum of itself under ``seal``, atomically."""
    plain = _plain({key: value for key, value in content.items() if key != "seal"})
    _write_plain(path, {**plain, "seal": _hash_plain(plain)})


def read_sealed(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote; files of older versions have no seal and pass.

    Raises:
        DataError: When it is missing, not a JSON mapping, or was changed after it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("does not hold keys and values", where=str(path))
    seal = content.pop("seal", None)
    if seal is not None and seal != hash_obj(content):
        raise DataError("damaged or edited: its checksum does not fit", where=str(path))
    return content


def remember(
    path: str | os.PathLike[str], key: str, content: Mapping[str, Any], made: Sequence[Path] = ()
) -> None:
    """Keep some results, sealed, for :func:`remembered`.

    Args:
        path: The file to write.
        key: Stands for everything that the results depend on.
        content: Plain values.
        made: Files that belong to it.
    """
    digests = {file.name: hash_file(file) for file in made}
    write_sealed(path, {**content, "key": key, "files": digests})


def remembered(path: Path, key: str, made: Sequence[Path] = ()) -> dict[str, Any] | None:
    """Return what :func:`remember` kept under this key; None when it must be found again.

    What was damaged or edited since is named. Files of older versions have no checksums and pass.
    """
    if not path.is_file() or not all(file.is_file() for file in made):
        return None
    try:
        content = read_sealed(path)
    except DataError as error:
        warn(f"{error} It is made again")
        return None
    if content.get("key") != key:
        return None
    digests = content.get("files") or {}
    for file in made:
        if file.name in digests and digests[file.name] != hash_file(file):
            warn(f"{file}: damaged or edited: its checksum does not fit. It is made again")
            return None
    return content


def need_space(path: Path, n_bytes: int) -> None:
    """Refuse to begin a large file where it cannot end.

    A library that maps or buffers what it writes may crash at the end of the disk, so the room is
    looked at before; small files are made in memory instead.

    Args:
        path: The file to be.
        n_bytes: Its size.

    Raises:
        OSError: With the number of a full disk.
    """
    if shutil.disk_usage(path.parent).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, 16 hex digits."""
    return sha256_file(path)[:16]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_obj(obj: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``obj``, 16 hex digits."""
    return _hash_plain(_plain(obj))


def _hash_plain(obj: Any) -> str:
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hash_array(array: np.ndarray) -> str:
    """Return the SHA-256 over dtype, shape and bytes of an array, 16 hex digits."""
    import numpy as np

    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    # The bytes where they lie: a copy of a large bag would double what it takes.
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


_PLAIN = frozenset({str, int, bool, type(None)})


def _plain(obj: Any) -> Any:
    """Turn tuples, paths, arrays and numpy scalars into what JSON can hold."""
    if type(obj) in _PLAIN:
        return obj
    if isinstance(obj, Mapping):
        return {str(key): _plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [_plain(value) for value in obj]
    if isinstance(obj, (set, frozenset)):
        return sorted(_plain(value) for value in obj)
    if isinstance(obj, os.PathLike):
        return str(obj)
    if hasattr(obj, "tolist"):
        return _plain(obj.tolist())
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return obj
