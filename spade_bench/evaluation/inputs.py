"""What Python hands over in memory, put where a run looks for it: tables, cards, bags, encoders."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spade_bench import config
from spade_bench.errors import DataError, UserError
from spade_bench.evaluation.settings import EvaluationSettings
from spade_bench.files import atomic_path, file_name, hash_array, hash_obj
from spade_bench.registry import encoders as registered
from spade_bench.types import Bag, EncoderCard, TaskCard

__all__ = [
    "ChosenEncoders",
    "by_name",
    "choose_encoders",
    "feature_folders",
    "listed",
    "settings_of",
    "tables",
    "task_name",
]

_EVERY = "*"
_KEYWORDS = {"encoders": "encoder", "tasks": "task", "tables": "table",
             "region_names": "region_name"}  # fmt: skip
"""Fields of the settings that have a keyword of another name in Python."""


def listed(value: Any) -> list[Any]:
    """Return a list of what may be one thing or several."""
    several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return list(value) if several else [value]


@dataclass(frozen=True)
class ChosenEncoders:
    """Encoders as the settings of a run name them.

    Attributes:
        names: Their names, or `LABEL=NAME`.
        weights: Name -> weights of those that were loaded with some.
        options: Name -> options of those that were loaded with some.
        loaded: Name -> encoder, of those that no name stands for: they run as they are.
    """

    names: tuple[str, ...]
    weights: Mapping[str, Path] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    loaded: Mapping[str, Any] = field(default_factory=dict)


def choose_encoders(encoders: Any, seed: int = 0) -> ChosenEncoders:
    """Return encoders by name, with what those that are loaded were loaded with.

    An encoder that `load_encoder` returned goes by its name, so that its rows are those of the
    command line. One that was made by other means, or loaded in a way that a run does not repeat,
    runs as it is.

    Args:
        encoders: Names or `LABEL=NAME`, loaded encoders, a list of these, or a mapping of label ->
            any of these.
        seed: Seed of the run; an encoder that was loaded with another one runs as it is.

    Raises:
        UserError: When an object is no encoder, or two encoders have one label.
    """
    names: list[str] = []
    weights: dict[str, Path] = {}
    options: dict[str, Mapping[str, Any]] = {}
    loaded: dict[str, Any] = {}
    labelled = isinstance(encoders, Mapping)
    for label, encoder in encoders.items() if labelled else ((None, e) for e in listed(encoders)):
        if isinstance(encoder, str):
            names.append(encoder if label is None else f"{label}={encoder}")
            continue
        card = _checked_card(encoder)
        key = card.name if label is None else str(label)
        if key in {name.partition("=")[0] for name in names}:
            raise UserError(
                f"two encoders are called '{key}'",
                fix="Give them as a mapping of label -> encoder",
            )
        names.append(card.name if label is None else f"{label}={card.name}")
        if card.input == "image" and card.name in registered:
            continue  # its features are at hand: it is not loaded again
        _, how = getattr(encoder, "loaded_by", (None, None))
        if how is None or how.precision is not None or how.seed != seed:
            loaded[key] = encoder
            continue
        if how.weights is not None:
            weights[key] = how.weights
        kept = {**how.options, **({"revision": how.revision} if how.revision else {})}
        if kept:
            options[key] = kept
    return ChosenEncoders(tuple(names), weights, options, loaded)


def _checked_card(encoder: Any) -> EncoderCard:
    """Return the card of a loaded encoder.

    Raises:
        UserError: When it is no encoder, naming what it lacks.
    """
    card = getattr(encoder, "card", None)
    if not isinstance(card, EncoderCard):
        raise UserError(
            f"a {type(encoder).__name__} is neither the name of an encoder nor a loaded one",
            fix="Give a name, what load_encoder returns, or an object with `card` and `encode`",
        )
    method = "encode_slide" if card.level == "slide" else "encode"
    if not callable(getattr(encoder, method, None)):
        raise UserError(
            f"it has no method `{method}`, which its card promises",
            where=f"encoder '{card.name}'",
            fix="See 'A patch encoder' and the sections after it in CONTRIBUTING.md",
        )
    if card.input == "features":
        dim = getattr(encoder, "dim", "none")
        width = isinstance(dim, int) and not isinstance(dim, bool) and dim > 0
        if not width and not (dim is None and card.level == "slide"):
            raise UserError(
                f"its `dim` is {dim!r}, not the width of the features that it makes",
                where=f"encoder '{card.name}'",
                fix="Give it an attribute `dim`, a whole number",
            )
    return card


def task_name(task: Any, folder: Path) -> str:
    """Return the name by which a run finds a task; a card is written to a file.

    Args:
        task: A name, a path, or a card.
        folder: The run's output folder.
    """
    if not isinstance(task, TaskCard):
        return str(os.fspath(task))
    import yaml

    content = {
        f.name: list(value) if isinstance(value, tuple) else value
        for f in dataclasses.fields(task)
        if (value := getattr(task, f.name)) != f.default
    }
    path = folder / "tasks" / f"{file_name(task.name)}.yaml"
    with atomic_path(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def tables(table: Any, folder: Path) -> dict[str, Path]:
    """Return the table of each task, `*` for every task; a DataFrame is written to a csv file.

    Args:
        table: A csv file, a DataFrame, or a mapping of task -> either; None for none.
        folder: The run's output folder.
    """
    return {name: _table(one, name, folder) for name, one in _named(table).items()}


def feature_folders(
    features: Any, folder: Path, names: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Return the features folder of each encoder, `*` for every one; bags are written to files.

    Args:
        features: A folder or pack, an AnnData, a bag, a list of bags, or a mapping of encoder ->
            any of these; None for none.
        folder: The run's output folder.
        names: Label -> name, of encoders that are labelled otherwise than they are called: bags
            that name no encoder were made by the one that the label stands for.

    Raises:
        DataError: When a bag names no encoder and none is given for it.
    """
    called = names or {}
    return {
        name: _features(one, name, called.get(name, name), folder)
        for name, one in _named(features).items()
    }


def by_name(paths: Any) -> dict[str, Path]:
    """Return paths by name, `*` for every name, of one path or a mapping; None is none."""
    return {name: Path(path) for name, path in _named(paths).items()}


def _named(value: Any) -> dict[str, Any]:
    """What is given by name; one thing without a name stands for every one, None for none."""
    if value is None:
        return {}
    named = value if isinstance(value, Mapping) else {_EVERY: value}
    return {str(name): one for name, one in named.items()}


def _table(table: Any, name: str, folder: Path) -> Path:
    if isinstance(table, (str, os.PathLike)):
        return Path(table)
    if not hasattr(table, "to_csv"):
        raise UserError(f"a table is a csv file or a DataFrame, not a {type(table).__name__}")
    text = table.to_csv(index=False)
    stem = "table" if name == _EVERY else file_name(name)
    path = folder / "tables" / f"{stem}-{hash_obj(text)[:8]}.csv"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _content(bags: Sequence[Bag]) -> str:
    """Digest of bags: their names, numbers and positions.

    Raises:
        DataError: When two of them are of one slide and one encoder.
    """
    seen: set[tuple[str, str | None]] = set()
    for bag in bags:
        if (bag.slide_id, bag.encoder) in seen:
            raise DataError("two bags are of this slide", where=bag.slide_id, fix="Give one")
        seen.add((bag.slide_id, bag.encoder))
    listed = [
        [
            *(bag.slide_id, bag.encoder, bag.mpp, bag.patch_size_level0, bag.identity),
            *(hash_array(bag.features), None if bag.coords is None else hash_array(bag.coords)),
        ]
        for bag in bags
    ]
    return hash_obj(listed)[:12]


def _features(features: Any, name: str, made_by: str, folder: Path) -> Path:
    """The folder of features under a name; bags that name no encoder are written as `made_by`'s."""
    if isinstance(features, (str, os.PathLike)):
        return Path(features)
    if hasattr(features, "folder"):  # what `extract` returned
        return Path(features.folder)
    from spade_bench.features.annotated import bags_in_memory
    from spade_bench.features.bags import placement, write_features

    bags = bags_in_memory(features)
    stem = "given" if name == _EVERY else file_name(name)
    # By content: other bags of the same name never meet these, nor those of an earlier call.
    root = folder / "features" / f"{stem}-{_content(bags)}"
    for bag in bags:
        encoder = bag.encoder or (None if name == _EVERY else made_by)
        if encoder is None:
            raise DataError(
                "the bag does not say which encoder made it",
                where=bag.slide_id,
                fix="Give features={ENCODER: bags}",
            )
        target = root / f"features_{file_name(encoder)}" / f"{file_name(bag.slide_id)}.h5"
        write_features(
            target,
            bag.features,
            bag.coords,
            slide_id=bag.slide_id,
            encoder=encoder,
            barcodes=bag.barcodes,
            attrs={
                "mpp": bag.mpp,
                "patch_size_level0": bag.patch_size_level0,
                **({} if bag.identity is None else {"identity": bag.identity}),
                **placement(bag),
            },
        )
    return root


def settings_of(
    encoders: ChosenEncoders,
    task: Any,
    folder: Path,
    settings: dict[str, Any],
    *,
    table: Any,
    features: Any,
    weights: Any,
) -> EvaluationSettings:
    """Settings of a run from names and objects; what lies in memory is written to the folder."""
    for name, keyword in _KEYWORDS.items():
        if name in settings:
            raise UserError(f"there is no keyword {name}=", fix=f"Write {keyword}=")
    for keyword, name in {"test_table": "test_tables", "region_name": "region_names"}.items():
        if keyword in settings:
            settings[name] = settings.pop(keyword)
    called = {label: name for label, equals, name in
              (one.partition("=") for one in encoders.names) if equals}  # fmt: skip
    values = {
        **settings,
        "test_tables": tables(settings.get("test_tables"), folder),
        "test_features": feature_folders(settings.get("test_features"), folder, called),
        "encoders": encoders.names,
        "tasks": tuple(task_name(one, folder) for one in listed(task)),
        "tables": tables(table, folder),
        "features": feature_folders(features, folder, called),
        "weights": {**encoders.weights, **by_name(weights)},
        "set": config.merge(encoders.options, settings.get("set") or {}),
        "out": folder,
    }
    return EvaluationSettings.of(values, "keywords")
