"""`spade-bench pretrain`: from paired data to a SPADE folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spade_bench.cli.options import DeviceOption, WorkersOption

if TYPE_CHECKING:
    from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig
    from spade_bench.workspace import Workspace

__all__ = ["pretrain"]


def pretrain(
    hest: Annotated[
        Path | None, typer.Option(help="Samples in HEST-1k layout: HEST_v*.csv, st/, wsis/ ...")
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(help="Samples as a csv: sample_id, h5ad, image, pixel_size_um, organ ..."),
    ] = None,
    spaceranger: Annotated[
        list[Path] | None, typer.Option(help="A Space Ranger outs/ folder. May be repeated.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Settings: a YAML file, or a name: hest1k, tangle.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Base patch encoder.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the pretrained SPADE.")] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Precomputed features with barcodes, one file a sample; for tangle of the slides."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Bulk expression, cases x genes, for tangle: csv, parquet or h5ad."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights of the base encoder: file or folder.")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(help="Train only these experts, such as 3,7.")
    ] = None,
    scan_k: Annotated[
        bool, typer.Option("--scan-k", help="Also write the elbow curves of both clusterings.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="One setting, key=value, such as training.epochs=30."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace a model of other settings or data in --out."),
    ] = False,
    device: DeviceOption = None,
    workers: WorkersOption = 0,
) -> None:
    """Pretrain SPADE on paired H&E and spatial transcriptomics, or TANGLE on bulk expression.

    Prepares the samples, clusters their spots into data experts, trains the experts and the
    single-expert control, and scores held-out samples. Run the same command again to continue.
    What the flags leave out comes from spade-bench.yaml in the current folder.
    """
    from spade_bench import config as settings_of
    from spade_bench import workspace
    from spade_bench.encoders.spade.pretraining.pipeline import run_pretrain
    from spade_bench.errors import UserError

    space = workspace.load()
    given = {"encoder": encoder, "seed": seed}
    flags: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if config is not None and settings_of.named_config("pretrain", config).get("method"):
        flags |= {k: v for k, v in {"features": features, "table": table}.items() if v is not None}
        only_spade = {"--hest": hest, "--manifest": manifest, "--spaceranger": spaceranger,
                      "--experts": experts, "--scan-k": scan_k, "--weights": weights}  # fmt: skip
        flags = settings_of.merge(flags, settings_of.parse_set(settings or []))
        _tangle(
            config,
            flags,
            out,
            device,
            overwrite=overwrite,
            refused=[n for n, v in only_spade.items() if v],
        )
        return
    if table is not None:
        raise UserError("bulk expression is for TANGLE", where="--table", fix="--config tangle")
    flags["samples"] = _sources(hest, manifest, spaceranger, features)
    chosen = settings_of.merge(flags, settings_of.parse_set(settings or []))
    resolved = _resolve(chosen, config, space)
    target = out
    if target is None:
        if space is None:
            raise workspace.need("the output folder", "--out DIR")
        target = space.resolve(space.pretrain.out)
    if weights is None and space is not None and resolved.encoder in space.encoders:
        weights = space.resolve(space.encoders[resolved.encoder].weights)
    assert target is not None
    run_pretrain(
        resolved,
        target,
        weights=weights,
        device=device or (space.device if space is not None else "auto"),
        workers=workers,
        experts=_experts(experts),
        scan=scan_k,
        overwrite=overwrite,
    )


def _tangle(
    name: str,
    flags: Mapping[str, Any],
    out: Path | None,
    device: str | None,
    *,
    overwrite: bool,
    refused: list[str],
) -> None:
    """Train TANGLE: the named or given YAML under the flags."""
    from spade_bench import config as settings_of
    from spade_bench import workspace
    from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig
    from spade_bench.encoders.tangle.pretraining.tanglepipeline import run_tangle
    from spade_bench.errors import UserError

    if refused:
        raise UserError(f"{', '.join(refused)} belongs to SPADE", where=f"--config {name}")
    if out is None:
        raise workspace.need("the output folder", "--out DIR")
    merged = settings_of.merge(settings_of.named_config("pretrain", name), flags)
    resolved = settings_of.build(TangleConfig, merged, "tangle settings")
    space = workspace.load()
    where = device or (space.device if space is not None else "auto")
    run_tangle(resolved, out, device=where, overwrite=overwrite)


def _sources(
    hest: Path | None, manifest: Path | None, spaceranger: list[Path] | None, features: Path | None
) -> dict[str, Any]:
    given = {"hest": hest, "manifest": manifest, "spaceranger": spaceranger, "features": features}
    return {key: value for key, value in given.items() if value}


def _resolve(flags: Mapping[str, Any], name: str | None, space: Workspace | None) -> PretrainConfig:
    """Defaults < workspace < named or given YAML < flags and --set."""
    from spade_bench import config as settings_of
    from spade_bench import workspace
    from spade_bench.encoders.spade.pretraining.pretrainconfig import PretrainConfig

    layers: list[Mapping[str, Any]] = []
    named: str | None = name
    if space is not None:
        named = name or _workspace_config(space)
    if named is not None:
        layers.append(settings_of.named_config("pretrain", named))
    if space is not None:
        # a workspace fills in what is not given; its own `set` belongs to its own config
        entry = {"encoder": space.pretrain.encoder}
        extra = merge_dotted(space.pretrain.set) if name is None else {}
        layers = [entry, *layers, extra]
    layers.append(flags)
    merged = settings_of.merge(*layers)
    samples = dict(merged.get("samples") or {})
    if not any(samples.get(key) for key in ("hest", "manifest", "spaceranger")):
        source = _workspace_source(space)
        if not source:
            raise workspace.need(
                "the paired data", "--hest DIR, --manifest CSV or --spaceranger DIR"
            )
        merged["samples"] = {**samples, **source}
    return settings_of.build(PretrainConfig, merged, "pretrain settings")


def _workspace_config(space: Workspace) -> str | None:
    """The workspace's config name; a path is relative to the workspace file."""
    named = space.pretrain.config
    if named is not None and (named.endswith((".yaml", ".yml")) or "/" in named):
        return str(space.resolve(Path(named)))
    return named


def _workspace_source(space: Workspace | None) -> dict[str, Path | None]:
    if space is None:
        return {}
    given = {"hest": space.resolve(space.hest), "manifest": space.resolve(space.manifest)}
    return {key: value for key, value in given.items() if value is not None}


def merge_dotted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nests dotted keys: `{"training.epochs": 3}` -> `{"training": {"epochs": 3}}`."""
    from spade_bench.config import merge

    out: dict[str, Any] = {}
    for key, value in values.items():
        nested: Any = merge_dotted(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            nested = {part: nested}
        out = merge(out, nested)
    return out


def _experts(text: str | None) -> list[int] | None:
    """Reads `3,7`.

    Raises:
        UserError: When it is no list of numbers.
    """
    from spade_bench.errors import UserError

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdigit() for part in parts):
        raise UserError(f"'{text}' is no list of experts", where="--experts", fix="write 3,7")
    return sorted({int(part) for part in parts})
