"""Takes every bag of a folder through something that writes a file: skip, do, or report."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_bench import console, files
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.extraction.outputs import check_width
from spade_bench.features.bags import find_bags, source_hash
from spade_bench.features.identity import (
    ATTRIBUTE,
    Identity,
    identity_of,
    stored_identity,
    with_base,
)
from spade_bench.types import EncoderCard

__all__ = ["EncodedFolder", "over_bags"]


@dataclass(frozen=True)
class EncodedFolder:
    """What became of a folder of bags.

    Attributes:
        written: Slide id -> file, encoded now.
        skipped: Slide id -> file, complete from an earlier run and made by the same.
        failed: One line for each file that could not be encoded.
    """

    written: Mapping[str, Path]
    skipped: Mapping[str, Path]
    failed: tuple[str, ...]


def over_bags(
    encoder: Any,
    features: Path,
    *,
    unit: str,
    recipe: Mapping[str, Any] | None,
    target_of: Callable[[str, Path], Path],
    write: Callable[[Path, Path, dict[str, Any]], object],
    lacks: Callable[[Path], str] | None = None,
) -> EncodedFolder:
    """Write a file for every bag under a folder that has no current one.

    A file is current when what made it and the content of its source are unchanged. Files of older
    versions do not say what made them; they are current when their recipe is. A bad bag is reported
    and the rest go on.

    Args:
        encoder: The encoder; its card's `upstream` names the features it takes, `any` or an empty
            name all.
        features: Folder of bags, searched recursively.
        unit: What a bag is called in the progress line, plural.
        recipe: What is recorded of the encoder in words; None for what can be told from it.
        target_of: Tells the file of a slide id and its bag.
        write: Encodes a bag into a file with these attributes beside its own.
        lacks: Says what is asked for and missing in a file that is current, so that it is made
            again; empty for nothing.

    Raises:
        DataError: When the folder holds no features of the upstream encoder, or features of
            another width would stay among those that are written.
        OSError: When the disk is full, or the folder to write cannot be one.
    """
    card: EncoderCard = encoder.card
    recipe = old_recipe(encoder) if recipe is None else recipe
    upstream = None if card.upstream in (None, "", "any") else card.upstream
    broken: list[DataError] = []
    bags = find_bags(features, upstream, unreadable=broken)
    failed = [str(error) for error in broken]
    for line in failed:
        console.warn(line)
    targets = {slide_id: target_of(slide_id, source) for slide_id, source in bags.items()}
    check_width(list(targets.values()), encoder.dim)
    written: dict[str, Path] = {}
    skipped: dict[str, Path] = {}
    changed: list[str] = []
    remade: Counter[str] = Counter()
    said = {f"recipe_{name}": str(value) for name, value in recipe.items()}
    made_by = identity_of(encoder)
    with console.progress(f"encode {card.name}", total=len(bags), unit=unit) as bar:
        for slide_id, source in bags.items():
            target = targets[slide_id]
            state = _state(source, target, recipe, with_base(made_by, stored_identity(source)))
            lacking = lacks(target) if state.is_current and lacks is not None else ""
            if state.is_current and not lacking:
                skipped[slide_id] = target
            else:
                if state.source_changed:
                    changed.append(slide_id)
                elif lacking or state.difference:
                    remade[lacking or state.difference] += 1
                try:
                    write(source, target, {**said, **state.attrs})
                    written[slide_id] = target
                except (UserError, OSError) as error:
                    if isinstance(error, OSError) and error.errno in _FOR_ALL:
                        raise  # the next bag would fail alike
                    failed.append(_failure(slide_id, error))
                    console.warn(failed[-1])
            bar.advance(note=slide_id)
    _say_made_again(changed, remade)
    return EncodedFolder(written, skipped, tuple(failed))


@dataclass(frozen=True)
class _State:
    """How a file stands to what would be written now.

    Attributes:
        attrs: What a file written now says of its making.
        is_current: Whether the file says the same.
        source_changed: Whether it was made from another content of its source.
        difference: What else made it, in words; empty where it is current or there is no file.
    """

    attrs: dict[str, str]
    is_current: bool
    source_changed: bool
    difference: str


def _state(source: Path, target: Path, recipe: Mapping[str, Any], identity: Identity) -> _State:
    """Compare what made a file with what would make it now."""
    content = source_hash(source)
    key = files.hash_obj({**recipe, "source": content})
    attrs = {"recipe": key, "source_hash": content, ATTRIBUTE: identity.to_json()}
    before, stored = _made_from(target), stored_identity(target)
    changes = () if stored is None else stored.differences(identity)
    is_current = before.get("recipe") == key and not changes
    source_changed = not is_current and before.get("source_hash", content) != content
    other = bool(before) and not is_current and not source_changed
    difference = ("; ".join(changes) or "other settings") if other else ""
    return _State(attrs, is_current, source_changed, difference)


def _say_made_again(changed: Sequence[str], remade: Mapping[str, int]) -> None:
    """Say why files were made again: slides whose source has changed, and counts by difference."""
    if changed:
        console.say(
            f"{len(changed)} source(s) have changed since they were encoded before: "
            f"{name_some(changed)}"
        )
    for difference, n in remade.items():
        console.say(f"{n} file(s) had been made otherwise and are made again ({difference})")


def _failure(slide_id: str, error: UserError | OSError) -> str:
    """What went wrong with a slide, in a line that names it."""
    line = error.at(slide_id) if isinstance(error, UserError) else str(error)
    return line if slide_id in line else f"{slide_id}: {line}"


def old_recipe(encoder: Any) -> dict[str, Any]:
    """Return what files say of their encoder in words, and older versions said of it at all."""
    recipe: dict[str, Any] = {"encoder": encoder.card.name, "dim": encoder.dim}
    _, options = getattr(encoder, "loaded_by", (None, None))
    weights = None if options is None else options.weights
    if weights is not None:
        described = [weights / name for name in ("spade.json", "tangle.json")]
        for file in described if weights.is_dir() else [weights]:
            if file.is_file():
                recipe["weights"] = files.hash_file(file)
    for name in ("routing", "tau"):
        if hasattr(encoder, name):
            recipe[name] = getattr(encoder, name)
    return recipe


_FOR_ALL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
"""What the machine answers when no file can be written to the folder."""


def _made_from(path: Path) -> dict[str, str]:
    """Return the recipe and the hash of the source of a finished file; empty without one."""
    import h5py

    if not path.is_file():
        return {}
    try:
        with h5py.File(path, "r") as file:
            attrs = dict(file["features"].attrs) if "features" in file else {}
    except (OSError, RuntimeError, KeyError):  # damaged: it is made again
        return {}
    return {name: str(attrs[name]) for name in ("recipe", "source_hash") if name in attrs}
