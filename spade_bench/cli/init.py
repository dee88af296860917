"""`spade-bench init`: write a workspace file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spade_bench.doctor.newworkspace import Belongings

__all__ = ["TEMPLATE", "init"]

TEMPLATE = """\
# Workspace of spade-bench: what you would otherwise repeat as flags. Flags win over this file.
# Relative paths are relative to this file.

# Where things run: auto (a GPU where there is one), cpu, cuda or cuda:1.
device: auto

# Where `spade-bench run` writes its results.
out: runs

# Pretraining samples in HEST-1k layout (HEST_v*.csv, st/, patches/ or wsis/, metadata/).
hest: data/hest
# Or any other data, as a csv: sample_id, h5ad, image or patches or features, pixel_size_um,
# organ, patient.
# manifest: data/manifest.csv

# What `spade-bench pretrain` does without flags.
pretrain:
  # Base patch encoder (see `spade-bench list encoders`).
  encoder: efficientnet-lite0
  # Named settings: hest1k holds the paper's sample filter. null takes every sample.
  config: null
  # Where the pretrained SPADE goes.
  out: spade
  # Single settings, as with --set.
  set: {}

# Weights of encoders. Leave an encoder out to take them from its own source.
encoders:
  spade:
    weights: spade
  # uni:
  #   weights: weights/uni/pytorch_model.bin

# Tables and features of each cohort. Task cards name their cohort (`spade-bench show task NAME`).
cohorts:
  tcga_crc:
    # Task -> table with case_id, slide_id and label (or event and duration_days).
    tables:
      crc_braf: tables/crc_braf.csv
      crc_kras: tables/crc_kras.csv
      crc_msi: tables/crc_msi.csv
    # Encoder -> folder that `spade-bench extract --encoder E --out DIR` wrote. SPADE takes the
    # features of its base encoder from here and encodes them on the fly.
    features:
      efficientnet-lite0: features/tcga_crc

# What `spade-bench run` does without flags.
run:
  # See `spade-bench list heads`. Without any, each kind of task takes its own.
  # heads: [logistic, abmil]
  # Few-shot: cases per class in training, capped by the smallest class.
  # shots: [1, 2, 4, 8, 16, 32]
  # Few-shot: independent draws for each number of shots.
  # draws: 10
  # Any other setting of `spade-bench run` that holds for every run, by the name of its flag:
  # protocol, folds, repeats, holdout, group_by_site, select, controls, permutations,
  # allow_missing, match_ids, memory, cache, keep_heads, set. A sweep and flags win over these.
  # keep_heads: folds
  # Seed of the episodes.
  seed: 0
"""


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write it into.")] = Path(),
    task: Annotated[
        str | None, typer.Option(help="Named task, or a name for one of your own.")
    ] = None,
    table: Annotated[Path | None, typer.Option(help="Its cohort table (csv).")] = None,
    features: Annotated[Path | None, typer.Option(help="Folder of features.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder that made the features, or is to make them.")
    ] = None,
    slides: Annotated[Path | None, typer.Option(help="Folder of whole slides.")] = None,
    hest: Annotated[
        Path | None, typer.Option(help="Sections in HEST-1k layout, to pretrain SPADE on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a workspace file with what you have, and say what to type then.

    In a terminal it asks for what no flag says. Where nothing is said, the file is an example with
    every line explained, ready to be edited.
    """
    from spade_bench import console, workspace
    from spade_bench.doctor.newworkspace import Belongings, write_workspace

    has = Belongings(task, table, features, encoder, slides, hest)
    if not has and sys.stdin.isatty():
        has = _ask(Belongings())
    commands = write_workspace(folder, has, example=TEMPLATE, force=force)
    console.emit(f"wrote {folder / workspace.FILE_NAME}")
    if not has:
        console.emit("edit its paths, then type")
    elif commands:
        console.emit("in its folder, type")
    for command in commands:
        console.emit(f"  {command}")


def _ask(nothing: Belongings) -> Belongings:
    """Ask for what a workspace needs; every answer may be left empty."""
    from dataclasses import replace

    from spade_bench.workspace import PretrainEntry

    def answer(question: str) -> str | None:
        return str(typer.prompt(question, default="", show_default=False, err=True)).strip() or None

    def place(question: str) -> Path | None:
        given = answer(question)
        return None if given is None else Path(given).expanduser()

    has = replace(
        nothing,
        features=place("Folder of features, if you have them"),
        slides=place("Folder of whole slides"),
        hest=place("Folder of spatial transcriptomics in HEST-1k layout"),
        table=place("Cohort table (csv)"),
    )
    if has.table is not None:
        has = replace(has, task=answer("Task (of `list tasks`, or a name of your own)"))
    if has:
        default = PretrainEntry().encoder
        given = answer(f"Encoder of the features (empty: {default})")
        has = replace(has, encoder=given or (default if has.features is not None else None))
    return has
