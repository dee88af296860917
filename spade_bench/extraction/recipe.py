"""What determines the features in a file, so that finished work is told from stale.

A file says which input it was made of (`recipe`) and what made it (`identity`). Files of older
versions have one recipe for both.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError, UserError
from spade_bench.extraction.sharing import Sharing
from spade_bench.features.identity import ATTRIBUTE, Identity, identity_of
from spade_bench.features.weightfiles import is_commit
from spade_bench.files import hash_file, hash_obj
from spade_bench.types import EncoderCard, LoadOptions, PatchEncoder

__all__ = [
    "EncoderSource",
    "Recipe",
    "Settings",
    "StoredRecipe",
    "fingerprint",
    "old_revision",
    "stored_recipe",
]

_SCHEMA = 2  # of a recipe without its encoder, which the identity names
_OLD_SCHEMA = 1
_EDGE = 1 << 16  # bytes hashed at each end of an input file


@dataclass(frozen=True)
class Settings:
    """How to extract.

    Attributes:
        mpp: Resolution of the patches, µm per pixel; None takes the encoder's.
        overlap: Overlap of neighbouring patches in pixels of the patch.
        min_tissue: Least share of tissue in a patch of a slide.
        assume_mpp: Resolution of slides, or of patch images, that do not say it.
        override_mpp: Resolution of slides, whatever they say.
        series: Which image of slide files that hold several, from 0; None takes the first.
        batch_size: Patches handed to the encoder at once.
        workers: Reader threads; 0 picks by the number of cores.
        shard: Zero-based index and count: take every count-th slide from the index on.
        preview: Write a thumbnail with mask and grid beside the features of each slide.
        drop_pen: Leave out patches of a slide on pen marks.
        drop_blur: Leave out patches of a slide that are out of focus.
        sharing: How the slides are shared with other processes.
    """

    mpp: float | None = None
    overlap: int = 0
    min_tissue: float = 0.25
    assume_mpp: float | None = None
    override_mpp: float | None = None
    series: int | None = None
    batch_size: int = 128
    workers: int = 0
    shard: tuple[int, int] | None = None
    preview: bool = True
    drop_pen: bool = False
    drop_blur: bool = False
    sharing: Sharing = field(default_factory=Sharing)

    def check(self, patch_px: int) -> None:
        """Refuse values that make no sense for patches of ``patch_px``.

        Raises:
            UserError: Naming the first such value.
        """
        given = {"mpp": self.mpp, "assume-mpp": self.assume_mpp, "override-mpp": self.override_mpp}
        for name, value in given.items():
            if value is not None and not 0.01 <= value <= 100:
                raise UserError(f"{value:g} µm per pixel makes no sense", where=f"--{name}")
        if self.series is not None and self.series < 0:
            raise UserError(
                f"{self.series} is no image; they are numbered from 0", where="--series"
            )
        if not 0 <= self.min_tissue <= 1:
            raise UserError(f"{self.min_tissue:g} is not in 0..1", where="--min-tissue")
        if self.batch_size < 1:
            raise UserError(f"{self.batch_size} is no batch size", where="--batch-size")
        if not 0 <= self.overlap < patch_px:
            raise UserError(
                f"{self.overlap} px is not in 0..{patch_px - 1}; a patch is {patch_px} px wide",
                where="--overlap",
            )

    def readers(self) -> int:
        """Number of reader threads."""
        return self.workers or min(8, max(2, os.cpu_count() or 2))


class EncoderSource:
    """An encoder that is loaded when the first slide needs it.

    Args:
        encoder: Registry name, or a patch encoder that is loaded already.
        options: How to load it.

    Raises:
        UserError: When it does not encode images or its card lacks the patch size.
    """

    def __init__(self, encoder: str | PatchEncoder, options: LoadOptions | None = None) -> None:
        from spade_bench.registry import encoders

        self.options = options or LoadOptions()
        self._given = options  # None: those that a loaded encoder was loaded with
        self._loaded: PatchEncoder | None = None
        self._identity: Identity | None = None
        self._old_recipe: dict[str, Any] | None = None
        if isinstance(encoder, str):
            self._plugin = encoders.get(encoder)
            self.card: EncoderCard = self._plugin.card
        else:
            self._loaded, self.card = encoder, encoder.card
        if self.card.input != "image":
            raise UserError(
                f"'{self.card.name}' encodes features, not images",
                where="--encoder",
                fix="Extract with its base encoder, then use `spade-bench encode`",
            )
        if self.card.patch_px is None or self.card.mpp is None:
            raise UserError("card lacks patch_px or mpp", where=self.card.name)
        self.patch_px: int = self.card.patch_px

    def get(self) -> PatchEncoder:
        """Return the encoder, loading it the first time."""
        if self._loaded is None:
            loaded: PatchEncoder = self._plugin.load(self.options)
            self._loaded = loaded
        return self._loaded

    def mpp(self, settings: Settings) -> float:
        """Resolution at which patches are taken, µm per pixel."""
        return settings.mpp or self.card.mpp or 0.5

    def identity(self) -> Identity:
        """What makes the features.

        An encoder is loaded for it where that is needed to know: a plugin, which may say more once
        it is, and weights of the hub that are neither in the cache nor pinned to a commit.
        """
        if self._identity is None or not self._identity.known:
            if self._loaded is None and self._plugin.origin == "built-in":
                self._identity = identity_of(self._plugin, self.options)
            if self._identity is None or not self._identity.known:
                self._identity = identity_of(self.get(), self._given)
        return self._identity

    def loaded_identity(self) -> Identity:
        """What makes the features, once the encoder is loaded and its weights are at hand."""
        if self._identity is not None and self._identity.weights is not None:
            return self._identity
        self._identity = identity_of(self.get(), self._given)
        return self._identity

    def old_recipe(self) -> dict[str, Any]:
        """What files of older versions say of their encoder."""
        if self._old_recipe is None:
            self._old_recipe = self._made_old_recipe()
        return self._old_recipe

    def _made_old_recipe(self) -> dict[str, Any]:
        weights = self.options.weights
        files: Iterable[Path] = ()
        if weights is not None:
            files = sorted(weights.iterdir()) if weights.is_dir() else [weights]
        return {
            "encoder": self.card.name,
            "source": self.card.source,
            "revision": old_revision(self.card),
            "patch_px": self.card.patch_px,
            "interpolation": self.card.interpolation,
            "crop_pct": self.card.crop_pct,
            "precision": self.options.precision or self.card.precision,
            "seed": self.options.seed,
            # Consent decides whether a model may be built, not what it computes.
            "options": {k: v for k, v in self.options.options.items() if k != "trust_remote_code"},
            "weights": [hash_file(file) for file in files if file.is_file()],
        }


def old_revision(card: EncoderCard) -> str:
    """What a card said of its revision before cards pinned commits: `main`, where it was the hub's.

    Older files and folders are told by it.
    """
    of_hub = bool(card.needs.repos) and not card.revision
    return "main" if of_hub or is_commit(card.revision) else card.revision


def fingerprint(path: Path) -> list[Any]:
    """Name, size and a hash of both ends of a file: tells files apart without reading gigabytes.

    Raises:
        DataError: When it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            digest.update(handle.read(_EDGE))
            handle.seek(max(size - _EDGE, 0))
            digest.update(handle.read(_EDGE))
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise DataError("is a link to a file that is not there", where=path.name) from error
        raise DataError(f"cannot be read ({error.strerror or error})", where=path.name) from error
    return [path.name, size, digest.hexdigest()[:16]]


@dataclass(frozen=True)
class StoredRecipe:
    """What a features file says of how it was made.

    Attributes:
        hash: Hash of its recipe.
        values: The recipe.
        identity: What made it; None in a file of an older version.
    """

    hash: str
    values: Mapping[str, Any]
    identity: Identity | None


@dataclass(frozen=True)
class Recipe:
    """What one features file is to be made of.

    Attributes:
        inputs: What of the slide and the settings determines the features.
    """

    inputs: Mapping[str, Any]

    def attrs(self, identity: Identity) -> dict[str, str]:
        """The attributes that record it in a features file."""
        recipe = {"schema": _SCHEMA, **self.inputs}
        return {
            "recipe": json.dumps(recipe, sort_keys=True),
            "recipe_hash": hash_obj(recipe),
            ATTRIBUTE: identity.to_json(),
        }

    def changes(self, stored: StoredRecipe, source: EncoderSource) -> tuple[str, ...]:
        """Say what a file was made with that is different now; nothing when it is current."""
        if stored.identity is None:
            recipe = {"schema": _OLD_SCHEMA, **source.old_recipe(), **self.inputs}
        else:
            recipe = {"schema": _SCHEMA, **self.inputs}
        if stored.hash != hash_obj(recipe):
            return ("other settings or input",)
        return () if stored.identity is None else stored.identity.differences(source.identity())


def stored_recipe(path: Path) -> StoredRecipe | None:
    """What a features file says of how it was made; None when there is no such file.

    A file that cannot be read, or says nothing, has an empty hash.
    """
    import h5py

    if not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            attrs = dict(file["features"].attrs)
        content = json.loads(attrs.get("recipe", "{}"))
        identity = attrs.get(ATTRIBUTE)
        made_by = None if identity is None else Identity.from_dict(json.loads(identity))
        values = content if isinstance(content, dict) else {}
        return StoredRecipe(str(attrs.get("recipe_hash", "")), values, made_by)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):  # damaged: it is made again
        return StoredRecipe("", {}, None)
