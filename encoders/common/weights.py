"""Where an encoder's weights lie: a path given, a folder of the user's own, or the hub."""

from __future__ import annotations

from pathlib import Path

from spade_bench.encoders.common.hub import fetch
from spade_bench.errors import WeightsError, machine_fault
from spade_bench.features.weightfiles import own_folder, pinned
from spade_bench.types import EncoderCard, LoadOptions

__all__ = ["FILES", "UNPINNED", "UNPINNED_CODE", "locate", "refuse_impostor"]

FILES = ("model.safetensors", "pytorch_model.bin")
UNPINNED = "No commit is pinned; the one that is downloaded is recorded with the features."
UNPINNED_CODE = "No commit is pinned, so the hub's copy loads only with --revision COMMIT."


def locate(card: EncoderCard, options: LoadOptions) -> Path:
    """Return the file or folder with an encoder's weights.

    The order is: ``--weights``, a folder of the encoder's name, or of the encoder that it is a
    variant of, in the environment variable `SPADE_BENCH_WEIGHTS`, the hub's cache, the hub, at the
    commit that ``--revision`` or else the card names.

    Args:
        card: The encoder's card; its needs name repositories and files.
        options: May hold a path and a revision.

    Raises:
        WeightsError: When there are none; the message says what to do.
    """
    needs = card.needs
    if options.weights is not None:
        return Path(options.weights)
    if (folder := own_folder((card.name, *needs.folders))) is not None:
        return folder
    if not needs.repos:
        raise WeightsError(
            "its weights are on no hub",
            where=card.name,
            fix=f"Download {needs.files[0]} from the authors' page and pass --weights FILE",
        )
    revision = pinned(card, options)
    return fetch(needs.repos, needs.files, gated=card.gated, kind=needs.kind, revision=revision)


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
