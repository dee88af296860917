"""What a pretraining is asked for, by flags or keywords, made into settings and places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spade_bench import config as settings_of
from spade_bench import workspace as ws
from spade_bench.encoders.spade.pretraining.prepare.gather import without_tasks
from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig

__all__ = ["PretrainRequest", "resolve_request"]

Place = str | Path
_SOURCES = ("hest", "manifest", "spaceranger", "xenium")
_FLAGS = "--hest DIR, --manifest CSV, --spaceranger DIR or --xenium DIR"


@dataclass(frozen=True)
class PretrainRequest:
    """Everything that `run_pretrain` takes from the outside.

    Attributes:
        config: All settings.
        out: Output folder.
        weights: Weights of the base encoder, where they are not fetched from its source.
        device: `auto`, `cpu` or `cuda[:n]`.
    """

    config: PretrainConfig
    out: Path
    weights: Path | None
    device: str


def resolve_request(
    *,
    hest: Place | None = None,
    manifest: Place | None = None,
    spaceranger: Place | Sequence[Place] = (),
    xenium: Place | Sequence[Place] = (),
    features: Place | None = None,
    encoder: str | None = None,
    seed: int | None = None,
    config: Place | Mapping[str, Any] | PretrainConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Place | None = None,
    out: Place | None = None,
    device: str | None = None,
    workspace: ws.Workspace | None = None,
    exclude_task: str | Sequence[str] = (),
) -> PretrainRequest:
    """Put together defaults < workspace < ``config`` < the other arguments and ``settings``.

    Args:
        hest: Samples in HEST-1k layout.
        manifest: Samples as a csv.
        spaceranger: One Space Ranger `outs/` folder or several.
        xenium: One Xenium output bundle or several.
        features: Precomputed features with barcodes, one file per sample.
        encoder: Base patch encoder.
        seed: Seed of everything random.
        config: A named config, a YAML file, or the settings themselves.
        settings: Single settings; keys may be dotted, such as `training.epochs`.
        weights: Weights of the base encoder.
        out: Output folder.
        device: `auto`, `cpu` or `cuda[:n]`.
        workspace: Fills in what is left out.
        exclude_task: Tasks of expression (`hest:PATH`) whose sections, and all others of their
            patients, are left out, so that the model can be evaluated on them.

    Raises:
        UserError: When data or output folder are not given, or a setting is unknown or wrong.
    """
    sources = {
        "hest": hest,
        "manifest": manifest,
        "spaceranger": _folders(spaceranger),
        "xenium": _folders(xenium),
        "features": features,
    }
    given: dict[str, Any] = {
        "samples": {key: value for key, value in sources.items() if value},
        **{key: v for key, v in {"encoder": encoder, "seed": seed}.items() if v is not None},
    }
    chosen = settings_of.merge(given, settings_of.nested(settings or {}))
    resolved = _settings(chosen, config, workspace)
    if exclude_task:
        tasks = [exclude_task] if isinstance(exclude_task, str) else list(exclude_task)
        resolved = replace(resolved, samples=without_tasks(resolved.samples, tasks))
    if out is None and workspace is None:
        raise ws.need("the output folder", "--out DIR")
    if weights is None and workspace is not None and resolved.encoder in workspace.encoders:
        weights = workspace.resolve(workspace.encoders[resolved.encoder].weights)
    fallback = workspace.resolve(workspace.pretrain.out) if workspace is not None else None
    target = fallback if out is None else out
    assert target is not None
    return PretrainRequest(
        resolved,
        Path(target),
        None if weights is None else Path(weights),
        device or (workspace.device if workspace is not None else "auto"),
    )


def _folders(given: Place | Sequence[Place]) -> tuple[str, ...]:
    one = isinstance(given, (str, Path))
    return tuple(str(folder) for folder in ([given] if one else given))  # type: ignore[union-attr]


def _settings(
    given: Mapping[str, Any],
    config: Place | Mapping[str, Any] | PretrainConfig | None,
    workspace: ws.Workspace | None,
) -> PretrainConfig:
    layers: list[Mapping[str, Any]] = []
    if workspace is not None:
        layers.append({"encoder": workspace.pretrain.encoder})
    named = config
    if named is None and workspace is not None:
        named = _workspace_config(workspace)
    if isinstance(named, PretrainConfig):
        layers.append(settings_of.to_dict(named))
    elif isinstance(named, Mapping):
        layers.append(named)
    elif named is not None:
        layers.append(settings_of.named_config("pretrain", str(named)))
    if workspace is not None and config is None:
        # a workspace's own `set` belongs to its own config
        layers.append(settings_of.nested(workspace.pretrain.set, deep=True))
    merged = settings_of.merge(*layers, given)
    samples = dict(merged.get("samples") or {})
    if not any(samples.get(key) for key in _SOURCES):
        source = _workspace_source(workspace)
        if not source:
            raise ws.need("the paired data", _FLAGS)
        merged["samples"] = {**samples, **source}
    return settings_of.build(PretrainConfig, merged, "pretrain settings")


def _workspace_config(workspace: ws.Workspace) -> str | None:
    """The workspace's config name; a path is relative to the workspace file."""
    named = workspace.pretrain.config
    if named is not None and (named.endswith((".yaml", ".yml")) or "/" in named):
        return str(workspace.resolve(Path(named)))
    return named


def _workspace_source(workspace: ws.Workspace | None) -> dict[str, Path]:
    if workspace is None:
        return {}
    given = {
        "hest": workspace.resolve(workspace.hest),
        "manifest": workspace.resolve(workspace.manifest),
    }
    return {key: value for key, value in given.items() if value is not None}
