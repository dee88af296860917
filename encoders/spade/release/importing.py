"""Import the public SPADE release into a model folder: strict, and plain about what is unknown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench import console
from spade_bench.encoders.spade.release.releasefiles import (
    ReleaseExpert,
    find_checkpoints,
    read_centroids,
    read_clusters,
    read_experts,
)
from spade_bench.errors import DataError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from spade_bench.encoders.spade.model import SpadeModel
    from spade_bench.encoders.spade.modelfolder import ModelInfo

__all__ = ["CONTAMINATION", "UNNAMED_GENE", "import_release", "read_genes"]

UNNAMED_GENE = "unnamed_gene_{:05d}"
CONTAMINATION = (
    "trained on HEST-1k: 54 of the 55 Visium samples of HEST-Bench's PRAD, READ, ccRCC and "
    "lymph-node IDC tasks pass the release's own pretraining filter, so results on those tasks "
    "are contaminated"
)


def import_release(
    checkpoints: Path,
    centroids: Path,
    clusters: Path,
    out: Path,
    *,
    pattern: str | None = None,
    genes: Path | None = None,
    base_encoder: str | None = None,
) -> SpadeModel:
    """Read the release's files and write a SPADE folder.

    Widths come from the tensors, K from the clusters file; everything must agree. The release was
    trained on raw counts with temperature 1, which its checkpoints do not record.

    Args:
        checkpoints: Folder with one or more checkpoints per expert.
        centroids: `centroids.npy`, (C, D).
        clusters: `reassigned_clusters.npy`, (C,) expert of each centroid.
        out: Folder to write.
        pattern: See `release_files.find_checkpoints`.
        genes: Names of the G genes in the order of the checkpoints' gene heads, one a line or a
            csv with a column `gene`. Without it genes get placeholder names.
        base_encoder: Encoder whose features the experts take. Without it nothing can be checked.

    Returns:
        The model, as written.

    Raises:
        DataError: When centroids, clusters or genes are not what they should be.
        WeightsError: When the checkpoints do not fit each other, the clusters or an architecture.
    """
    from spade_bench.encoders.spade.centroids import Experts
    from spade_bench.encoders.spade.model import SpadeModel

    places = read_centroids(Path(centroids))  # (C, D)
    owner = read_clusters(Path(clusters), len(places))  # (C,)
    n_experts = int(owner.max()) + 1
    checkpoint_files = find_checkpoints(Path(checkpoints), pattern)
    experts = read_experts(checkpoint_files, n_experts, str(checkpoints))
    _check_width(experts[0], places.shape[1], Path(centroids))
    panel = _panel(experts[0], genes)
    info = _info(experts, panel, named=genes is not None, base_encoder=base_encoder)
    table = Experts(places, owner, ("",) * len(places), n_experts)
    weights = {expert.number: _tensors(expert) for expert in experts}
    model = SpadeModel(info, table, panel, weights)
    model.save(out)
    _say(experts, model, named=genes is not None)
    return model


def read_genes(path: Path) -> tuple[str, ...]:
    """Read gene names: one a line, or a csv with a column `gene`.

    Raises:
        DataError: When the file is missing, empty, has several columns but no `gene`, or repeats
            a name.
    """
    import csv

    if not path.is_file():
        raise DataError("no such file", where=str(path))
    with path.open(newline="", encoding="utf-8") as handle:
        rows = [[cell.strip() for cell in row] for row in csv.reader(handle) if any(row)]
    if rows and "gene" in rows[0]:
        column = rows[0].index("gene")
        rows = rows[1:]
    elif all(len(row) == 1 for row in rows):
        column = 0
    else:
        raise DataError(
            "several columns and none is called 'gene'", where=str(path), fix="Name the column"
        )
    names = tuple(row[column] for row in rows if len(row) > column)
    if not names or len(set(names)) < len(names) or "" in names:
        raise DataError(
            f"{len(names)} gene names, {len(set(names))} of them different", where=str(path)
        )
    return names


def _check_width(expert: ReleaseExpert, width: int, centroids: Path) -> None:
    first = "net.0.weight" if expert.head == "mlp" else "projection.weight"
    head_width = int(expert.image[first].shape[1])
    if head_width != width:
        raise WeightsError(
            f"the image head takes {head_width} features, the centroids have {width}",
            where=expert.path.name,
            fix=f"Give the centroids of the same run, not {centroids}",
        )


def _panel(expert: ReleaseExpert, genes: Path | None) -> tuple[str, ...]:
    """Return the gene panel: given names, placeholders, or nothing for image-only checkpoints."""
    if expert.spot is None:
        if genes is not None:
            raise DataError(
                "the checkpoints have no gene side", where=str(genes), fix="Leave --genes out"
            )
        return ()
    width = int(expert.spot["projection.weight"].shape[1])
    if genes is None:
        return tuple(UNNAMED_GENE.format(number) for number in range(width))
    names = read_genes(genes)
    if len(names) != width:
        raise DataError(f"{len(names)} genes for gene heads of width {width}", where=str(genes))
    return names


def _info(
    experts: Sequence[ReleaseExpert],
    panel: Sequence[str],
    *,
    named: bool,
    base_encoder: str | None,
) -> ModelInfo:
    from spade_bench.encoders.spade.modelfolder import ModelInfo
    from spade_bench.files import hash_file

    notes = [f"imported from the public release; {CONTAMINATION}"]
    if not panel:
        notes.append("image side only: the checkpoints have no gene heads")
    elif not named:
        notes.append("genes have placeholder names, in the order of the release's matrices")
    if base_encoder is None:
        notes.append("the base encoder is not known: features cannot be checked against it")
    sources = [
        {
            "expert": expert.number,
            "file": expert.path.name,
            "sha256": hash_file(expert.path),
            "epoch": expert.epoch,
            "val_loss": expert.val_loss,
        }
        for expert in experts
    ]
    head = experts[0].head
    hidden = int(experts[0].image["net.0.weight"].shape[0]) if head == "mlp" else 0
    return ModelInfo(
        base_encoder=base_encoder or "",
        expression="raw",
        pretrained_on=("HEST-1k",),
        head=head,
        hidden=hidden,
        notes=tuple(notes),
        extra={"imported": {"from": "uclabair/SPADE", "checkpoints": sources}},
    )


def _tensors(expert: ReleaseExpert) -> dict[str, Tensor]:
    sides = {"image": expert.image} | ({} if expert.spot is None else {"spot": expert.spot})
    return {
        f"{side}.{name}": value for side, parameters in sides.items()
        for name, value in parameters.items()
    }  # fmt: skip


def _say(experts: Sequence[ReleaseExpert], model: SpadeModel, *, named: bool) -> None:
    rows = [
        [
            expert.number,
            expert.path.name,
            "-" if expert.epoch is None else expert.epoch,
            "-" if expert.val_loss is None else f"{expert.val_loss:.4f}",
        ]
        for expert in experts
    ]
    genes = f"{len(model.genes)} genes" if model.genes else "no gene side"
    title = (
        f"{len(experts)} experts, {experts[0].head} heads, "
        f"{model.in_dim} features -> {model.dim}, {genes}"
    )
    console.table(title, ["expert", "checkpoint", "epoch", "val loss"], rows)
    console.warn(CONTAMINATION)
    if model.genes and not named:
        console.warn("genes have placeholder names: give --genes to encode expression by name")
    if not model.base_encoder:
        console.warn(
            "the base encoder is unknown: give --base-encoder so that features are checked"
        )
