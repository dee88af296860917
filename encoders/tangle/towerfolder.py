"""The folder a TANGLE model lives in: written atomically, read strictly, never unpickled.

``tangle.json`` describes the model and holds the hash of ``tangle.safetensors``, the parameters of
both towers with the genes' means and deviations; ``genes.csv`` names the genes in order. It is
written last: a folder whose files do not match it was left half-written and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_bench.encoders.tangle.genescale import GeneScale
from spade_bench.encoders.tangle.towers import Tangle
from spade_bench.errors import DataError, WeightsError
from spade_bench.files import hash_file, read_sealed, write_sealed, write_text

__all__ = ["SCHEMA", "TangleInfo", "read_folder", "write_folder"]

SCHEMA = "tangle-1"


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
    from safetensors.torch import save

    from spade_bench.files import atomic_path

    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "genes.csv", "gene\n" + "".join(f"{gene}\n" for gene in scale.genes))
    tensors = {name: tensor.contiguous() for name, tensor in params.items()}
    tensors["genes.mean"] = torch.from_numpy(scale.mean)
    tensors["genes.std"] = torch.from_numpy(scale.std)
    with atomic_path(folder / "tangle.safetensors") as path:
        path.write_bytes(save(tensors))
    files = {name: hash_file(folder / name) for name in ("genes.csv", "tangle.safetensors")}
    write_sealed(folder / "tangle.json", {"schema": SCHEMA, "files": files, **asdict(info)})


def read_folder(folder: Path) -> tuple[TangleInfo, Tangle, GeneScale]:
    """Read a model folder.

    Raises:
        WeightsError: When it is none, half-written, changed since, or of another schema; or tensors
            are missing, unexpected or misshapen.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (folder / "tangle.json").is_file():
        raise WeightsError(
            "is no TANGLE folder (no tangle.json)",
            where=str(folder),
            fix="Make one with `spade-bench pretrain --config tangle`",
        )
    try:
        described = read_sealed(folder / "tangle.json")
    except (DataError, TypeError, ValueError) as error:
        raise WeightsError(f"tangle.json cannot be read: {error}", where=str(folder)) from error
    if described.pop("schema", None) != SCHEMA:
        raise WeightsError(f"tangle.json is not of schema {SCHEMA}", where=str(folder))
    files = described.pop("files", {})
    names = {f.name for f in fields(TangleInfo)}
    if set(described) != names or set(files) != {"genes.csv", "tangle.safetensors"}:
        raise WeightsError("tangle.json lacks entries or has others", where=str(folder))
    for name, digest in files.items():
        if not (folder / name).is_file() or hash_file(folder / name) != digest:
            raise WeightsError(
                f"{name} is missing or not the file that tangle.json describes", where=str(folder)
            )
    listed = ("cases", "slides", "pretrained_on", "notes")
    values: dict[str, Any] = {
        k: tuple(v) if k in listed and v is not None else v for k, v in described.items()
    }
    info = TangleInfo(**values)
    try:
        tensors = load_file(folder / "tangle.safetensors")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"does not load ({error})", where=str(folder)) from error
    genes = tuple((folder / "genes.csv").read_text(encoding="utf-8").split("\n")[1:-1])
    return info, *_build(info, tensors, genes, str(folder))


def _build(
    info: TangleInfo, tensors: dict[str, Tensor], genes: tuple[str, ...], where: str
) -> tuple[Tangle, GeneScale]:
    model = Tangle(info.in_dim, info.n_genes, info.hidden, info.attention)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted |= {"genes.mean": (info.n_genes,), "genes.std": (info.n_genes,)}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(set(wanted.items()) ^ set(found.items()))
    if wrong or len(genes) != info.n_genes:
        said = ", ".join(sorted({name for name, _ in wrong})[:4]) or "genes.csv"
        raise WeightsError(f"weights do not fit: {said}", where=where)
    mean, std = (np.asarray(tensors.pop(f"genes.{name}").numpy()) for name in ("mean", "std"))
    model.load_state_dict(tensors, strict=True)
    return model.eval(), GeneScale(genes, mean, std)
