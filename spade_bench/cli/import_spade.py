"""`spade-bench import-spade`: the public release's files become a SPADE folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["import_spade"]


def import_spade(
    checkpoints: Annotated[
        Path, typer.Option(help="Folder with the experts' checkpoints (.pt, .pth, .ckpt).")
    ],
    centroids: Annotated[Path, typer.Option(help="centroids.npy, (C, D).")],
    clusters: Annotated[Path, typer.Option(help="reassigned_clusters.npy, (C,).")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for the checkpoints' names; its group 'expert', or its only "
            "group, is the expert number. Default: a number after proto, expert or cluster."
        ),
    ] = None,
    genes: Annotated[
        Path | None,
        typer.Option(help="Gene names in the order of the gene heads: one a line, or a csv."),
    ] = None,
    base_encoder: Annotated[
        str | None,
        typer.Option(help="Encoder whose features the experts take, such as uni."),
    ] = None,
) -> None:
    """Import the public SPADE release into a folder that `encode` and `run` take."""
    from spade_bench import console
    from spade_bench.encoders.spade.release.importing import import_release

    import_release(
        checkpoints,
        centroids,
        clusters,
        out,
        pattern=pattern,
        genes=genes,
        base_encoder=base_encoder,
    )
    console.emit(f"wrote {out}")
