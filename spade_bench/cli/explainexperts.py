"""`spade-bench explain WEIGHTS`: the maps of a mixture of experts, from its weights alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spade_bench.registry import Plugin
    from spade_bench.types import EncoderCard

__all__ = ["GenesOption", "SpotsOption", "encoder_of", "explain_experts", "refuse_without_weights"]

GenesOption = Annotated[
    str | None,
    typer.Option(help="Of an encoder's weights: genes to predict on the slides, GENE,GENE,..."),
]
SpotsOption = Annotated[
    Path | None,
    typer.Option(help="Its training spots: pretraining's folder, or the HEST folder it was given."),
]


def encoder_of(folder: Path) -> Plugin[EncoderCard] | None:
    """Return the encoder of features whose weights a folder holds; None for any other folder.

    An encoder says on its card which files its weights folder consists of; the one that describes
    the folder is called after it, which tells it from others that read the same folder.
    """
    from spade_bench.registry import encoders

    for name in encoders.names():
        plugin = encoders.get(name)
        parts = plugin.card.needs.parts
        named = plugin.card.input == "features" and f"{plugin.name}.json" in parts
        if named and all((folder / part).is_file() for part in parts):
            return plugin
    return None


def refuse_without_weights(genes: str | None, spots: Path | None) -> None:
    """Refuse options that speak of an encoder's weights where a model or a run is explained.

    Raises:
        UserError: When one is given.
    """
    from spade_bench.errors import UserError

    if genes or spots:
        raise UserError(
            "genes are predicted by an encoder's weights, not by a model or a run",
            where="--genes" if genes else "--training-spots",
            fix="Write spade-bench explain WEIGHTS --genes ..., with the folder of the weights",
        )


def explain_experts(
    plugin: Plugin[EncoderCard],
    folder: Path,
    *,
    features: Path | None,
    slides: Path | None,
    out: Path,
    wanted: list[str] | None,
    table: Path | None,
    genes: str | None,
    spots: Path | None,
    top: int,
    device: str,
    as_json: bool,
) -> None:
    """Write the maps of an encoder's experts and say what was written.

    Args:
        plugin: The encoder, from `encoder_of`.
        folder: Its weights.
        features: Base features, as the encoder takes them.
        slides: Folder of slides to draw on; only theirs are drawn then.
        out: Folder to write.
        wanted: Slides to draw, or cases of the table; None draws all that are at hand.
        table: Cohort table.
        genes: Genes to predict, separated by commas.
        spots: Training spots.
        top: Patches of each expert.
        device: `auto`, `cpu` or `cuda[:n]`.
        as_json: Whether to print JSON.

    Raises:
        UserError: When no features are given.
    """
    from spade_bench import api, console
    from spade_bench.errors import UserError
    from spade_bench.explain.experts.expertfiles import write_expert_maps
    from spade_bench.features.bags import find_bags
    from spade_bench.slides.opening import find_slides
    from spade_bench.surroundings import left_unchanged

    if features is None:
        raise UserError("no features are given", where="--features", fix="Name their folder")
    encoder = api.load_encoder(plugin.name, weights=folder, device=device)
    base = None if encoder.card.upstream in (None, "", "any") else encoder.card.upstream
    files = {} if slides is None else find_slides(slides)
    mapped = _slides_of(wanted, table)
    if mapped is None and slides is not None:
        mapped = [name for name in find_bags(features, base) if name in files]
    with left_unchanged():
        made = write_expert_maps(
            out,
            features,
            encoder=encoder,
            slides=files,
            mapped=mapped,
            table=table,
            genes=[gene.strip() for gene in (genes or "").split(",") if gene.strip()],
            spots=spots,
            top=max(1, top),
        )
    if as_json:
        listed = [path.relative_to(out).as_posix() for path in made.files]
        console.emit_json("expert-maps", {"slides": list(made.layers), "files": listed})
        return
    console.emit(f"experts of {len(made.layers)} slides, {len(made.files)} files: {out}")


def _slides_of(wanted: list[str] | None, table: Path | None) -> list[str] | None:
    """The slides that are named, or that belong to cases that are named."""
    if not wanted or table is None:
        return wanted or None
    from spade_bench.cohorts.tables import read_table

    frame = read_table(table)
    slides: list[str] = []
    for name in wanted:
        named = frame["case_id"] == name if {"case_id", "slide_id"} <= set(frame) else None
        mine = [] if named is None else frame.loc[named, "slide_id"].dropna().tolist()
        slides += mine or [name]
    return list(dict.fromkeys(slides))
