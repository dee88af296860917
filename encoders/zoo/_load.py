"""Loads a row of the zoo: finds its weights, builds its architecture, loads strictly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.encoders.common.loadchecks import check_options, fit_or_fail, need_packages
from spade_bench.encoders.common.timmodel import TimmEncoder, load_state, read_state
from spade_bench.encoders.common.weights import locate
from spade_bench.encoders.zoo.entry import (
    Adapter,
    Entry,
    Package,
    Remote,
    Timm,
    Tower,
    Transformers,
)
from spade_bench.errors import WeightsError
from spade_bench.features.weightfiles import FOLDER_VARIABLE
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load"]

_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth"}


def load(entry: Entry, options: LoadOptions) -> TimmEncoder:
    """Load an encoder of the zoo.

    Args:
        entry: Its row.
        options: Weights, device, precision; `options["trust_remote_code"]` for rows that need it.

    Raises:
        WeightsError: When its weights, a package or the user's consent is missing, or the weights
            do not fit; the message says what to do.
        ConfigError: When an option is unknown.
    """
    from spade_bench.encoders.zoo._build import Feature

    check_options(entry.card.name, options)
    build = entry.build
    if isinstance(build, Remote):
        model = _remote(entry, build, options)
    else:
        if isinstance(build, Package):
            need_packages(entry.card.name, entry.card.needs.modules, entry.card.needs.install)
        model = _from_file(entry, build, _file(entry, options))
    return TimmEncoder(entry.card, Feature(model, entry), options)


def _from_file(
    entry: Entry, build: Timm | Transformers | Tower | Adapter | Package, path: Path
) -> nn.Module:
    if isinstance(build, Package):
        from spade_bench.encoders.zoo import _packages

        return _packages.load(entry, build, path)
    state = read_state(path, ())
    if isinstance(build, Adapter):
        from spade_bench.encoders.zoo._lora import merge

        base = _base_file(build.base)
        return _built(build.build, merge(build, read_state(base, ()), state, str(path)), str(base))
    if isinstance(build, Transformers):
        return _transformers(build, state, str(path))
    return _built(build, state, str(path))


def _built(build: Timm | Tower, state: dict[str, torch.Tensor], where: str) -> nn.Module:
    """Build an architecture without memory for weights; give it a checkpoint's, strictly."""
    from spade_bench.encoders.zoo import _towers
    from spade_bench.encoders.zoo._build import build_timm, empty_parameters
    from spade_bench.encoders.zoo._layouts import convert, native_size

    def make() -> nn.Module:
        if isinstance(build, Tower):
            return _towers.build_tower(build)
        return build_timm(build, **native_size(build, state))

    with empty_parameters():
        model = make()
    if any(buffer.is_meta for buffer in model.buffers()):  # some follow their parameters' device
        model = make()
    if isinstance(build, Tower):
        load_state(model, _towers.rename_tower(build, state), where, assign=True)
        _towers.finish_tower(build, model, state)
    else:
        load_state(model, convert(build.layout, state, model), where, assign=True)
    return model.float()


def _transformers(build: Transformers, state: dict[str, torch.Tensor], where: str) -> nn.Module:
    from spade_bench.encoders.zoo._build import build_transformers

    kept = {name: value for name, value in state.items() if not name.startswith(build.drop or "\0")}
    model, problems = build_transformers(build, kept)
    fit_or_fail(problems, where)
    built: nn.Module = model
    return built


def _remote(entry: Entry, build: Remote, options: LoadOptions) -> nn.Module:
    """Load a model by the code that lies beside its weights, if the user agreed to run it."""
    from spade_bench.encoders.common.owncode import load_by_own_code, own_files

    model = load_by_own_code(entry.card, options, verb="Extract")
    if build.branch:
        with own_files(entry.card, options):
            found = getattr(model, build.branch)()
        model = found[0] if isinstance(found, tuple) else found
    built: nn.Module = model.float()
    return built


def _file(entry: Entry, options: LoadOptions) -> Path:
    """Return the weights file, and refuse one that is known to be another model's."""
    card = entry.card
    path = locate(card, options)
    if path.is_dir():
        path = _in_folder(path, card.needs.files)
    if not path.is_file():
        raise WeightsError("no such weights file", where=str(path))
    if entry.other_digest and _digest(path).startswith(entry.other_digest):
        raise WeightsError(
            f"this file is not {card.name}'s but the other one of that name (SHA-256 "
            f"{entry.other_digest}...)",
            where=str(path),
            fix=f"See `spade-bench show encoder {card.name}`",
        )
    return path


def _base_file(base: Entry) -> Path:
    """Return the weights file of an encoder that another one changes."""
    name = base.card.name
    try:
        return _file(base, LoadOptions())
    except WeightsError as error:
        raise WeightsError(
            f"the weights of {name}, which it changes, cannot be had: {error.what}",
            where=error.where,
            fix=f"Put them into ${FOLDER_VARIABLE}/{name}/, or have the hub's in its cache",
        ) from error


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path:
    named = [folder / name for name in names if (folder / name).is_file()]
    if named:
        return named[0]
    others = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(others) == 1:
        return others[0]
    what = f"holds {len(others)} other weights files" if others else "holds no weights file"
    raise WeightsError(
        f"folder holds none of {', '.join(names)} and {what}",
        where=str(folder),
        fix="Pass --weights FILE",
    )


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
