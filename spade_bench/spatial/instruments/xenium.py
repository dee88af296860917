"""Read a Xenium output bundle, of Xenium Onboard Analysis 1 to 3, as pseudo-spots.

Source: 10x Genomics, "Understanding Xenium outputs". Positions are µm in the frame of the section;
`experiment.xenium` says the pixel size of the morphology image; the instrument's own summary counts
transcripts of quality 20 or more.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spade_bench.cohorts.tabletext import read_dicts
from spade_bench.errors import DataError
from spade_bench.files import read_json
from spade_bench.spatial.alignment import ImageFrame, read_alignment
from spade_bench.spatial.fields import as_float, as_int, as_text
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.instruments.pseudospots import Pooling, SpotGrid
from spade_bench.spatial.instruments.spotcounts import SpotCounts
from spade_bench.spatial.instruments.tenxmatrix import read_tenx_features
from spade_bench.spatial.instruments.transcripts import (
    TRANSCRIPTS,
    Tally,
    count_transcripts,
    is_control,
)
from spade_bench.spatial.sample import StSample

__all__ = ["EXPERIMENT", "SPOT_UM", "read_bundle", "read_xenium"]

EXPERIMENT = "experiment.xenium"
SPOT_UM = 100.0
"""Width of a pseudo-spot unless another is asked for: about a patch of 224 px of 0.5 µm."""

_MORPHOLOGY_UM = 0.2125  # pixel of the morphology image of every instrument so far
_MATRIX, _PANEL = "cell_feature_matrix.h5", "gene_panel.json"
_SUMMARY = "metrics_summary.csv"
_IMAGES = (".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png")
_KNOWN_VERSIONS = (1, 2, 3)  # of Xenium Onboard Analysis
_MIN_QV = 20.0  # of the transcripts in the summary
_APART = 0.01  # relative difference of totals that is reported
_ORGANISMS = {"human": "Homo sapiens", "mouse": "Mus musculus"}


def read_xenium(
    bundle: Path,
    *,
    sample_id: str | None = None,
    organ: str = "unknown",
    patient: str | None = None,
    image: Path | None = None,
    alignment: Path | None = None,
    features: Path | None = None,
    pooling: Pooling | None = None,
) -> list[StSample]:
    """The sample of a Xenium bundle; nothing is counted yet.

    The H&E image and its alignment are looked for in the bundle and beside it, as `*_he_image.*`
    and `*_he_imagealignment.csv`. Without both, positions stay in µm.

    Args:
        bundle: Folder with `experiment.xenium` and `transcripts.parquet`, or one that holds it as
            `outs`.
        sample_id: Defaults to the name of the folder.
        organ: Organ of the sample.
        patient: Patient id, where known.
        image: H&E image; looked for when not given.
        alignment: csv of the 3 x 3 matrix from its pixels to those of the morphology image.
        features: Precomputed per-spot features.
        pooling: Size and lattice of the pseudo-spots.

    Returns:
        A list of one sample.

    Raises:
        DataError: A needed file is missing, or an image has no alignment.
    """
    bundle = _folder(Path(bundle))
    _transcripts(bundle)
    about = _experiment(bundle)
    image = image or _one(bundle, _IMAGES, "_he_image")
    alignment = alignment or _one(bundle, (".csv",), "_he_imagealignment")
    if image is not None and alignment is None:
        raise DataError(
            f"the image {image.name} has no alignment",
            where=str(bundle),
            fix="Put its *_he_imagealignment.csv beside it, or give the csv of its 3 x 3 matrix",
        )
    resolved = bundle.resolve()
    name = resolved.parent.name if resolved.name == "outs" else resolved.name
    pooling = pooling or Pooling()
    grid = pooling.grid(SPOT_UM)
    frame = None if image is None or alignment is None else _frame(alignment, about)
    return [
        StSample(
            sample_id=sample_id or name,
            organ=organ,
            patient=patient,
            species=_ORGANISMS.get((as_text(about.get("panel_organism")) or "").lower()),
            technology="Xenium",
            pixel_size_um=1.0 if frame is None else frame.pixel_size_um,
            xenium=bundle,
            image=image,
            alignment=alignment,
            features=features,
            spot_diameter_um=grid.spot_um,
            spot_pitch_um=grid.pitch,
            pooling=pooling,
        )
    ]


def read_bundle(sample: StSample) -> SpotCounts:
    """Count the transcripts of a bundle over its pseudo-spots.

    Genes are all those of the panel, whether or not they were seen. Positions are full-resolution
    px of the H&E image, or µm without one.

    Raises:
        DataError: A file is missing or damaged, or no transcript counts.
    """
    assert sample.xenium is not None
    bundle, pooling = sample.xenium, sample.pooling or Pooling()
    grid = pooling.grid(SPOT_UM)
    panel = _panel(bundle)
    tally = count_transcripts(_transcripts(bundle), grid, min_qv=pooling.min_qv, genes=panel)
    tally, doubts = _without_foreign(tally, panel)
    centres = grid.centres(tally.row, tally.column)
    diameter = grid.spot_um
    if sample.image is not None and sample.alignment is not None:
        frame = _frame(sample.alignment, _experiment(bundle))
        centres, diameter = frame.to_px(centres), diameter / frame.pixel_size_um
    found = _findings(bundle, tally, grid, pooling.min_qv)
    return SpotCounts(
        counts=tally.counts,
        genes=tally.genes,
        barcodes=grid.names(tally.row, tally.column),
        spatial=centres,
        array=np.stack([tally.row, tally.column], axis=1).astype(np.float64),
        spot_diameter_px=diameter,
        findings=(*found, *doubts, *_of_experiment(bundle, sample.image is not None)),
    )


def _findings(bundle: Path, tally: Tally, grid: SpotGrid, min_qv: float) -> list[Finding]:
    """What was left out, and whether the bundle's own cell matrix agrees."""
    n, spots = tally.transcripts, tally.counts.shape[0]
    between = f", {tally.between:,} between spots" if grid.pitch > grid.spot_um else ""
    text = (
        f"{tally.kept:,} of {n:,} transcripts counted in {spots:,} pseudo-spots of "
        f"{grid.spot_um:g} µm; left out {tally.low_quality:,} of quality below {min_qv:g}, "
        f"{tally.controls:,} controls{between}"
    )
    found = [Finding("pseudo-spots", n - tally.kept, n, text)]
    expected = _high_quality(bundle) if min_qv == _MIN_QV else None
    here = n - tally.low_quality
    if expected is not None and abs(expected - here) > _APART * max(1, expected):
        text = (
            f"{here:,} transcripts of quality {min_qv:g} or more are here, but the bundle's own "
            f"summary counts {expected:,}: its files are thinned, cut short or of different runs"
        )
        found.append(Finding("bundle-totals", abs(expected - here), expected, text))
    return found


def _of_experiment(bundle: Path, placed: bool) -> list[Finding]:
    """What `experiment.xenium` leaves in doubt: no such file, or software that nobody knew here."""
    about = _experiment(bundle)
    if not about:
        text = f"no {EXPERIMENT}: the version of the software is unknown"
        if placed:
            text += f", and the morphology image is taken to have pixels of {_MORPHOLOGY_UM} µm"
        return [Finding("experiment-missing", 1, 1, text)]
    told = as_text(about.get("analysis_sw_version")) or ""
    version = re.search(r"(\d+)\.\d", told)
    if version is None or int(version[1]) in _KNOWN_VERSIONS:
        return []
    text = (
        f"written by {told}, and versions {_KNOWN_VERSIONS[0]} to {_KNOWN_VERSIONS[-1]} of Xenium "
        "Onboard Analysis are known here: look whether totals and genes are right"
    )
    return [Finding("software-unknown", 1, 1, text)]


def _without_foreign(tally: Tally, panel: np.ndarray | None) -> tuple[Tally, list[Finding]]:
    """Drop the genes of a panel that has none of the genes with transcripts: another run's."""
    n = 0 if panel is None else len(panel)
    seen = np.asarray(tally.counts.getnnz(axis=0)) > 0  # (genes,)
    beyond = int(seen[n:].sum())
    if not n or not beyond:
        return tally, []
    total = int(seen.sum())
    if seen[:n].any():
        text = f"{beyond} of {total} genes with transcripts are not in the bundle's panel"
        return tally, [Finding("panel-incomplete", beyond, total, text)]
    text = (
        f"the bundle's cell matrix or panel names other genes ({tally.genes[0]}, ...) than its "
        f"transcripts: only the {total} genes with transcripts count as measured"
    )
    bare = replace(tally, counts=tally.counts[:, n:], genes=tally.genes[n:])
    return bare, [Finding("panel-foreign", n, n, text)]


def _high_quality(bundle: Path) -> int | None:
    """Transcripts of quality 20 or more by the instrument's own summary, or None."""
    told = as_int(_experiment(bundle).get("num_transcripts_high_quality"))
    if told is None and (bundle / _SUMMARY).is_file():
        rows = read_dicts(bundle / _SUMMARY)[1]
        told = as_int(rows[0].get("total_high_quality_decoded_transcripts")) if rows else None
    return told


def _panel(bundle: Path) -> np.ndarray | None:
    """Names of the genes of the panel: from the cell matrix, else from `gene_panel.json`."""
    if (bundle / _MATRIX).is_file():
        return read_tenx_features(bundle / _MATRIX).var.index.to_numpy(dtype=str)
    if not (bundle / _PANEL).is_file():
        return None
    content = read_json(bundle / _PANEL)
    try:
        targets = [target["type"] for target in content["payload"]["targets"]]
        genes = [str(t["data"]["name"]) for t in targets if t["descriptor"] == "gene"]
    except (KeyError, TypeError) as error:
        raise DataError(f"not a Xenium panel ({error})", where=str(bundle / _PANEL)) from error
    return np.array(list(dict.fromkeys(g for g in genes if not is_control(g))), dtype=str)


def _folder(bundle: Path) -> Path:
    return bundle / "outs" if (bundle / "outs" / EXPERIMENT).is_file() else bundle


def _transcripts(bundle: Path) -> Path:
    found = next((bundle / name for name in TRANSCRIPTS if (bundle / name).is_file()), None)
    if found is None:
        raise DataError(
            f"no {TRANSCRIPTS[0]}", where=str(bundle), fix="Give the output bundle of Xenium"
        )
    return found


def _experiment(bundle: Path) -> dict[str, Any]:
    path = bundle / EXPERIMENT
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("holds no keys and values", where=str(path))
    return content


def _frame(alignment: Path, about: dict[str, Any]) -> ImageFrame:
    return read_alignment(alignment, as_float(about.get("pixel_size")) or _MORPHOLOGY_UM)


def _one(bundle: Path, suffixes: tuple[str, ...], ending: str) -> Path | None:
    """The one file of the bundle, or beside it, whose name without suffixes ends so.

    Beside several bundles nothing is taken: it could be of any of them.

    Raises:
        DataError: When several do.
    """
    beside = bundle.resolve().parent
    others = [one for one in beside.glob(f"*/{EXPERIMENT}") if one.parent != bundle.resolve()]
    for folder in (bundle,) if others else (bundle, beside):
        found = [
            path
            for path in sorted(folder.iterdir())
            if path.name.lower()
            .removesuffix(path.suffix.lower())
            .removesuffix(".ome")
            .endswith(ending)
            and path.suffix.lower() in suffixes
        ]
        if len(found) > 1:
            listed = " and ".join(path.name for path in found)
            raise DataError(
                f"{listed} could each be meant", where=str(folder), fix="Name one in a manifest"
            )
        if found:
            return found[0]
    return None
