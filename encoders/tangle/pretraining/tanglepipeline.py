"""`pretrain --config tangle`: from patch features and bulk expression to a TANGLE folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_bench import console
from spade_bench.config import build, merge, named_config, to_dict
from spade_bench.device import resolve_device, setup_numerics
from spade_bench.encoders.common.outfolder import begun, hold, store_settings
from spade_bench.encoders.tangle.pretraining.epochs import Trained, embed, train
from spade_bench.encoders.tangle.pretraining.pairs import PairedCases, fit_scale, read_pairs, split
from spade_bench.encoders.tangle.pretraining.retrieval import score_retrieval
from spade_bench.encoders.tangle.pretraining.tangleconfig import TangleConfig
from spade_bench.encoders.tangle.towerfolder import TangleInfo, write_folder
from spade_bench.encoders.tangle.towers import Tangle
from spade_bench.files import hash_obj, write_json, write_text
from spade_bench.workspace import need

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from spade_bench.workspace import Workspace

__all__ = ["pretrain_tangle", "run_tangle"]


def pretrain_tangle(
    *,
    config: str | Path = "tangle",
    features: str | Path | None = None,
    table: str | Path | None = None,
    encoder: str | None = None,
    seed: int | None = None,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    workspace: Workspace | None = None,
) -> Path:
    """Do what `spade-bench pretrain --config tangle` does; the same call again continues.

    Args:
        config: A named config or a YAML file.
        features: Folder of patch features of the slides.
        table: Bulk expression, cases x genes.
        encoder: Patch encoder whose features are taken.
        seed: Seed of everything random.
        settings: Single settings, nested.
        out: Output folder.
        device: `auto`, `cpu` or `cuda[:n]`; None for the workspace's, or `auto`.
        overwrite: Replace a model of other settings that ``out`` holds.
        workspace: Says which device to use.

    Returns:
        The folder of the model; the encoder `tangle` takes it.

    Raises:
        UserError: Data or settings cannot be used; the message says what to do.
    """
    if out is None:
        raise need("the output folder", "--out DIR")
    given = {"features": features, "table": table, "encoder": encoder, "seed": seed}
    layers = {key: value for key, value in given.items() if value is not None}
    merged = merge(named_config("pretrain", str(config)), layers, settings)
    where = device or (workspace.device if workspace is not None else "auto")
    resolved = build(TangleConfig, merged, "tangle settings")
    run_tangle(resolved, Path(out), device=where, overwrite=overwrite)
    return Path(out)


def run_tangle(
    config: TangleConfig, out: Path, *, device: str = "auto", overwrite: bool = False
) -> dict[str, Any]:
    """Train TANGLE and score it on held-out cases; the same call again continues.

    Args:
        config: What to do.
        out: Folder to write: the model, `training.csv`, `retrieval.json`, `config.yaml`.
        device: `auto`, `cpu` or `cuda[:n]`.
        overwrite: Replace a model of other settings that `out` holds.

    Returns:
        The content of `retrieval.json`.

    Raises:
        ConfigError: When features or table are not named.
        DataError: When too few cases have both, or a file cannot be used.
    """
    where = resolve_device(device)
    setup_numerics(where)
    pairs = read_pairs(config)
    with hold(out):
        keep = begun(out, "tangle.json") and not overwrite
        _store_config(config, out, keep)
        return _run(config, pairs, out, where)


def _run(
    config: TangleConfig, pairs: PairedCases, out: Path, where: torch.device
) -> dict[str, Any]:
    parts = split(len(pairs.cases), config.split, config.seed)
    values = pairs.expression
    if config.permute_pairs:
        values = _permuted(values, parts, config.seed)
    scale, expression = fit_scale(values, pairs.genes, parts["train"], config.genes.n_top)
    console.say(
        f"{len(scale.genes)} genes; cases: "
        + ", ".join(f"{len(parts[name])} {name}" for name in ("train", "val", "test"))
    )
    key = hash_obj([pairs.digest, to_dict(config.genes), to_dict(config.split),
                    config.permute_pairs])  # fmt: skip
    state = train(
        pairs.bags,
        expression,
        parts,
        config.training,
        out,
        seed=config.seed,
        device=where,
        key=key,
    )
    info = _info(config, pairs, parts, len(scale.genes), state)
    write_folder(out, info, state.best, scale)
    _write_history(out / "training.csv", state)
    model = Tangle(info.in_dim, info.n_genes, info.hidden, info.attention)
    model.load_state_dict(state.best, strict=True)
    report = _report(model.to(where), pairs, expression, parts, config)
    write_json(out / "retrieval.json", report)
    _print(report)
    console.say(f"model written to {out} (epoch {state.best_epoch} of {state.epoch})")
    return report


def _report(
    model: Tangle,
    pairs: PairedCases,
    expression: NDArray[np.float32],
    parts: Mapping[str, NDArray[np.int64]],
    config: TangleConfig,
) -> dict[str, Any]:
    scores = {}
    for name in ("test", "val", "train"):
        slide, genes = embed(model, pairs.bags, expression, parts[name])
        scores[name] = score_retrieval(slide.numpy(), genes.numpy(), config.seed)
    return {
        "simulated": pairs.simulated,
        "permuted_pairs": config.permute_pairs,
        "cases": {name: [pairs.cases[i] for i in rows] for name, rows in parts.items()},
        **scores,
    }


def _info(
    config: TangleConfig,
    pairs: PairedCases,
    parts: Mapping[str, NDArray[np.int64]],
    n_genes: int,
    state: Trained,
) -> TangleInfo:
    seen = np.sort(np.concatenate([parts["train"], parts["val"]]))
    known = () if pairs.simulated else config.pretrained_on
    # Where the data lie does not describe the model.
    settings = to_dict(replace(config, features=None, table=None, cohort=None))
    return TangleInfo(
        in_dim=pairs.bags.dim,
        hidden=config.training.hidden,
        attention=config.training.attention,
        n_genes=n_genes,
        encoder=pairs.encoder,
        patch_px=pairs.patch_px,
        mpp=pairs.mpp,
        seed=config.seed,
        cases=tuple(pairs.cases[i] for i in seen),
        slides=tuple(slide for i in seen for slide in pairs.slides[i]),
        pretrained_on=known,
        simulated=pairs.simulated,
        best_epoch=state.best_epoch,
        config=settings,
        notes=("pairs permuted: a control",) if config.permute_pairs else (),
    )


def _permuted(
    values: NDArray[np.float32], parts: Mapping[str, NDArray[np.int64]], seed: int
) -> NDArray[np.float32]:
    """Exchange expression among the cases of each part."""
    rng = np.random.default_rng([seed, 29])
    out = values.copy()
    for name in ("train", "val", "test"):
        out[parts[name]] = values[rng.permutation(parts[name])]
    return out


def _print(report: Mapping[str, Any]) -> None:
    rows = []
    for name in ("test", "val", "train"):
        part = report[name]
        for metric in ("percentile", "recall@1", "recall@5", "recall@10"):
            if metric in part:
                s = part[metric]
                shown = f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]"
                p = f"{part['p']:.4f}" if metric == "percentile" else ""
                rows.append([name, str(part["n"]), metric, shown, f"{s['chance']:.3f}", p])
    about = " (simulated data)" if report["simulated"] else ""
    about += " (permuted pairs)" if report["permuted_pairs"] else ""
    columns = ["cases", "n", "retrieval", "mean [95%]", "chance", "p"]
    console.table(f"A case's slide finds its expression, and back{about}", columns, rows, keys=3)
    console.paragraph(_verdict(report))


def _verdict(report: Mapping[str, Any]) -> str:
    """Say in a sentence what held-out cases tell; of the test cases, where there are any."""
    name = next((part for part in ("test", "val") if "percentile" in report[part]), "")
    if not name:
        return "Held-out retrieval says nothing: there are too few held-out cases."
    part = report[name]
    figure = part["percentile"]
    lead = "better" if part["beats_chance"] else "not better"
    return (
        f"Held-out retrieval is {lead} than chance: the right partner "
        f"beats {figure['mean']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}] of the others "
        f"(chance is {figure['chance']:.3f}), p = {part['p']:.4f}, over {part['n']} {name} cases."
    )


def _write_history(path: Path, state: Trained) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["epoch", "train_loss", "val_loss", "lr"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(state.history)
    write_text(path, text.getvalue())


def _store_config(config: TangleConfig, out: Path, keep: bool) -> None:
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in to_dict(config).items()}
    if plain["pretrained_on"] is not None:
        plain["pretrained_on"] = list(plain["pretrained_on"])
    store_settings(out, plain, keep=keep)
    console.say(f"config {hash_obj(plain)} written to {out / 'config.yaml'}")
