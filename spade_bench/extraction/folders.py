"""Takes every bag of a folder through something that writes a file: skip, do, or report."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from spade_bench import console, files
from spade_bench.errors import DataError, UserError, name_some
from spade_bench.extraction.outputs import check_width
from spade_bench.extraction.sharing import LEASES, Sharing
from spade_bench.features.bags import find_bags, source_hash
from spade_bench.features.identity import (
    ATTRIBUTE,
    Identity,
    identity_of,
    stored_identity,
    with_base,
)
from spade_bench.leases import Leases
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
    sharing: Sharing | None = None,
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
        sharing: How the bags are shared with other processes.

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
    work = _Work(encoder, bags, targets, recipe, write, lacks, sharing or Sharing(), failed)
    leases = Leases(_common(targets.values()) / LEASES, told_by=lambda name: [targets[name].parent])
    order = work.sharing.order(list(bags))
    with (
        console.progress(f"encode {card.name}", total=len(bags), unit=unit) as bar,
        closing(leases.in_turn(order, lambda name: name, lambda n: work.is_done(n, bar))) as turns,
    ):
        for slide_id in turns:
            work.do(slide_id)
            bar.advance(note=slide_id)
    _say_made_again(work.changed, work.remade)
    return EncodedFolder(work.written, work.skipped, tuple(failed))


@dataclass
class _Work:
    """The bags of a folder, and what has become of them."""

    encoder: Any
    bags: Mapping[str, Path]
    targets: Mapping[str, Path]
    recipe: Mapping[str, Any]
    write: Callable[[Path, Path, dict[str, Any]], object]
    lacks: Callable[[Path], str] | None
    sharing: Sharing
    failed: list[str]
    written: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, Path] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    remade: Counter[str] = field(default_factory=Counter)
    _over: set[str] = field(default_factory=set)

    @cached_property
    def said(self) -> dict[str, str]:
        """What files say of their encoder in words."""
        return {f"recipe_{name}": str(value) for name, value in self.recipe.items()}

    @cached_property
    def made_by(self) -> Identity:
        """What makes them."""
        return identity_of(self.encoder)

    @cached_property
    def state(self) -> Callable[[str], tuple[str, Identity]]:
        """Content and identity of a bag's source, which are looked up once."""

        def look(slide_id: str) -> tuple[str, Identity]:
            source = self.bags[slide_id]
            return source_hash(source), with_base(self.made_by, stored_identity(source))

        return cache(look)

    def stands(self, slide_id: str) -> tuple[_State, str]:
        """How the file of a bag stands to what would be written now, and what it lacks."""
        target = self.targets[slide_id]
        state = _state(*self.state(slide_id), target, self.recipe)
        lacking = self.lacks(target) if state.is_current and self.lacks is not None else ""
        return state, lacking

    def is_done(self, slide_id: str, bar: console.Progress) -> bool:
        """Whether nothing is left to do for a bag, and count it once."""
        if slide_id in self._over:
            return True
        state, lacking = self.stands(slide_id)
        if state.is_current and not lacking:
            self.skipped[slide_id] = self.targets[slide_id]
        elif (why := self.sharing.noted(slide_id)) is not None:
            self.failed.append(why)
        else:
            return False
        self._over.add(slide_id)
        bar.found(1)
        return True

    def do(self, slide_id: str) -> None:
        """Encode a bag, or say why it cannot be."""
        source, target = self.bags[slide_id], self.targets[slide_id]
        self._over.add(slide_id)
        state, lacking = self.stands(slide_id)
        if state.source_changed:
            self.changed.append(slide_id)
        elif lacking or state.difference:
            self.remade[lacking or state.difference] += 1
        try:
            self.write(source, target, {**self.said, **state.attrs})
            self.written[slide_id] = target
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _FOR_ALL:
                raise  # the next bag would fail alike
            line = _failure(slide_id, error)
            self.failed.append(line)
            self.sharing.note(slide_id, line)
            console.warn(line)


def _common(targets: Collection[Path]) -> Path:
    """The folder of files that lie in one, or in several below it."""
    return Path(os.path.commonpath([path.parent.absolute() for path in targets]))


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


def _state(content: str, identity: Identity, target: Path, recipe: Mapping[str, Any]) -> _State:
    """Compare what made a file with what would make it now, of a source of this content."""
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
