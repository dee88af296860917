"""`spade-bench init`: write a commented workspace file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a workspace file with every line explained, ready to be edited."""
    from spade_bench import console, files, workspace
    from spade_bench.errors import UserError

    path = folder / workspace.FILE_NAME
    if path.exists() and not force:
        raise UserError("exists already", where=str(path), fix="Use --force to overwrite it")
    files.write_text(path, TEMPLATE)
    console.emit(f"wrote {path}; edit its paths, then run `spade-bench pretrain`")
