"""Results that came as one zip file: checked before anything of them is used.

A file may come from anybody. Names cannot leave the folder, links and encrypted or doubled members
are refused, what is unpacked is bounded by what the manifest says, by the disk and by a limit, and
every file must have the SHA-256 that the manifest gives.
"""

from __future__ import annotations

import hashlib
import os
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from spade_bench import console
from spade_bench.errors import DataError
from spade_bench.files import atomic_dir, need_space, parse_json
from spade_bench.results.merging import empty_folder
from spade_bench.results.predictionstore import StoredPredictions
from spade_bench.results.store import ResultStore, whole_predictions

__all__ = ["MANIFEST", "SCHEMA", "import_zip", "read_manifest"]

MANIFEST = "manifest.json"
SCHEMA = "spade-bench/export/1"
_MANIFEST_BYTES = 64 << 20
_FILES = 1_000_000
_NAME_BYTES, _PATH_BYTES = 255, 1000  # what common file systems take
_RATIO = 1100  # deflate cannot do better than 1032
_BLOCK = 1 << 20
_AGAIN = "Ask for the file again"


def import_zip(file: Path, out: Path, max_gb: float = 50.0) -> Path:
    """Unpack what `export` wrote into a new folder.

    Args:
        file: The zip file.
        out: Folder to make; it must not be there, or be empty.
        max_gb: Most that may be unpacked, in 10^9 bytes.

    Returns:
        The folder.

    Raises:
        DataError: When the file is not an export, is damaged, or holds what no export holds.
        UserError: When ``out`` cannot be made.
    """
    empty_folder(out)
    if not file.is_file():
        raise DataError("no such file", where=str(file))
    try:
        with zipfile.ZipFile(file) as archive:
            listed = read_manifest(archive, str(file))
            members = _members(archive, listed, str(file), max_gb)
            with atomic_dir(out) as inside:
                need_space(inside, sum(one.file_size for one in members))
                with console.progress("Importing", len(members), "files") as bar:
                    for member in members:
                        _unpack(archive, member, inside, listed.get(member.filename), str(file))
                        bar.advance(1)
                _check_results(inside, str(file))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"damaged or not a zip file ({error})", where=str(file), fix=_AGAIN
        ) from error
    return out


def _check_results(folder: Path, where: str) -> None:
    """Make sure that rows and predictions are whole, as those of every export are.

    Raises:
        DataError: Naming what is not.
    """
    store, stored = ResultStore(folder), StoredPredictions(folder)
    try:
        rows = store.rows()
        if store.problems or not rows:
            raise DataError(
                store.problems[0] if store.problems else "results.jsonl holds no results"
            )
        for row in sorted(rows, key=lambda row: (row.task, row.encoder, row.head)):
            if row.status == "ok":
                whole_predictions(stored, row)
    except DataError as error:
        what = str(error).replace(f"{folder}{os.sep}", "").rstrip(".")
        raise DataError(f"{what}; nothing was kept", where=where, fix=_AGAIN) from error


def read_manifest(archive: zipfile.ZipFile, where: str) -> dict[str, tuple[int, str]]:
    """Read which files an export holds.

    Args:
        archive: The open zip file.
        where: Its name, for errors.

    Returns:
        Size and SHA-256 by name.

    Raises:
        DataError: When there is no manifest, or none of this version.
    """
    try:
        info = archive.getinfo(MANIFEST)
    except KeyError as error:
        raise DataError(f"holds no {MANIFEST}", where=where,
                        fix="Give a file that `spade-bench export` wrote") from error  # fmt: skip
    if info.file_size > _MANIFEST_BYTES or info.file_size > _RATIO * max(1, info.compress_size):
        raise DataError(f"{MANIFEST} is too large", where=where, fix=_AGAIN)
    with archive.open(info) as stream:
        content = parse_json(stream.read(_MANIFEST_BYTES), f"{where}: {MANIFEST}")
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise DataError(f"its manifest has schema {schema!r}, this version reads {SCHEMA!r}",
                        where=where)  # fmt: skip
    try:
        listed = [(one["path"], one["bytes"], one["sha256"]) for one in content["files"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{MANIFEST} does not list files", where=where, fix=_AGAIN) from error
    if any([*map(type, one)] != [str, int, str] for one in listed):
        raise DataError(f"{MANIFEST} does not list files", where=where, fix=_AGAIN)
    files = {path: (size, sha256) for path, size, sha256 in listed}
    if len(files) != len(listed):
        raise DataError(f"{MANIFEST} lists a file twice", where=where, fix=_AGAIN)
    return files


def _members(
    archive: zipfile.ZipFile, listed: Mapping[str, tuple[int, str]], where: str, max_gb: float
) -> list[zipfile.ZipInfo]:
    """Members that are to be unpacked, all of which are harmless.

    Raises:
        DataError: Naming the first that is not.
    """
    members = archive.infolist()
    if len(members) > _FILES:
        raise DataError(f"holds {len(members)} files", where=where, fix=_AGAIN)
    taken: set[str] = set()
    folders = {
        str(above) for one in members for above in PurePosixPath(_folded(one.filename)).parents
    }
    for one in members:
        wrong = _wrong(one, taken)
        if not wrong and _folded(one.filename) in folders:
            wrong = "is a file and a folder: another lies below a file"
        if not wrong and one.filename != MANIFEST and one.filename not in listed:
            wrong = "is not in the manifest"
        if not wrong and one.filename in listed and one.file_size != listed[one.filename][0]:
            wrong = "has another size than the manifest says"
        if wrong:
            raise DataError(
                f"'{one.filename}' {wrong}; nothing was unpacked", where=where, fix=_AGAIN
            )
        taken.add(_folded(one.filename))
    absent = [name for name in listed if _folded(name) not in taken]
    if absent or "results.jsonl" not in listed:
        name = absent[0] if absent else "results.jsonl"
        raise DataError(f"'{name}' is absent; nothing was unpacked", where=where, fix=_AGAIN)
    total = sum(one.file_size for one in members)
    if not total <= max_gb * 1e9:  # nan is no limit either
        raise DataError(
            f"would unpack to {total / 1e9:.1f} GB, more than {max_gb:g} GB",
            where=where,
            fix="Give --max-gb, if you expect so much",
        )
    return members


def _wrong(member: zipfile.ZipInfo, taken: set[str]) -> str:
    """What is wrong with a member, as the end of a sentence; empty where nothing is."""
    name, mode = member.orig_filename, member.external_attr >> 16
    parts = PurePosixPath(name).parts
    unsafe = (
        len(name.encode("utf-8", "replace")) > _PATH_BYTES
        or any(part in {"", ".", ".."} or part != part.strip(" ") for part in name.split("/"))
        or any(len(part.encode("utf-8", "replace")) > _NAME_BYTES for part in parts)
        or any(char in '\\:*?"<>|\0' or unicodedata.category(char)[0] == "C" for char in name)
        or name != member.filename
        or any(part.startswith(".") or part.endswith(".") for part in parts)
    )
    if unsafe:
        return "is no name of a file in a folder"
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        return "is a link or a device"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return "is compressed in an unknown way"
    if member.file_size > _RATIO * max(1, member.compress_size):
        return "would grow beyond all measure"
    return "stands there twice" if _folded(name) in taken else ""


def _folded(name: str) -> str:
    """A name as file systems may take it that do not tell cases and accents apart."""
    return unicodedata.normalize("NFC", name).casefold()


def _unpack(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    out: Path,
    said: tuple[int, str] | None,
    where: str,
) -> None:
    """Write one member, no longer than it says to be.

    Raises:
        DataError: When it is longer, shorter or something else than the manifest says.
    """
    target, digest, left = out / member.filename, hashlib.sha256(), member.file_size
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as stream, target.open("xb") as file:
        while block := stream.read(min(_BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            file.write(block)
    if left or (said is not None and digest.hexdigest() != said[1]):
        raise DataError(
            f"'{member.filename}' is not what the manifest says: its checksum does not fit; "
            "nothing was kept",
            where=where,
            fix=_AGAIN,
        )
