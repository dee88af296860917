"""The folder of a TANGLE model, a :class:`FolderFormat`.

``tangle.json`` describes the model and seals the other files, ``tangle.safetensors`` holds the
parameters of both towers with the genes' means and deviations, ``genes.csv`` names the genes in
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_bench.encoders.common.sealedfolder import (
    FolderFormat,
    check_tensors,
    read_genes,
    read_tensors,
    write_genes,
    write_tensors,
)
from spade_bench.encoders.tangle.genescale import GeneScale
from spade_bench.encoders.tangle.towers import Tangle

__all__ = ["SCHEMA", "TangleInfo", "read_folder", "write_folder"]

SCHEMA = "tangle-1"
_FORMAT = FolderFormat(
    model="TANGLE",
    schema=SCHEMA,
    description="tangle.json",
    files=("genes.csv", "tangle.safetensors"),
    made_by="Make one with `spade-bench pretrain --config tangle`",
)


@dataclass(frozen=True)
class TangleInfo:
    """What a TANGLE folder says of its model.

    Attributes:
        in_dim: Width of the patch features, D.
        hidden: Width of the slide vector, H.
        attention: Width of the gate.
        n_genes: Genes, G.
        encoder: Patch encoder, or None when the training files did not say.
        patch_px: Side of a training patch in pixels, or None.
        mpp: Resolution of the training patches, or None.
        seed: Seed of the training.
        cases: Cases that trained the model or chose its epoch.
        slides: Their slides.
        pretrained_on: Data sets, in the ledger's names; None when unknown.
        simulated: Whether the expression was simulated.
        best_epoch: Epoch that was kept.
        config: Settings of the training.
        notes: Worth knowing.
    """

    in_dim: int
    hidden: int
    attention: int
    n_genes: int
    encoder: str | None
    patch_px: int | None
    mpp: float | None
    seed: int
    cases: tuple[str, ...]
    slides: tuple[str, ...]
    pretrained_on: tuple[str, ...] | None
    simulated: bool
    best_epoch: int
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def write_folder(
    folder: Path, info: TangleInfo, params: Mapping[str, Tensor], scale: GeneScale
) -> None:
    """Write a model folder; other files in it stay."""
    folder.mkdir(parents=True, exist_ok=True)
    write_genes(folder / "genes.csv", scale.genes)
    moments = {
        "genes.mean": torch.from_numpy(scale.mean),
        "genes.std": torch.from_numpy(scale.std),
    }
    write_tensors(folder / "tangle.safetensors", {**params, **moments})
    _FORMAT.seal(folder, asdict(info))


def read_folder(folder: Path) -> tuple[TangleInfo, Tangle, GeneScale]:
    """Read a model folder, strictly.

    Raises:
        WeightsError: When it is none, half-written, changed since, or of another schema; or tensors
            are missing, unexpected or misshapen.
    """
    content = _FORMAT.unseal(folder, {f.name for f in fields(TangleInfo)})
    for key in ("cases", "slides", "pretrained_on", "notes"):
        if content[key] is not None:
            content[key] = tuple(content[key])
    info = TangleInfo(**content)
    genes = read_genes(folder / "genes.csv", info.n_genes, _FORMAT.description)
    path = folder / "tangle.safetensors"
    tensors, _ = read_tensors(path)
    return info, *_build(info, tensors, genes, str(path))


def _build(
    info: TangleInfo, tensors: dict[str, Tensor], genes: tuple[str, ...], where: str
) -> tuple[Tangle, GeneScale]:
    model = Tangle(info.in_dim, info.n_genes, info.hidden, info.attention)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    shapes |= {"genes.mean": (info.n_genes,), "genes.std": (info.n_genes,)}
    check_tensors(tensors, shapes, where)
    mean, std = (np.asarray(tensors.pop(f"genes.{name}").numpy()) for name in ("mean", "std"))
    model.load_state_dict(tensors, strict=True)
    return model.eval(), GeneScale(genes, mean, std)
