"""Simulate a whole study: sections with expression, slides with labels, and the planted truth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench.errors import ConfigError, DataError
from spade_bench.files import atomic_dir, hash_obj, read_json, write_json
from spade_bench.simulate.sections import cohort_genome, simulate_sections
from spade_bench.simulate.slides import simulate_slides
from spade_bench.simulate.studysettings import (
    NICHES,
    ORGANS,
    PROGRAMMES,
    SIZES,
    GeneSettings,
    LabelSettings,
    Nuisance,
    Size,
)
from spade_bench.simulate.textures import Textures

__all__ = ["simulate", "story_hash"]

_VERSION = 3  # raise it when the code changes what a seed gives


def simulate(
    out: Path,
    seed: int,
    size: str | Size = "tiny",
    coupling: float = 1.0,
    images_of: Path | None = None,
) -> dict[str, Any]:
    """Write a simulated study below ``out``; an earlier one there is replaced.

    Args:
        out: Folder to write: ``hest/`` (HEST-1k layout), ``slides/``, ``regions/`` (where on each
            slide the programmes are drawn), ``tables/``, ``truth.json``.
        seed: Everything follows from it, whatever the number of cores.
        size: A name of ``studysettings.SIZES``, or the sizes themselves.
        coupling: Share of spots whose expression belongs to what is drawn at their place, and of
            cases whose bulk expression is their own. The images do not depend on it.
        images_of: A study of the same seed and size, whose images are linked or copied instead of
            being drawn again.

    Returns:
        The content of ``truth.json``.

    Raises:
        ConfigError: For an unknown size, a negative seed or a coupling outside 0 to 1.
        DataError: When ``out`` holds something that is not a simulated study, or ``images_of`` is
            not a study with the same images.
    """
    amount = _size(size)
    _check_request(out, seed, coupling)
    if images_of is not None:
        check_images(images_of, seed, size)
    try:
        story = story_hash(seed, size, coupling)
        return _write(out, seed, amount, story, coupling=coupling, images_of=images_of)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror or error})",
            where=str(out),
            fix="Free some space on the disk, or choose a folder that you may write to",
        ) from error


def _write(
    out: Path, seed: int, amount: Size, story: str, *, coupling: float, images_of: Path | None
) -> dict[str, Any]:
    """Write the study; see `simulate`."""
    st_seed, slide_seed, texture_seed, bulk_seed = np.random.SeedSequence(seed).spawn(4)
    textures = Textures(np.random.default_rng(texture_seed))
    with atomic_dir(out) as folder:
        truth: dict[str, Any] = {
            "simulated": True,
            "story": story,
            "seed": seed,
            "size": asdict(amount),
            "coupling": coupling,
            "niches": list(NICHES),
            "programmes": [asdict(programme) for programme in PROGRAMMES],
            "nuisance": asdict(Nuisance()),
            "expression": simulate_sections(
                folder, st_seed, amount, coupling, textures, images_of=images_of
            ),
            "slides": simulate_slides(
                folder,
                slide_seed,
                amount,
                textures,
                genome=cohort_genome(st_seed, amount),
                bulk_seed=bulk_seed,
                coupling=coupling,
                images_of=images_of,
            ),
        }
        write_json(folder / "truth.json", truth)
    return truth


def story_hash(seed: int, size: str | Size, coupling: float) -> str:
    """Return a hash of everything a simulated study follows from, except the code."""
    parts: tuple[Any, ...] = (Nuisance(), GeneSettings(), LabelSettings(), _size(size))
    listed = [asdict(part) for part in (*parts, *PROGRAMMES, *ORGANS)]
    return hash_obj([_VERSION, seed, coupling, listed])


def check_images(study: Path, seed: int, size: str | Size) -> None:
    """Check that a study has the images of this seed and size.

    Raises:
        DataError: When it has not.
    """
    truth = read_json(study / "truth.json") if (study / "truth.json").is_file() else {}
    if truth.get("story") != story_hash(seed, size, float(truth.get("coupling", -1))):
        raise DataError(
            "not a study with these images: it must come from the same seed, size and version",
            where=str(study),
            fix="Leave --images-of out to draw them",
        )


def _check_request(out: Path, seed: int, coupling: float) -> None:
    if not 0 <= coupling <= 1:
        raise ConfigError(f"coupling is {coupling}", fix="Give a number from 0 to 1")
    if seed < 0:
        raise ConfigError(f"seed is {seed}", fix="Give 0 or a positive number")
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "truth.json").exists()):
        raise DataError(
            "the folder holds something else than a simulated study",
            where=str(out),
            fix="Choose an empty or a new folder",
        )


def _size(size: str | Size) -> Size:
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r}", fix=f"Choose one of {', '.join(SIZES)}")
    return SIZES[size]
