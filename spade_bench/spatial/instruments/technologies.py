"""The technologies whose sections can be read, told by what lies in a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spade_bench.errors import DataError, UserError
from spade_bench.registry import suggest
from spade_bench.spatial.instruments.pseudospots import Pooling
from spade_bench.spatial.instruments.spaceranger import read_spaceranger
from spade_bench.spatial.instruments.transcripts import TRANSCRIPTS
from spade_bench.spatial.instruments.visiumhd import find_bins, read_visium_hd
from spade_bench.spatial.instruments.xenium import EXPERIMENT, read_xenium
from spade_bench.spatial.sample import StSample

__all__ = ["TECHNOLOGIES", "mixed_technologies", "pooled_files", "read_section", "recognise"]

TECHNOLOGIES = ("hest", "visium", "visium-hd", "xenium")
"""What can be read: a folder in HEST-1k layout, `outs` of Space Ranger with spots or with bins,
and the output bundle of Xenium."""

_READERS: Mapping[str, Callable[..., list[StSample]]] = {
    "visium": read_spaceranger,
    "visium-hd": read_visium_hd,
    "xenium": read_xenium,
}


def recognise(path: Path, technology: str | None = None) -> str:
    """Tell the technology of a folder by its files.

    Args:
        path: The folder.
        technology: One of `TECHNOLOGIES` or how metadata write it (`Visium HD`), to be taken as
            it is; None looks.

    Raises:
        UserError: When the technology is none that can be read.
        DataError: When there is no such folder.
    """
    if not path.is_dir():
        raise DataError("no such folder", where=str(path))
    if technology is not None:
        name = technology.strip().lower().replace(" ", "-").replace("_", "-")
        if name not in TECHNOLOGIES:
            near = suggest(name, TECHNOLOGIES)
            raise UserError(
                f"spots of '{technology}' cannot be read",
                where="technology",
                fix=f"Did you mean {near}?" if near else f"Use one of {', '.join(TECHNOLOGIES)}",
            )
        return name
    if (path / "st").is_dir():
        return "hest"
    for folder in (path, path / "outs"):
        if any((folder / name).is_file() for name in (EXPERIMENT, *TRANSCRIPTS)):
            return "xenium"
    return "visium-hd" if find_bins(path) else "visium"


def read_section(
    path: Path, technology: str | None = None, *, pooling: Pooling | None = None, **known: Any
) -> StSample:
    """The sample of a folder that holds one section.

    Args:
        path: The folder.
        technology: `visium`, `visium-hd` or `xenium`; None looks.
        pooling: Size and lattice of pseudo-spots, where it is given.
        **known: What the readers take: `sample_id`, `organ`, `patient`, `image`, `features`, and
            `alignment` for Xenium.

    Raises:
        UserError: When something is given that the technology does not have.
        DataError: As the readers, and for a folder in HEST-1k layout, which holds many.
    """
    kind = recognise(path, technology)
    if kind == "hest":
        raise DataError("a folder in HEST-1k layout holds many sections", where=str(path))
    if kind != "xenium" and known.pop("alignment", None) is not None:
        raise UserError(
            f"sections of {kind} come aligned with their image",
            where="alignment",
            fix="Leave it out",
        )
    if kind == "visium":
        if pooling is not None:
            raise UserError(
                "spots of Visium have a size of their own", where="spot_um", fix="Leave it out"
            )
        (sample,) = read_spaceranger(path, **known)
        return sample
    (sample,) = _READERS[kind](path, pooling=pooling, **known)
    return sample


def pooled_files(sample: StSample) -> list[Path]:
    """The files that the pseudo-spots of a sample are made of, those that are there."""
    files: list[Path] = []
    if sample.xenium is not None:
        files = [sample.xenium / name for name in (EXPERIMENT, *TRANSCRIPTS)]
    elif sample.visium_hd is not None:
        for folder in find_bins(sample.visium_hd).values():
            files += sorted([*folder.glob("*.h5"), *(folder / "spatial").glob("*")])
    files += [sample.alignment] if sample.alignment is not None else []
    return [path for path in files if path.is_file()]


def mixed_technologies(samples: Mapping[str, str | None]) -> dict[str, str]:
    """Return the technology of each sample, `unknown` where it is blank, if there are several.

    Args:
        samples: Sample id -> technology.

    Returns:
        Sample id -> technology; empty where all samples are of one.
    """
    named = {name: technology or "unknown" for name, technology in samples.items()}
    return named if len(set(named.values())) > 1 else {}
