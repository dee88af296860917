"""A SPADE folder as it is passed on: without names of samples and patients, paths and spots."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spade_bench.cohorts.withholding import Withholding
from spade_bench.encoders.spade.modelfolder import MODEL_FILES, read_folder
from spade_bench.files import read_json, read_sealed, write_json, write_sealed

__all__ = ["names_in", "share"]

# Settings that name files, samples or patients; of these sections only the rest is passed on.
_KEPT = {"samples": ("patch_px", "mpp", "min_genes"), "split": ("val_fraction",)}
_RECORDS = ("training.csv",)
_VALIDATION = "validation.json"
_CONTROL = Path("controls") / "k1"


def names_in(folder: Path) -> set[str]:
    """Return every sample and patient that a SPADE folder names.

    Raises:
        WeightsError: When the folder is damaged or none of SPADE.
    """
    info, *_ = read_folder(folder)
    split = info.extra.get("split")
    names = {*info.samples, *info.patients, *(split if isinstance(split, Mapping) else ())}
    listed = folder / "samples.csv"
    if listed.is_file():
        import pandas as pd

        table = pd.read_csv(listed, dtype=str, keep_default_na=False)
        names |= {name for column in ("sample", "patient") if column in table
                  for name in table[column] if name}  # fmt: skip
    return names


def share(folder: Path, target: Path, hide: Withholding) -> dict[str, Any]:
    """Copy what makes a SPADE model, and what judges it, into a new folder.

    The spots themselves, checkpoints and intermediate results stay behind.

    Args:
        folder: Folder of the model, which is read strictly.
        target: An empty folder.
        hide: What becomes of names.

    Returns:
        The description that was written.

    Raises:
        WeightsError: When the folder is damaged or none of SPADE.
    """
    read_folder(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES[1:]:
        shutil.copyfile(folder / name, target / name)
    for name in _RECORDS:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
    content = _described(read_sealed(folder / MODEL_FILES[0]), hide)
    write_sealed(target / MODEL_FILES[0], content)
    if (folder / _VALIDATION).is_file():
        write_json(target / _VALIDATION, _judged(read_json(folder / _VALIDATION), hide))
    if (folder / _CONTROL).is_dir():
        share(folder / _CONTROL, target / _CONTROL, hide)
    return content


def _described(content: Mapping[str, Any], hide: Withholding) -> dict[str, Any]:
    config = {
        key: {k: v for k, v in value.items() if k in _KEPT[key]} if key in _KEPT else value
        for key, value in content["config"].items()
    }
    extra = {key: value for key, value in content["extra"].items() if key != "spots"}
    return {
        **content,
        "samples": hide.listed(content["samples"]),
        "patients": hide.listed(content["patients"]),
        "notes": hide.anywhere(content["notes"]),
        "config": hide.anywhere(config),
        "extra": hide.anywhere(extra),
    }


def _judged(content: Mapping[str, Any], hide: Withholding) -> dict[str, Any]:
    """The validation, with numbers of single samples only where these may be named."""
    if hide.how == "named":
        return dict(content)
    splits = {
        name: {key: value for key, value in split.items()
               if key not in {"samples", "left_out", "drawn_down"}}
        for name, split in content.get("splits", {}).items()
    }  # fmt: skip
    cleaned: dict[str, Any] = hide.anywhere({**content, "splits": splits})
    return cleaned
