"""A hub's cache as the hub's client lays it out, and plugins, for tests of what made features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

COMMITS = ("1" * 40, "2" * 40)


def fake_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that the client reads, with no hub behind it."""
    from huggingface_hub import constants

    from spade_bench.encoders.common import hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "reachable", lambda: False)
    return root


def put(cache: Path, repo: str, commit: str, files: Mapping[str, bytes], *, main: bool) -> Path:
    """Put files of one commit into the cache, as blobs and links; return the snapshot's folder.

    Args:
        cache: The cache.
        repo: Repository of a model.
        commit: The commit.
        files: Name -> content.
        main: Whether the main branch was at this commit.
    """
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for folder in (home / "blobs", home / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        blob = home / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(blob)
    if main:
        (home / "refs" / "main").write_text(commit)
    return snapshot
