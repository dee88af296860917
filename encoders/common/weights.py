"""Where an encoder's weights lie: a path given, a folder of the user's own, or the hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spade_bench.encoders.common.hub import Kind, fetch
from spade_bench.errors import WeightsError, machine_fault
from spade_bench.types import LoadOptions

__all__ = ["FILES", "FOLDER_VARIABLE", "locate", "own_folder", "refuse_impostor"]

FILES = ("model.safetensors", "pytorch_model.bin")
FOLDER_VARIABLE = "SPADE_BENCH_WEIGHTS"


def own_folder(names: Sequence[str]) -> Path | None:
    """Return ``$SPADE_BENCH_WEIGHTS/NAME`` for the first of ``names`` that has such a folder."""
    root = os.environ.get(FOLDER_VARIABLE)
    if not root:
        return None
    folders = [Path(root).expanduser() / name for name in names]
    return next((folder for folder in folders if folder.is_dir()), None)


def locate(
    names: Sequence[str],
    options: LoadOptions,
    repos: Sequence[str],
    files: Sequence[str] = FILES,
    *,
    gated: bool = False,
    kind: Kind = "model",
) -> Path:
    """Return the file or folder with an encoder's weights.

    The order is: ``--weights``, the folder of the first of ``names`` in the environment variable
    `SPADE_BENCH_WEIGHTS`, the hub's cache, the hub.

    Args:
        names: The encoder's name, and the name of the encoder it is a variant of.
        options: May hold a path.
        repos: Hub repositories; empty when there is none.
        files: File names looked for.
        gated: Whether the licence has to be accepted.
        kind: Kind of the hub repository.

    Raises:
        WeightsError: When there are none; the message says what to do.
    """
    if options.weights is not None:
        return Path(options.weights)
    if (folder := own_folder(names)) is not None:
        return folder
    if not repos:
        raise WeightsError(
            "its weights are on no hub",
            where=names[0],
            fix=f"Download {files[0]} from the authors' page and pass --weights FILE",
        )
    return fetch(repos, files, gated=gated, kind=kind)


def refuse_impostor(file: Path) -> None:
    """Refuse what people download in place of weights.

    Raises:
        WeightsError: When the file is empty, a git-lfs pointer, or a page or message of a web site.
    """
    try:
        with file.open("rb") as handle:
            start = handle.read(512)
    except OSError as error:
        fault = machine_fault(error)
        what = fault.what if fault else "cannot be read"
        raise WeightsError(what, where=str(file), fix=fault.fix if fault else "") from error
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        what, fix = "it is empty", "Download it again"
    elif text.startswith(b"version https://git-lfs"):
        what, fix = "it is a git-lfs pointer", "Run `git lfs pull`, or download the file itself"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        what, fix = "it is a web page", "Log in or accept the licence there, then download again"
    elif text.startswith((b'{"error', b"access to model", b"repository not found", b"entry not")):
        what, fix = "it is a refusal of the server", "Accept the licence, then download again"
    else:
        return
    raise WeightsError(f"not a checkpoint: {what}", where=str(file), fix=fix)
