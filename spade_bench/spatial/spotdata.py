"""Spots of a section as AnnData, whatever wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.errors import DataError, UserError
from spade_bench.registry import suggest
from spade_bench.spatial.expression import as_anndata, read_expression
from spade_bench.spatial.hest import read_hest
from spade_bench.spatial.instruments.pseudospots import Pooling
from spade_bench.spatial.instruments.technologies import read_section, recognise
from spade_bench.spatial.sectionchecks import check_depth

if TYPE_CHECKING:
    from anndata import AnnData

    from spade_bench.spatial.sample import StSample

__all__ = ["read_spots"]


def read_spots(
    path: Path,
    *,
    technology: str | None = None,
    sample: str | None = None,
    spot_um: float | None = None,
    spot_grid: Literal["square", "hexagonal"] | None = None,
    pitch_um: float | None = None,
    bin_um: float | None = None,
    min_qv: float | None = None,
    image: Path | None = None,
    alignment: Path | None = None,
) -> AnnData:
    """Read the expression of the spots of a section; `pretrain` reads them in the same way.

    Args:
        path: Space Ranger's `outs` folder, of Visium or Visium HD, a Xenium bundle, or a folder in
            HEST-1k layout.
        technology: `visium`, `visium-hd`, `xenium` or `hest`; None recognises it by the files.
        sample: Which sample of a HEST folder that holds several.
        spot_um: Width of pseudo-spots in µm, for Xenium (100 by default) and Visium HD (112).
        spot_grid: `square` (by default) or `hexagonal`.
        pitch_um: Distance between the centres of pseudo-spots; `spot_um` by default, which leaves
            no gaps. `spot_um=55, spot_grid="hexagonal", pitch_um=100` is the layout of Visium.
        bin_um: Which bins of Visium HD are pooled; by default the coarsest that divide a spot.
        min_qv: Least quality value of a transcript of Xenium, 20 by default.
        image: H&E image of a Visium HD or Xenium section; looked for by default.
        alignment: csv of the 3 x 3 matrix that takes pixels of the H&E image to those of Xenium's
            morphology image; looked for by default.

    Returns:
        `X` (spots, genes) as in the file (CSR), barcodes in `obs_names`, genes in `var_names`,
        spot centres in `obsm['spatial']`, and in `uns` the name of the sample, its organ, the
        `technology`, `spatial_unit` (`px` of the full-resolution image, or `um` for Xenium without
        an image), `pixel_size_um` (of that unit), and the size, pitch and lattice of pseudo-spots,
        where they are known; `notes` are sentences about what was left out or looks wrong.

    Raises:
        UserError: When the technology is none that can be read, or something is asked for that it
            does not have.
        DataError: When the folder holds none, or several samples and none is chosen.
    """
    wanted = {
        "spot_um": spot_um,
        "shape": spot_grid,
        "pitch_um": pitch_um,
        "bin_um": bin_um,
        "min_qv": min_qv,
    }
    _check_numbers({"spot_um": spot_um, "pitch_um": pitch_um, "bin_um": bin_um, "min_qv": min_qv})
    given = {name: value for name, value in wanted.items() if value is not None}
    files = {name: v for name, v in {"image": image, "alignment": alignment}.items() if v}
    kind = recognise(path, technology)
    if kind == "hest":
        section = _of_hest(path, sample, [*given, *files])
    else:
        if sample is not None:
            raise UserError("one section is here", where="sample", fix="Leave it out")
        _check_meant(kind, given)
        pooling = Pooling(**given) if given else None  # type: ignore[arg-type]
        section = read_section(path, kind, pooling=pooling, **files)
    expression = read_expression(section)
    data = as_anndata(expression)
    data.uns.update({key: value for key, value in _known(section, kind).items() if value})
    noticed = (*expression.findings, *check_depth(section, expression))
    data.uns["notes"] = [finding.text for finding in noticed]
    return data


def _known(section: StSample, kind: str) -> dict[str, Any]:
    pooling = section.pooling
    return {
        "sample_id": section.sample_id,
        "organ": section.organ,
        "technology": section.technology or kind,
        "pixel_size_um": section.pixel_size_um,
        "spatial_unit": "px" if section.has_pixels else "um",
        "spot_um": section.spot_diameter_um,
        "pitch_um": section.spot_pitch_um,
        "spot_grid": None if pooling is None else pooling.shape,
    }


_ONLY = {"bin_um": "visium-hd", "min_qv": "xenium"}


def _check_meant(kind: str, given: dict[str, Any]) -> None:
    """Refuse a setting of pooling that this technology does not have."""
    for name in given:
        if _ONLY.get(name, kind) != kind:
            raise UserError(
                f"'{name}' belongs to {_ONLY[name]}, and this is {kind}",
                where=name,
                fix="Leave it out",
            )


def _of_hest(path: Path, sample: str | None, given: list[str]) -> StSample:
    if given:
        raise UserError(
            "sections in HEST-1k layout have spots of their own", where=given[0], fix="Leave it out"
        )
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


def _check_numbers(values: Mapping[str, object]) -> None:
    """Refuse a setting that is no number.

    Raises:
        UserError: Naming it.
    """
    from numbers import Real

    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Real)):
            raise UserError(f"{value!r} is not a number", where=name, fix="Give a number")
