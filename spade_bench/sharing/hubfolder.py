"""The folder of a model that is passed on: its manifest, and where it goes to and comes from.

``manifest.json`` lists every file of the model with its size and SHA-256. Only what it lists is
taken over, only as JSON, csv, safetensors and Markdown, and only with the checksum that it gives.
The folder is that of a repository on the Hugging Face hub, which ``hf://OWNER/NAME`` names.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spade_bench import console
from spade_bench.errors import DataError, UserError, machine_fault, name_some
from spade_bench.files import (
    atomic_dir,
    file_name,
    need_space,
    read_json,
    sha256_file,
    write_json,
)
from spade_bench.version import __version__

__all__ = ["CARD", "MANIFEST", "SCHEMA", "Manifest", "Place", "opened", "publish", "take_over",
           "write_manifest"]  # fmt: skip

MANIFEST, CARD = "manifest.json", "README.md"
SCHEMA = "spade-bench/hub-folder/1"
_SUFFIXES = frozenset({".json", ".csv", ".safetensors"})
_OF_THE_HUB = frozenset({CARD, MANIFEST, ".gitattributes"})
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?/?")
_AGAIN = "Fetch the folder again, or ask for it where it came from"


@dataclass(frozen=True)
class Manifest:
    """What a passed-on folder says of itself.

    Attributes:
        kind: `spade`, `model` or `head`.
        names: What became of the names of patients and cases: `hashed`, `none` or `named`.
        files: Name -> (size in bytes, SHA-256).
    """

    kind: str
    names: str
    files: Mapping[str, tuple[int, str]]


@dataclass(frozen=True)
class Place:
    """Where a folder goes to or comes from.

    Attributes:
        folder: A local folder; None for the hub.
        repo: Repository of the hub.
        revision: Its branch, tag or commit; empty for the main branch.
    """

    folder: Path | None = None
    repo: str = ""
    revision: str = ""

    @classmethod
    def of(cls, text: str, option: str) -> Place:
        """Read a local path or ``hf://OWNER/NAME``, with ``@REVISION`` where one is wanted.

        Raises:
            UserError: When it begins like an address and is none.
        """
        if "://" not in text:
            return cls(Path(text).expanduser())
        found = _HUB.fullmatch(text)
        if found is None:
            raise UserError(f"'{text}' is no place for a model", where=option,
                            fix="Give a folder, or hf://OWNER/NAME")  # fmt: skip
        return cls(None, found["repo"], found["revision"] or "")


def write_manifest(folder: Path, kind: str, names: str) -> None:
    """List the files of a folder in its manifest; the card, which people edit, is left out."""
    listed = [
        {"path": name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in _OF_THE_HUB
    ]
    content = {"schema": SCHEMA, "spade_bench": __version__, "kind": kind, "names": names,
               "files": listed}  # fmt: skip
    write_json(folder / MANIFEST, content)


def publish(staged: Path, place: Place, *, private: bool) -> None:
    """Put a finished folder where it goes.

    Args:
        staged: The folder.
        place: A local folder takes it whole, in place of an older one that was passed on.
        private: Whether a repository that is made on the hub can be seen by its owner only.

    Raises:
        UserError: When something else lies there, or the hub refuses.
    """
    if place.folder is not None:
        target = place.folder
        if target.exists() and not _may_go(target):
            raise UserError(f"'{target}' is there and holds something else", where="--to",
                            fix="Name a new folder")  # fmt: skip
        with atomic_dir(target) as inside:
            shutil.copytree(staged, inside, dirs_exist_ok=True)
        return
    import huggingface_hub as hub

    with _hub_faults(place.repo):
        hub.create_repo(place.repo, repo_type="model", private=private, exist_ok=True)
        earlier = _pushed_before(place)
        hub.upload_folder(
            repo_id=place.repo,
            folder_path=str(staged),
            repo_type="model",
            commit_message="Model pushed by spade-bench",
            delete_patterns=sorted(earlier) or None,  # they would not be of this model
            revision=place.revision or None,
        )


def _pushed_before(place: Place) -> set[str]:
    """Files of an earlier push in a repository, which go as this one comes.

    Raises:
        UserError: When the repository holds anything else, which nobody asked to lose.
    """
    import huggingface_hub as hub

    revision = place.revision or None
    there = set(hub.list_repo_files(place.repo, revision=revision))
    earlier: set[str] = set()
    if MANIFEST in there:
        manifest = Path(hub.hf_hub_download(place.repo, MANIFEST, revision=revision))
        earlier = {*_read_manifest(manifest.parent).files, MANIFEST}
    if foreign := sorted(there - earlier - _OF_THE_HUB):
        raise UserError(
            f"hf://{place.repo} holds what no push put there: {name_some(foreign, 3)}",
            where="--to",
            fix="Name a new repository",
        )
    return earlier


@contextmanager
def opened(place: Place) -> Iterator[Path]:
    """Yield the local folder of a place, downloaded where it lies on the hub.

    Raises:
        UserError: When there is no such folder, or the hub refuses.
    """
    if place.folder is not None:
        if not place.folder.is_dir():
            raise UserError("no such folder", where=str(place.folder))
        yield place.folder
        return
    import huggingface_hub as hub

    patterns = [CARD, MANIFEST, *(f"*{suffix}" for suffix in sorted(_SUFFIXES))]
    with _hub_faults(place.repo):
        found = hub.snapshot_download(
            place.repo, revision=place.revision or None, allow_patterns=patterns
        )
    yield Path(found)


def take_over(source: Path, out: Path, check: Callable[[Path, str], None]) -> Manifest:
    """Copy what the manifest lists into a new folder, and verify it before it takes its name.

    Args:
        source: A folder that was passed on.
        out: Folder to make.
        check: Called with the copy and its kind; raises where it is no model of that kind.

    Raises:
        DataError: When a file is absent, altered, or of a kind that is not taken over.
    """
    manifest = _read_manifest(source)
    unlisted = sorted(
        name for path in source.rglob("*") if path.is_file()
        and (name := path.relative_to(source).as_posix()) not in {*manifest.files, *_OF_THE_HUB}
        and not name.startswith(".")
    )  # fmt: skip
    with atomic_dir(out) as inside:
        need_space(inside, sum(size for size, _ in manifest.files.values()))
        with console.progress("Pulling", len(manifest.files), "files") as bar:
            for name, (size, digest) in manifest.files.items():
                _copy(source, inside, name, size, digest)
                bar.advance(1)
        shutil.copyfile(source / MANIFEST, inside / MANIFEST)
        if (source / CARD).is_file():
            shutil.copyfile(source / CARD, inside / CARD)
        check(inside, manifest.kind)
    if unlisted:
        console.say(f"Left behind, because the manifest does not list them: {name_some(unlisted)}")
    return manifest


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"holds no {MANIFEST}", where=str(folder),
                        fix="Give what `spade-bench push` wrote")  # fmt: skip
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise DataError(f"its schema is {schema!r}, this version reads {SCHEMA!r}", where=str(path))
    try:
        files = {str(one["path"]): (int(one["bytes"]), str(one["sha256"]))
                 for one in content["files"]}  # fmt: skip
        kind, names = str(content["kind"]), str(content["names"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError("does not list files", where=str(path), fix=_AGAIN) from error
    for name in files:
        _check_name(name, str(path))
    return Manifest(kind, names, files)


def _check_name(name: str, where: str) -> None:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or any(file_name(part) != part for part in parts):
        raise DataError(f"'{name}' is no name of a file in a folder", where=where, fix=_AGAIN)
    if PurePosixPath(name).suffix not in _SUFFIXES:
        raise DataError(
            f"lists '{name}'; only JSON, csv and safetensors are taken over", where=where
        )


def _copy(source: Path, target: Path, name: str, size: int, digest: str) -> None:
    given, copy = source / name, target / name
    if not given.is_file():
        raise DataError(f"'{name}' is absent; nothing was kept", where=str(source), fix=_AGAIN)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if given.stat().st_size == size:
        shutil.copyfile(given, copy)
    if not copy.is_file() or sha256_file(copy) != digest:
        raise DataError(
            f"'{name}' is not what {MANIFEST} says: its checksum does not fit; nothing was kept",
            where=str(source),
            fix=_AGAIN,
        )


def _may_go(folder: Path) -> bool:
    """Whether a folder may be replaced: it is empty, or holds an earlier push and nothing else."""
    if not folder.is_dir():
        return False
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if not there:
        return True
    try:
        return there <= {*_read_manifest(folder).files, *_OF_THE_HUB}
    except DataError:
        return False


@contextmanager
def _hub_faults(repo: str) -> Iterator[None]:
    """Say in one line what the hub answered.

    Raises:
        UserError: Naming the repository.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        if (fault := machine_fault(error)) is not None and not isinstance(error, HfHubHTTPError):
            raise fault from error
        raise UserError(
            f"the hub refuses or cannot be reached ({type(error).__name__})",
            where=f"hf://{repo}",
            fix="Check the name and the network, and run `hf auth login` with a token that may "
            "read, or for a push write",
        ) from error
