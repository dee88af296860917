"""The folder of a SPADE model, a :class:`FolderFormat`.

``spade.json`` describes the model and seals the other files, ``genes.csv`` is the panel in column
order, ``centroids.safetensors`` holds `centroids` (C, D), `expert` (C,) and `organ` (C,),
``experts.safetensors`` holds `{expert}.{image|spot}.{parameter}`, and ``training.csv`` is the
course of training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
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
from spade_bench.encoders.spade.centroids import Experts
from spade_bench.encoders.spade.experts import MLP_NAMES, PARAMETER_NAMES
from spade_bench.errors import WeightsError
from spade_bench.files import atomic_path
from spade_bench.version import __version__

__all__ = [
    "MODEL_FILES",
    "SCHEMA",
    "TRAINING_COLUMNS",
    "ModelInfo",
    "read_folder",
    "versions",
    "write_folder",
]

SCHEMA = "spade/1"
TRAINING_COLUMNS = ("expert", "epoch", "train_loss", "val_loss", "lr", "seconds")
_FORMAT = FolderFormat(
    model="SPADE",
    schema=SCHEMA,
    description="spade.json",
    files=("genes.csv", "centroids.safetensors", "experts.safetensors"),
    made_by="Give the folder that `spade-bench pretrain` or `import-spade` wrote",
)
MODEL_FILES = (_FORMAT.description, *_FORMAT.files)
"""What a model consists of; `training.csv` beside it is a record."""
_SIZES = ("D", "G", "K", "P")
_HEADS = ("image", "spot")

Weights = Mapping[int, Mapping[str, Tensor]]


@dataclass(frozen=True)
class ModelInfo:
    """What `spade.json` says beside the sizes.

    Attributes:
        base_encoder: Name of the encoder whose features the model takes.
        base_revision: Its revision or weights hash.
        temperature: Contrastive temperature T.
        tau: Routing temperature.
        seed: Seed of the whole pretraining.
        expression: How expression was scaled: `lognorm` or `raw`.
        config: The full resolved configuration.
        samples: Ids of the samples it was trained on.
        patients: Their patients, where known.
        pretrained_on: Data sets the samples come from, in the contamination ledger's names; None
            when unknown.
        simulated: Whether it was trained on simulated data.
        head: `residual`, or `mlp` for imports of the release's other architecture.
        hidden: Hidden width of `mlp` heads; 0 for `residual`.
        notes: Anything a reader must know, such as experts without validation spots.
        extra: Free additions.
        versions: Versions of this package, Python and torch that wrote the folder.
    """

    base_encoder: str = ""
    base_revision: str = ""
    temperature: float = 1.0
    tau: float = 0.1
    seed: int = 0
    expression: str = "lognorm"
    config: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    pretrained_on: tuple[str, ...] | None = None
    simulated: bool = False
    head: str = "residual"
    hidden: int = 0
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def versions() -> dict[str, str]:
    """Return the versions that a folder records."""
    import platform

    return {
        "spade_bench": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def write_folder(
    folder: Path,
    info: ModelInfo,
    experts: Experts,
    genes: Sequence[str],
    weights: Weights,
    *,
    history: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Write a model folder.

    Args:
        folder: Where to; other files in it stay.
        info: Its description.
        experts: Centroids and their experts.
        genes: Panel, G names in column order; empty for an image-only model.
        weights: Parameters of each expert by `image.*` and `spot.*` names.
        history: Rows of `training.csv` by :data:`TRAINING_COLUMNS`; None leaves that file alone.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_genes(folder / "genes.csv", genes)
    organs = sorted(set(experts.centroid_organ))
    codes = [organs.index(name) for name in experts.centroid_organ]
    write_tensors(
        folder / "centroids.safetensors",
        {
            "centroids": torch.from_numpy(np.ascontiguousarray(experts.centroids)),
            "expert": torch.from_numpy(np.ascontiguousarray(experts.centroid_expert)),
            "organ": torch.tensor(codes, dtype=torch.int64),
        },
    )
    write_tensors(folder / "experts.safetensors", _flat(weights))
    if history is not None:
        _write_history(folder / "training.csv", history)
    in_dim, dim = head_sizes(next(iter(weights.values())), info.head)
    description = asdict(info) | {"T": info.temperature}
    del description["temperature"]
    content = {
        **{"D": in_dim, "G": len(genes), "K": experts.n_experts, "P": dim},
        **description,
        "versions": dict(info.versions) or versions(),
        "experts": sorted(weights),
        "organs": organs,
    }
    _FORMAT.seal(folder, content)


def read_folder(
    folder: Path,
) -> tuple[ModelInfo, Experts, tuple[str, ...], dict[int, dict[str, Tensor]]]:
    """Read a model folder, strictly.

    Returns:
        Description, centroids, gene panel and the parameters of each expert.

    Raises:
        WeightsError: When a file is missing or altered, the schema is unknown, or tensors are
            missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    known = {f.name for f in fields(ModelInfo)} - {"temperature"}
    content = _FORMAT.unseal(folder, {"T", "experts", "organs", *_SIZES, *known})
    sizes = {key: int(content[key]) for key in _SIZES}
    genes = read_genes(folder / "genes.csv", sizes["G"], _FORMAT.description)
    experts = _read_centroids(folder / "centroids.safetensors", content, sizes)
    info = _info(content)
    sizes["hidden"] = info.hidden
    weights = _read_experts(folder / "experts.safetensors", content["experts"], sizes)
    return info, experts, genes, weights


def head_sizes(tensors: Mapping[str, Tensor], head: str) -> tuple[int, int]:
    """Return (D, P) of an expert from its tensors.

    Raises:
        WeightsError: When the tensors that tell are missing.
    """
    first, last = (
        ("image.net.0.weight", "image.net.2.weight")
        if head == "mlp"
        else ("image.projection.weight", "image.projection.weight")
    )
    missing = [name for name in (first, last) if name not in tensors]
    if missing:
        raise WeightsError(f"missing keys: {', '.join(missing)}")
    return int(tensors[first].shape[1]), int(tensors[last].shape[0])


def expert_shapes(
    feature_dim: int, n_genes: int, dim: int, hidden: int = 0
) -> dict[str, tuple[int, ...]]:
    """Return the parameter shapes of one expert by name; no spot head when ``n_genes`` is 0.

    A ``hidden`` width above 0 means the image-only ``mlp`` heads.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if hidden:
        wide = ((hidden, feature_dim), (hidden,), (dim, hidden), (dim,))
        return {f"image.{name}": s for name, s in zip(MLP_NAMES, wide, strict=True)}
    for head, width in zip(_HEADS, (feature_dim, n_genes), strict=True):
        if width:
            sizes = ((dim, width), (dim,), (dim, dim), (dim,), (dim,), (dim,))
            shapes |= {f"{head}.{name}": s for name, s in zip(PARAMETER_NAMES, sizes, strict=True)}
    return shapes


def _info(content: Mapping[str, Any]) -> ModelInfo:
    values = {f.name: content[f.name] for f in fields(ModelInfo) if f.name != "temperature"}
    for key in ("samples", "patients", "notes"):
        values[key] = tuple(values[key])
    if values["pretrained_on"] is not None:
        values["pretrained_on"] = tuple(values["pretrained_on"])
    return ModelInfo(temperature=float(content["T"]), **values)


def _read_centroids(path: Path, content: Mapping[str, Any], sizes: Mapping[str, int]) -> Experts:
    tensors, _ = read_tensors(path)
    n = len(tensors.get("centroids", ()))
    check_tensors(tensors, {"centroids": (n, sizes["D"]), "expert": (n,), "organ": (n,)}, str(path))
    organs = [content["organs"][int(code)] for code in tensors["organ"]]
    return Experts(
        tensors["centroids"].float().numpy(),
        tensors["expert"].long().numpy(),
        tuple(organs),
        sizes["K"],
    )


def _read_experts(
    path: Path, listed: Sequence[int], sizes: Mapping[str, int]
) -> dict[int, dict[str, Tensor]]:
    shapes = expert_shapes(sizes["D"], sizes["G"], sizes["P"], sizes["hidden"])
    tensors, _ = read_tensors(path)
    expected = {f"{e}.{name}": shape for e in listed for name, shape in shapes.items()}
    check_tensors(tensors, expected, str(path))
    return {int(e): {name: tensors[f"{e}.{name}"] for name in shapes} for e in listed}


def _flat(weights: Weights) -> dict[str, Tensor]:
    return {
        f"{expert}.{name}": tensor
        for expert in sorted(weights)
        for name, tensor in weights[expert].items()
    }


def _write_history(path: Path, history: Iterable[Mapping[str, Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, TRAINING_COLUMNS)
        writer.writeheader()
        for row in history:
            writer.writerow({key: row[key] for key in TRAINING_COLUMNS})
