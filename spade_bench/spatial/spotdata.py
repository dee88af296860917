"""Spots of a section as AnnData, whatever wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import DataError, UserError
from spade_bench.registry import suggest
from spade_bench.spatial.expression import load_expression
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.spaceranger import read_spaceranger

if TYPE_CHECKING:
    from anndata import AnnData

    from spade_bench.spatial.sample import StSample

__all__ = ["TECHNOLOGIES", "read_spots"]

TECHNOLOGIES = ("hest", "visium")
"""What can be read: a folder in HEST-1k layout, and the `outs` folder of Space Ranger."""


def read_spots(
    path: Path,
    *,
    technology: str | None = None,
    sample: str | None = None,
    spot_um: float | None = None,
) -> AnnData:
    """Read the expression of the spots of a section.

    Args:
        path: A Space Ranger `outs` folder, or a folder in HEST-1k layout.
        technology: `visium` or `hest`; None recognises it by the files.
        sample: Which sample of a HEST folder that holds several.
        spot_um: Side of pseudo-spots in micrometres; none of these technologies has them.

    Returns:
        `X` (spots, genes) as in the file (CSR), barcodes in `obs_names`, genes in `var_names`,
        spot centres in `obsm['spatial']` in full-resolution pixels, and in `uns` the name of the
        sample, its organ and its pixel size in micrometres where they are known.

    Raises:
        UserError: When the technology is none that can be read.
        DataError: When the folder holds none, or several samples and none is chosen.
    """
    if not path.is_dir():
        raise DataError("no such folder", where=str(path))
    if technology is not None and technology not in TECHNOLOGIES:
        near = suggest(technology, TECHNOLOGIES)
        raise UserError(
            f"spots of '{technology}' cannot be read",
            where="technology",
            fix=f"Did you mean {near}?" if near else f"Use {' or '.join(TECHNOLOGIES)}",
        )
    if spot_um is not None:
        raise UserError(
            "spots of Visium have a size of their own", where="spot_um", fix="Leave it out"
        )
    kind = technology or ("hest" if (path / "st").is_dir() else "visium")
    section = _of_hest(path, sample) if kind == "hest" else read_spaceranger(path)[0]
    data = load_expression(section)
    known = {
        "sample_id": section.sample_id,
        "organ": section.organ,
        "technology": section.technology or kind,
        "pixel_size_um": section.pixel_size_um,
    }
    data.uns.update({key: value for key, value in known.items() if value is not None})
    return data


def _of_hest(path: Path, sample: str | None) -> StSample:
    samples = {one.sample_id: one for one in read_hest(path)}
    if sample is None:
        if len(samples) > 1:
            raise DataError(
                f"{len(samples)} samples are here",
                where=str(path),
                fix=f"Choose one, such as sample={next(iter(samples))!r}",
            )
        return next(iter(samples.values()))
    if sample not in samples:
        near = suggest(sample, samples)
        raise DataError(
            f"there is no sample '{sample}'",
            where=str(path),
            fix=f"Did you mean {near}?" if near else f"The first one is {next(iter(samples))!r}",
        )
    return samples[sample]
