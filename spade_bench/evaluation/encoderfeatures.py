"""Where an encoder's features come from: its own files, or another encoder's sent through it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench import workspace as ws
from spade_bench.cohorts.contamination import UNKNOWN, Provenance, provenance
from spade_bench.console import say, warn
from spade_bench.errors import DataError
from spade_bench.evaluation.request import EncoderRequest, EvaluationRequest
from spade_bench.evaluation.settings import path_of
from spade_bench.extraction.outputs import checked_encode
from spade_bench.features.bags import FeatureFolders, bag_encoder, read_bag, same_encoder
from spade_bench.features.casebags import BagInfo, CaseBags
from spade_bench.features.identity import Identity, identity_of, with_base
from spade_bench.features.slideids import LOOSE_IDS, match_files
from spade_bench.files import hash_array, hash_file, hash_obj
from spade_bench.registry import encoders, suggest, tasks
from spade_bench.types import EncoderCard, FeatureEncoder, LoadOptions, SlideEncoder, TaskCard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.bagmemory import BagMemory

    Encode = Callable[[NDArray[np.float32]], NDArray[np.floating]]

__all__ = [
    "MISMATCH",
    "MIXED",
    "EncoderFeatures",
    "check_declared",
    "find_features",
    "load_feature_encoder",
    "matched",
    "source_bags",
    "weights_hash",
    "with_test_files",
]


MISMATCH = "encoder-mismatch:"
"""What the flag of rows begins with whose feature files name another encoder."""
MIXED = "mixed-identities"
"""Flag of rows whose feature files were made in different ways."""

_PROBED = 256  # patches of one slide by which an encoder without a name is told from others


@dataclass(frozen=True)
class EncoderFeatures:
    """An encoder with the files it starts from.

    Attributes:
        label: Name in the results.
        files: Slide id -> feature file of the encoder itself, or of its base.
        base: Name of the base encoder when features pass through another encoder, else None.
        encode: Turns base features into this encoder's, or None.
        encode_slide: For a slide encoder: turns a file of patch features into its vector, or None.
        dim: Width after ``encode``; None means that of the files.
        loaded: The encoder behind ``encode`` or ``encode_slide``, which may bring controls.
        seen: What it and the encoders below it were trained on.
        identity: What of the encoder is part of a run's id, besides the feature files.
        made_by: What made its features, or makes them on the way; None where the files do not say.
        request: What was asked for.
        flags: Flags of every row of it.
        maker: Digest of all that determines what ``encode`` or ``encode_slide`` returns; empty
            where nobody can say, and nothing may be kept for later.
    """

    label: str
    files: Mapping[str, Path]
    request: EncoderRequest
    base: str | None = None
    encode: Encode | None = None
    encode_slide: Callable[[Path], NDArray[np.floating]] | None = None
    dim: int | None = None
    loaded: FeatureEncoder | SlideEncoder | None = None
    seen: Provenance = UNKNOWN
    identity: Mapping[str, Any] = field(default_factory=dict)
    made_by: Identity | None = None
    flags: tuple[str, ...] = ()
    maker: str = ""


def find_features(
    request: EvaluationRequest, encoder: EncoderRequest, task: TaskCard, folders: FeatureFolders
) -> EncoderFeatures:
    """Locate the features of an encoder for a task, and say what made them.

    Raises:
        WorkspaceError: When neither flags nor workspace say where features are.
        DataError: When the folder holds none, or another encoder's.
        WeightsError: When the weights of a feature encoder are missing or do not fit.
    """
    features = _located(request, encoder, task, folders)
    wanted = _maker(features)
    flags = _check_identities(request, folders, features.label, features.files, wanted)
    return replace(features, flags=tuple(dict.fromkeys((*features.flags, *flags))))


def _located(
    request: EvaluationRequest, encoder: EncoderRequest, task: TaskCard, folders: FeatureFolders
) -> EncoderFeatures:
    """Locate the features of an encoder for a task."""
    card = _card_of(encoder)
    if card is None:
        return _precomputed(request, encoder, task, folders)
    if card.level == "slide":
        return _slide_level(request, encoder, task, card, folders)
    if card.input == "features" and (encoder.weights, encoder.loaded) != (None, None):
        return _chained(request, encoder, task, folders)
    folder = _folder(request, task, encoder.label, encoder.name)
    try:
        files, flags = _files(request, folders, folder, encoder, encoder.name)
    except DataError:
        if card.input == "features":  # base features without weights: loading says what is missing
            load_feature_encoder(encoder, request.settings.device, request.settings.seed)
        raise
    first = next(iter(files.values()))
    made_by = folders.identity(first)
    if flags:
        seen = _said_by(flags)
        return EncoderFeatures(
            encoder.label, files, encoder, seen=seen, made_by=made_by, flags=flags
        )
    if card.input == "features" and bag_encoder(first) != encoder.name:
        # Only base features and no weights: loading says in one line what is missing.
        load_feature_encoder(encoder, request.settings.device, request.settings.seed)
    return EncoderFeatures(
        encoder.label, files, encoder, seen=provenance(card), dim=card.dim, made_by=made_by
    )


def _card_of(encoder: EncoderRequest) -> EncoderCard | None:
    """The card of an encoder; None where there is none."""
    if encoder.loaded is not None:
        card: EncoderCard = encoder.loaded.card
        return card
    return encoders.get(encoder.name).card if encoder.name in encoders else None


def with_test_files(
    request: EvaluationRequest,
    features: EncoderFeatures,
    tested: frozenset[str],
    folders: FeatureFolders,
) -> EncoderFeatures:
    """Add the features of another cohort's slides, where they lie in a folder of their own.

    Args:
        request: Names the folder.
        features: The encoder with the training cohort's features.
        tested: Slides of the other cohort.
        folders: The features folders that the run has listed.

    Raises:
        DataError: When the folder holds no features of this encoder.
    """
    names = [features.label, features.request.name, features.base]
    folder = path_of(request.settings.test_features, *(name for name in names if name))
    if folder is None:
        return features
    wanted = bag_encoder(next(iter(features.files.values())))
    if wanted is None:  # nobody says what they are but the name they were asked for by
        wanted = _maker(features)
    files, mismatch = _files(request, folders, folder, features.request, wanted)
    matching, loose = matched(request, files, tested, features.label)
    added = {slide: path for slide, path in matching.items() if slide in tested}
    made = _check_identities(request, folders, features.label, added, _maker(features))
    flags = tuple(dict.fromkeys((*features.flags, *mismatch, *loose, *made)))
    return replace(features, files={**features.files, **added}, flags=flags)


def matched(
    request: EvaluationRequest, files: Mapping[str, Path], wanted: Iterable[str], label: str
) -> tuple[Mapping[str, Path], tuple[str, ...]]:
    """Let files serve slides as `match_ids` has it, and flag those whose ids are not the same."""
    matching = match_files(files, wanted, request.settings.match_ids, label)
    return matching, (LOOSE_IDS,) if matching.keys() != files.keys() else ()


def load_feature_encoder(encoder: EncoderRequest, device: str, seed: int) -> Any:
    """Load an encoder of features, of patches or of slides, through the registry."""
    return encoders.get(encoder.name).load(
        LoadOptions(weights=encoder.weights, device=device, seed=seed, options=encoder.options)
    )


def weights_hash(path: Path) -> str:
    """Hash the tensors of a weights file or folder, so that a copy elsewhere hashes alike."""
    if path.is_file():
        return hash_file(path)
    kinds = {".safetensors", ".pt", ".pth", ".bin", ".npy"}
    files = sorted(p for p in path.iterdir() if p.is_file() and p.suffix in kinds)
    return hash_obj([[p.name, hash_file(p)] for p in files])


def _beyond_weights(card: EncoderCard, made_by: Identity) -> dict[str, Any]:
    """What determines an encoder's numbers and `weights_hash` does not see.

    It is part of a run's id, so nothing is named for an encoder of this package with weights of a
    path, or those that its card pins: the ids of older runs stay.
    """
    parts: dict[str, Any] = {"code": made_by.code} if made_by.code else {}
    commit = made_by.source.rpartition("@")[2]
    if made_by.source.startswith("hub ") and commit != card.revision:
        parts["source"] = made_by.source
    if (card.remote_code or made_by.code) and made_by.weights:
        parts["files"] = hash_obj(made_by.weights)
    return parts


def _precomputed(
    request: EvaluationRequest, encoder: EncoderRequest, task: TaskCard, folders: FeatureFolders
) -> EncoderFeatures:
    """Features under a name outside the registry, which the files must not contradict."""
    folder = request.features_of(task, encoder.label, encoder.name)
    if folder is None:
        encoders.get(encoder.name)  # names the nearest registered encoders
    files, flags = _files(request, folders, _exists(folder), encoder, encoder.name)
    if not request.settings.as_is and bag_encoder(next(iter(files.values()))) is None:
        _refuse_misspelling(encoder.name)
    declared = _declared(request.settings.pretrained_on, encoder)
    seen = _said_by(flags) if declared is None else Provenance(declared)
    made_by = folders.identity(next(iter(files.values())))
    return EncoderFeatures(encoder.label, files, encoder, seen=seen, made_by=made_by, flags=flags)


def _declared(entries: Sequence[str], encoder: EncoderRequest) -> tuple[str, ...] | None:
    """What the user says that an encoder outside the registry saw; None without a word on it."""
    declared: tuple[str, ...] | None = None
    for entry in entries:
        name, equals, listed = entry.rpartition("=")
        if equals and name not in {encoder.label, encoder.name}:
            continue
        names = tuple(part.strip() for part in listed.split(",") if part.strip())
        data_sets = () if [n.lower() for n in names] == ["none"] else names
        if equals:
            return data_sets
        declared = data_sets
    return declared


def check_declared(request: EvaluationRequest) -> None:
    """Refuse a declaration for an encoder whose card says what it saw, or that nobody asked for.

    A data set that only resembles one of the cards is said: it would match no task.

    Raises:
        DataError: Naming the encoder.
    """
    names = {name for e in request.encoders for name in (e.label, e.name)}
    for entry in request.settings.pretrained_on:
        name, equals, _ = entry.rpartition("=")
        outside = [e for e in request.encoders if _card_of(e) is None]
        loaded = [e for e in request.encoders if e.loaded is not None]
        if equals and (name in encoders or any(name in (e.label, e.name) for e in loaded)):
            raise DataError(
                f"the card of '{name}' says what it saw",
                where="--pretrained-on",
                fix="Leave it out",
            )
        if (equals and name not in names) or not outside:
            who = f"'{name}' is not among the encoders" if equals else "all encoders have cards"
            raise DataError(
                who, where="--pretrained-on", fix="Name an encoder of this run that has no card"
            )
        for data_set in filter(None, map(str.strip, entry.rpartition("=")[2].split(","))):
            near = suggest(data_set, _known_sources(), 0.8)
            if near and data_set != "none" and data_set not in _known_sources():
                warn(f"--pretrained-on: no card speaks of '{data_set}'. Did you mean {near}?")


def _known_sources() -> set[str]:
    """Data sets that the cards of tasks and encoders name."""
    cards = [plugin.card for plugin in tasks]
    seen = {source for card in cards for source in card.sources}
    return seen | {source for plugin in encoders for source in plugin.card.pretrained_on or ()}


def _maker(features: EncoderFeatures) -> str | None:
    """The encoder that makes the files: itself, or its base; None for a base of any name."""
    if features.encode is None and features.encode_slide is None:
        return features.request.name
    return None if features.base == "base" else features.base


def _check_identities(
    request: EvaluationRequest,
    folders: FeatureFolders,
    label: str,
    files: Mapping[str, Path],
    wanted: str | None,
) -> tuple[str, ...]:
    """Hold what files say of their making against each other and against the name they bear.

    Args:
        request: Says whether files of another encoder are taken.
        folders: What the run has looked at.
        label: Name of the encoder, for messages.
        files: The files.
        wanted: Encoder that must have made them; None for any.

    Returns:
        Flags of rows that use them.

    Raises:
        DataError: When what a file says of its making contradicts the name, without `as_is`.
    """
    stored = {path: folders.identity(path) for path in files.values()}
    flags: list[str] = []
    digests = {one.digest for one in stored.values() if one is not None}
    if len(digests) > 1:
        warn(f"{label}: the feature files were made in {len(digests)} different ways")
        flags.append(MIXED)
    for path, identity in stored.items():
        if identity is None or wanted is None or same_encoder(identity.encoder, wanted):
            continue
        if not request.settings.as_is:
            raise DataError(
                f"says that '{identity.encoder}' made it, not '{wanted}'",
                where=str(path),
                fix="Extract it again, or take it, flagged, with --as-is",
            )
        flags.append(f"{MISMATCH}{identity.encoder}")
    return tuple(flags)


def _files(
    request: EvaluationRequest,
    folders: FeatureFolders,
    folder: Path,
    encoder: EncoderRequest,
    wanted: str | None,
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Find the files an encoder starts from; with `as_is` also another one's, and the flag of that.

    Args:
        request: Says whether other files are taken.
        folders: Folders listed before.
        folder: Where to look.
        encoder: For messages.
        wanted: Encoder that must have made the files: itself or its base; None for any one.

    Raises:
        DataError: When they name another encoder and this was not allowed.
    """
    try:
        return folders.bags(folder, wanted), ()
    except DataError as mismatch:
        try:
            files = folders.bags(folder)
        except DataError:
            raise mismatch from None
        made_by = bag_encoder(next(iter(files.values())))
        if request.settings.as_is:
            say(f"{encoder.name}: the files name the encoder {made_by}; taken as they are")
            return files, (f"{MISMATCH}{made_by}",)
        if wanted != encoder.name:
            raise DataError(
                f"'{encoder.name}' takes features of '{wanted}', but the files name '{made_by}'",
                where=str(folder),
                fix=f"Name the folder with those of {wanted}, or take these, flagged, with --as-is",
            ) from None
        raise DataError(
            f"asked for encoder '{encoder.name}', but the files name '{made_by}'",
            where=str(folder),
            fix=f"Did you mean --encoder {made_by}? Or take them, flagged, with --as-is",
        ) from None


def _said_by(flags: tuple[str, ...]) -> Provenance:
    """What the encoder that the files name has seen, where they were taken as they are."""
    names = [flag.removeprefix(MISMATCH) for flag in flags]
    known = [encoders.get(name).card for name in names if name in encoders]
    return provenance(known[0]) if known else UNKNOWN


def _refuse_misspelling(name: str) -> None:
    near = difflib.get_close_matches(name.lower(), encoders.names(), n=1, cutoff=0.8)
    if near:
        raise DataError(
            f"there is no encoder '{name}', and its files do not name one",
            where="--encoder",
            fix=f"Did you mean '{near[0]}'? If '{name}' is an encoder of your own, give --as-is",
        )


def _chained(
    request: EvaluationRequest, encoder: EncoderRequest, task: TaskCard, folders: FeatureFolders
) -> EncoderFeatures:
    loaded: FeatureEncoder = encoder.loaded or load_feature_encoder(
        encoder, request.settings.device, request.settings.seed
    )
    card: EncoderCard = loaded.card
    base = None if card.upstream in {None, "any", ""} else card.upstream
    folder = _folder(request, task, encoder.label, base, encoder.name)
    files, flags = _files(request, folders, folder, encoder, base)
    base = _made_by(files, base, flags)
    made_by = identity_of(loaded)
    encode = checked_encode(loaded)
    identity: dict[str, Any]
    if encoder.loaded is not None:
        numbers = encode(read_bag(files[min(files)]).features[:_PROBED])
        made_by, identity = _told_by_numbers(made_by, numbers)
    else:
        weights = None if encoder.weights is None else weights_hash(encoder.weights)
        identity = {"weights": weights, "options": dict(encoder.options)}
    return EncoderFeatures(
        label=encoder.label,
        files=files,
        request=encoder,
        base=base or "base",
        encode=encode,
        dim=loaded.dim,
        loaded=loaded,
        seen=provenance(card, loaded, base),
        identity={**identity, **_beyond_weights(card, made_by)},
        made_by=with_base(made_by, folders.identity(next(iter(files.values())))),
        flags=flags,
        maker=_maker_digest(encoder, made_by, identity, request.settings.device),
    )


def _slide_level(
    request: EvaluationRequest,
    encoder: EncoderRequest,
    task: TaskCard,
    card: EncoderCard,
    folders: FeatureFolders,
) -> EncoderFeatures:
    """A slide encoder: its own vectors where they are, else patch features through it."""
    from spade_bench.extraction.slide_vectors import vector_maker
    from spade_bench.features.bags import bag_dim

    upstream = None if card.upstream in {None, "any", ""} else card.upstream
    folder = _folder(request, task, encoder.label, encoder.name, upstream)
    with contextlib.suppress(DataError):  # no vectors of this encoder: patch features must do
        files = folders.bags(folder, encoder.name)
        first = next(iter(files.values()))
        if bag_encoder(first) == encoder.name and encoder.loaded is None:
            seen, made_by = provenance(card), folders.identity(first)
            return EncoderFeatures(
                encoder.label, files, encoder, seen=seen, dim=card.dim, made_by=made_by
            )
    loaded: SlideEncoder = encoder.loaded or load_feature_encoder(
        encoder, request.settings.device, request.settings.seed
    )
    base = None if loaded.card.upstream in {None, "any", ""} else loaded.card.upstream
    files, flags = _files(request, folders, folder, encoder, base)
    first = next(iter(files.values()))
    base = _made_by(files, base, flags)
    weights = None if encoder.weights is None else weights_hash(encoder.weights)
    make = vector_maker(loaded, any_base=bool(flags))
    # Consent decides whether a model may be built, not what it computes.
    options = {k: v for k, v in encoder.options.items() if k != "trust_remote_code"}
    made_by = identity_of(loaded)
    identity: dict[str, Any] = {"slide": encoder.name, "weights": weights, "options": options}
    if encoder.loaded is not None:
        made_by, identity = _told_by_numbers(made_by, make(files[min(files)])[1])
    return EncoderFeatures(
        label=encoder.label,
        files=files,
        request=encoder,
        base=base or "base",
        encode_slide=lambda path: make(path)[1],
        dim=loaded.dim or bag_dim(first),
        loaded=loaded,
        seen=provenance(loaded.card, loaded, base),
        identity={**identity, **_beyond_weights(card, made_by)},
        made_by=with_base(made_by, folders.identity(first)),
        flags=flags,
        maker=_maker_digest(encoder, made_by, identity, request.settings.device),
    )


def _maker_digest(
    encoder: EncoderRequest, made_by: Identity, identity: Mapping[str, Any], device: str
) -> str:
    """Digest of all that determines an encoder's numbers to the last bit.

    Nothing is said of an object from Python, which may do anything: no file stands for it.
    """
    from importlib import metadata

    from spade_bench.device import resolve_device

    if encoder.loaded is not None or not made_by.known:
        return ""
    # Other kernels add in another order.
    where = [resolve_device(device).type, metadata.version("torch"), metadata.version("numpy")]
    return hash_obj([encoder.name, made_by.digest, identity, where])


def _told_by_numbers(
    made_by: Identity, numbers: NDArray[np.floating]
) -> tuple[Identity, dict[str, Any]]:
    """Identities of an encoder that no name or file stands for: what it makes of one slide."""
    digest = hash_array(numbers)
    options = {**made_by.options, "numbers": digest}
    return replace(made_by, options=options), {"numbers": digest}


def _made_by(files: Mapping[str, Path], base: str | None, flags: tuple[str, ...]) -> str | None:
    """The base encoder: the one asked for, or what the files name where they may be another's."""
    return bag_encoder(next(iter(files.values()))) if base is None or flags else base


def _folder(request: EvaluationRequest, task: TaskCard, *names: str | None) -> Path:
    folder = request.features_of(task, *names)
    if folder is None:
        wanted = " or ".join(dict.fromkeys(f"'{name}'" for name in names if name))
        raise ws.need(
            f"the folder with features of {wanted} for task '{task.name}'",
            "--table CSV and --features DIR",
        )
    return folder


def _exists(folder: Path | None) -> Path:
    if folder is None:  # pragma: no cover - the registry raised before
        raise AssertionError
    return folder


def source_bags(
    source: EncoderFeatures,
    cases: Sequence[Sequence[str]],
    dim: int,
    *,
    infos: Mapping[str, BagInfo] | None = None,
    cache: str = "digests",
    memory: BagMemory | None = None,
) -> CaseBags:
    """Bags of cases, sent through the encoder where it takes another one's features.

    Args:
        source: The encoder with its files.
        cases: Slides of each case.
        dim: Width of the features in the files.
        infos: Slide -> what was found in its file, where it has been looked at.
        cache: What may be kept of the features; see `spade_bench.features.cache.CACHE_MODES`.
        memory: Where bags are kept; None for a budget of their own.
    """
    files = [[source.files[slide] for slide in case] for case in cases]
    found = {info.path: info for info in (infos or {}).values()}
    bags = CaseBags.from_files(files, dim, cache=cache, infos=found, memory=memory)
    if source.encode_slide is not None and source.dim is not None:
        return bags.map_slides(source.encode_slide, source.dim, made_by=source.maker)
    if source.encode is not None and source.dim is not None:
        return bags.map(source.encode, source.dim, made_by=source.maker)
    return bags
