"""`spade-bench simulate`: a study with a known truth, for tests, demos and controls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import SeedOption, SizeOption

__all__ = ["simulate"]


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write; an earlier study is replaced.")],
    seed: SeedOption = 0,
    size: SizeOption = "tiny",
    coupling: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of spots whose expression belongs to what is drawn there. 0: a negative "
            "control with the same images and the same distribution of counts.",
        ),
    ] = 1.0,
    images_of: Annotated[
        Path | None,
        typer.Option(help="Take the images from this study of the same seed and size."),
    ] = None,
) -> None:
    """Simulate paired H&E and expression (HEST-1k layout), and slides with cohort tables."""
    from spade_bench import console
    from spade_bench.simulate import simulate as build

    truth = build(out, seed, size, coupling, images_of)
    samples = truth["expression"]["samples"].values()
    spots = sum(len(sample["barcodes"]) for sample in samples)
    console.emit(
        f"simulated study (seed {seed}, {size}, coupling {coupling:g}) in {out}: "
        f"hest/ with {len(samples)} samples and {spots} spots, slides/ of "
        f"{len(truth['slides']['cases'])} cases, tables/, and the planted values in truth.json"
    )
