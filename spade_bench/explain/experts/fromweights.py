"""The maps of a mixture of experts from the folder of its weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.cohorts.tables import read_table
from spade_bench.errors import UserError, WeightsError
from spade_bench.explain.experts.expertfiles import ExpertFiles, write_expert_maps
from spade_bench.explain.experts.patchumap import SAMPLE
from spade_bench.features.bags import find_bags
from spade_bench.registry import encoders
from spade_bench.slides.opening import find_slides
from spade_bench.types import LoadOptions

if TYPE_CHECKING:
    from spade_bench.explain.mapfolder import Wishes
    from spade_bench.registry import Plugin
    from spade_bench.types import EncoderCard

__all__ = ["encoder_of", "explain_experts", "refuse_with_weights", "refuse_without_weights"]


def encoder_of(folder: Path) -> Plugin[EncoderCard] | None:
    """Return the encoder of features whose weights a folder holds; None for any other folder.

    An encoder says on its card which files its weights folder consists of; the one that describes
    the folder is called after it, which tells it from others that read the same folder.

    Raises:
        WeightsError: When it holds some of an encoder's files that no other encoder has, not all.
    """
    named = {}
    for name in encoders.names():
        plugin = encoders.get(name)
        parts = plugin.card.needs.parts
        if plugin.card.input == "features" and f"{plugin.name}.json" in parts:
            named[name] = plugin
    every = [part for plugin in named.values() for part in plugin.card.needs.parts]
    for plugin in named.values():
        parts = plugin.card.needs.parts
        there = {part for part in parts if (folder / part).is_file()}
        if len(there) == len(parts):
            return plugin
        if any(every.count(part) == 1 for part in there):
            lacking = " and no ".join(part for part in parts if part not in there)
            raise WeightsError(
                f"holds weights of '{plugin.name}', but no {lacking}",
                where=str(folder),
                fix="Run the command that wrote it again, or copy the folder anew",
            )
    return None


def refuse_with_weights(options: Mapping[str, object]) -> None:
    """Refuse options that speak of a model or a run where an encoder's weights are explained.

    Args:
        options: Flag -> its value; empty ones were not given.

    Raises:
        UserError: When one is given.
    """
    given = [flag for flag, value in options.items() if value]
    if given:
        raise UserError(
            "the maps of an encoder's experts take no such option",
            where=given[0],
            fix="Leave it out, or explain a model of `fit` or the results of a run",
        )


def refuse_without_weights(genes: str | None, spots: Path | None) -> None:
    """Refuse options that speak of an encoder's weights where a model or a run is explained.

    Raises:
        UserError: When one is given.
    """
    if genes is not None or spots:
        raise UserError(
            "genes are predicted by an encoder's weights, not by a model or a run",
            where="--genes" if genes is not None else "--training-spots",
            fix="Write spade-bench explain WEIGHTS --genes ..., with the folder of the weights",
        )


def explain_experts(
    plugin: Plugin[EncoderCard],
    folder: Path,
    *,
    features: Path | None,
    slides: Path | None,
    out: Path,
    wanted: Sequence[str] | None,
    table: Path | None,
    genes: str | None,
    spots: Path | None,
    wishes: Wishes,
    device: str,
) -> ExpertFiles:
    """Write the maps of an encoder's experts.

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
        wishes: What is written beside maps and pictures.
        device: `auto`, `cpu` or `cuda[:n]`.

    Raises:
        UserError: When no features or no gene are named; and as `write_expert_maps`.
    """
    if features is None:
        raise UserError("no features are given", where="--features", fix="Name their folder")
    wanted_genes = _genes(genes)
    encoder = plugin.load(LoadOptions(weights=folder, device=device))
    base = None if encoder.card.upstream in (None, "", "any") else encoder.card.upstream
    files = {} if slides is None else find_slides(slides)
    mapped = _slides_of(wanted, table)
    if mapped is None and slides is not None:
        mapped = [name for name in find_bags(features, base) if name in files]
    return write_expert_maps(
        out,
        features,
        encoder=encoder,
        slides=files,
        mapped=mapped,
        table=table,
        genes=wanted_genes,
        spots=spots,
        wishes=wishes,
        sample=SAMPLE if wishes.pictures else 0,  # a UMAP is nothing but a picture
    )


def _genes(text: str | None) -> list[str]:
    """Read genes with commas between them, each once; none where the option was not given.

    Raises:
        UserError: When the option names none.
    """
    if text is None:
        return []
    genes = [gene.strip() for gene in text.split(",") if gene.strip()]
    if not genes:
        raise UserError(
            "no gene is named",
            where="--genes",
            fix="Name genes of the panel (genes.csv of the weights), with commas between them, or "
            "leave it out",
        )
    return list(dict.fromkeys(genes))


def _slides_of(wanted: Sequence[str] | None, table: Path | None) -> list[str] | None:
    """The slides that are named, or that belong to cases that are named."""
    if not wanted or table is None:
        return list(wanted) if wanted else None
    frame = read_table(table)
    slides: list[str] = []
    for name in wanted:
        named = frame["case_id"] == name if {"case_id", "slide_id"} <= set(frame) else None
        mine = [] if named is None else frame.loc[named, "slide_id"].dropna().tolist()
        slides += mine or [name]
    return list(dict.fromkeys(slides))
