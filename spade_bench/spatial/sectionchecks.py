"""All checks of one section in one place, and the hunt for duplicated samples.

`pretrain` and `extract` both call `check_section`: what one refuses, the other refuses in the same
words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spade_bench import console
from spade_bench.errors import DataError
from spade_bench.spatial.alignment import check_alignment
from spade_bench.spatial.expression import Expression, read_expression
from spade_bench.spatial.findings import Finding
from spade_bench.spatial.geometry import check_axes, check_patches, check_pixel_size
from spade_bench.spatial.sectionimages import ImageView, view_image

if TYPE_CHECKING:
    from spade_bench.spatial.sample import StSample

__all__ = [
    "Checked",
    "DuplicateFinder",
    "FindingsReport",
    "check_depth",
    "check_sample",
    "check_section",
    "overrule",
    "refusal",
    "spot_prints",
]

_DOUBTS = {
    *("axes-swapped", "pixel-size-wrong", "patches-elsewhere", "duplicate-sample"),
    "alignment-shifted",
}
_FACTS = {"pseudo-spots", "alignment"}  # what was done and fits: no warning
_BIN_UM, _LEAST_DEPTH = 16.0, 50.0  # bins that HEST pools, and counts that each should have
_SHARED = 0.5  # share of equal spots above which two samples are one
_SHOWN = 3  # samples named per kind of finding


@dataclass(frozen=True)
class Checked:
    """Outcome of the checks of one sample.

    Attributes:
        sample: The sample, its pixel size filled in where the lattice tells it.
        findings: Everything found, fatal or not.
        image_size: (width, height) of the image in px, or None without an image.
    """

    sample: StSample
    findings: tuple[Finding, ...]
    image_size: tuple[int, int] | None


def check_section(
    sample: StSample, *, raw: bool = False, assume_mpp: float | None = None
) -> tuple[Checked, Expression | None]:
    """Read one section and check it; a section that cannot be read has a fatal finding.

    Args:
        sample: What the metadata say.
        raw: Raw counts are needed, so a sample whose values are not counts is refused.
        assume_mpp: Pixel size in µm where neither the metadata nor the image says one.

    Returns:
        The outcome of the checks, and its expression; None where it could not be read.
    """
    if sample.problem:
        problem = Finding("unreadable", 0, 0, sample.problem.rstrip("."), fatal=True)
        return Checked(sample, (problem,), None), None
    try:
        data = read_expression(sample)
        checked = check_sample(sample, data, raw=raw, assume_mpp=assume_mpp)
    except DataError as error:
        finding = Finding("unreadable", 0, 0, str(error).rstrip("."), fatal=True)
        return Checked(sample, (finding,), None), None
    if sample.image is None and sample.patches is None and sample.features is None:
        n, text = len(data.barcodes), "no image, patches or features to encode"
        problem = Finding("no-image", n, n, f"{text} (a manifest can name them)", fatal=True)
        checked = replace(checked, findings=(*checked.findings, problem))
    return checked, data


def refusal(findings: Sequence[Finding]) -> str:
    """Why a sample with these findings cannot be used; empty when it can."""
    return "; ".join(finding.text for finding in findings if finding.fatal)


def overrule(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Overrule doubts about a sample that the user trusts; what cannot be read stays fatal."""
    text = "{}; used because it is trusted"
    return tuple(
        replace(f, fatal=False, text=text.format(f.text)) if f.fatal and f.kind in _DOUBTS else f
        for f in findings
    )


class FindingsReport:
    """Say what was found in which sample; of each kind of finding, the first few samples."""

    def __init__(self) -> None:
        self._samples: Counter[str] = Counter()
        self._items: Counter[str] = Counter()

    def add(self, sample_id: str, findings: Sequence[Finding]) -> None:
        """Say what was found in one sample."""
        for finding in findings:
            self._samples[finding.kind] += 1
            if self._samples[finding.kind] <= _SHOWN:
                verb = "dropped: " if finding.fatal else ""
                tell = console.say if finding.kind in _FACTS else console.warn
                tell(f"{sample_id}: {verb}{finding.text}")
            else:
                self._items[finding.kind] += finding.count

    def close(self) -> None:
        """Say how many samples more there were of each kind."""
        for kind, items in self._items.items():
            tell = console.say if kind in _FACTS else console.warn
            tell(f"{kind}: {self._samples[kind] - _SHOWN} more samples, {items:,} items")


def check_sample(
    sample: StSample, data: Expression, *, raw: bool = False, assume_mpp: float | None = None
) -> Checked:
    """Check one sample: values, organ, patient, axes, scale and patches.

    Args:
        sample: What the metadata say.
        data: Its expression as read.
        raw: Raw counts are needed, so a sample whose values are not counts is refused.
        assume_mpp: Pixel size in µm where neither the metadata nor the image says one.

    Raises:
        DataError: The image cannot be read.
    """
    n = len(data.barcodes)
    findings = [*data.findings, *_check_values(data, raw), *_check_metadata(sample, n)]
    findings += check_depth(sample, data)
    if n == 0:
        findings.append(Finding("no-spots", 0, 0, "the expression file has no spots", fatal=True))
        return Checked(sample, tuple(findings), None)
    view: ImageView | None = None if sample.image is None else view_image(sample.image)
    if view is not None:
        findings += check_axes(data.spatial, view)
    if view is not None and sample.alignment is not None and sample.pixel_size_um is not None:
        totals = np.asarray(data.values.sum(axis=1)).ravel()
        pitch = sample.spot_pitch_um or 0.0
        findings += check_alignment(data.spatial, totals, view, sample.pixel_size_um, pitch)
    image_mpp = None if view is None else view.mpp
    if sample.pixel_size_um is None and image_mpp is None:
        sample = replace(sample, pixel_size_um=assume_mpp)
    if sample.patches is not None:
        findings += check_patches(sample.patches, data.barcodes, data.spatial)
    size, doubts = check_pixel_size(sample, data.spatial, data.spot_diameter_px)
    findings += doubts
    needs_image = sample.features is None and sample.patches is None
    if size is None and image_mpp is None and needs_image and sample.image is not None:
        text = "no pixel size, and the spot pitch is unknown: give pixel_size_um"
        findings.append(Finding("pixel-size-missing", n, n, text, fatal=True))
    sample = replace(sample, pixel_size_um=size)
    return Checked(sample, tuple(findings), None if view is None else (view.width, view.height))


def _check_values(data: Expression, raw: bool) -> list[Finding]:
    n = len(data.barcodes)
    empty = int((np.diff(data.values.indptr) == 0).sum())
    findings = []
    if empty:
        text = f"{empty} of {n} spots have no counts at all and are left out"
        findings.append(Finding("empty-spots", empty, n, text, fatal=empty == n))
    texts = {
        "log-normalised": "X is already log-normalised and is not normalised again",
        "log-counts": "X is the logarithm of counts: the counts are recovered first",
        "normalised": "X is normalised but not logged: rescaled to 10,000 per spot, then log1p",
    }
    if data.kind == "scaled":
        text = "X has negative values (scaled expression): give counts or log-normalised values"
        findings.append(Finding("scaled", n, n, text, fatal=True))
    elif data.kind != "counts":
        lost = raw and data.kind in ("log-normalised", "normalised")
        text = texts[data.kind] + (", but raw counts were asked for" if lost else "")
        findings.append(Finding(data.kind, n, n, text, fatal=lost))
    return findings


def check_depth(sample: StSample, data: Expression) -> list[Finding]:
    """Name pooled Visium HD whose spots have the depth of one bin, not of all that they hold.

    HEST pools 16 µm bins by `total[rows] += counts`, of which NumPy keeps only the last bin of each
    spot, so that a spot of 128 µm has the counts of one of its 64 bins (mahmoodlab/HEST,
    `readers.py`, 2025-09). A bin under tissue has hundreds of counts.
    """
    side, n = sample.spot_diameter_um, len(data.barcodes)
    of_bins = (sample.technology or "").lower().replace("-", " ") == "visium hd"
    if not (of_bins and sample.h5ad is not None and side and side >= 2 * _BIN_UM and n):
        return []
    if data.kind != "counts":
        return []
    bins = (side / _BIN_UM) ** 2
    depth = float(np.median(np.asarray(data.values.sum(axis=1)).ravel()))
    if depth >= _LEAST_DEPTH * bins:
        return []
    text = (
        f"half its spots of {side:g} µm have {depth:,.0f} counts or fewer, {depth / bins:.0f} for "
        f"each of {bins:.0f} bins of {_BIN_UM:g} µm: perhaps one bin of each spot was kept when it "
        "was pooled; read Space Ranger's own output instead"
    )
    return [Finding("pooled-depth", n, n, text)]


def _check_metadata(sample: StSample, n: int) -> list[Finding]:
    findings = []
    if sample.organ == "unknown":
        text = "organ unknown: clustered with the other samples of unknown organ"
        findings.append(Finding("organ-unknown", n, n, text))
    if sample.patient is None:
        text = "patient unknown: the sample is its own group in the split"
        findings.append(Finding("patient-unknown", n, n, text))
    return findings


def spot_prints(data: Expression) -> np.ndarray:
    """A 64-bit print of each spot's content, whatever its barcode and position.

    Made of the number of genes, the sum and the sum of squares of the values; spots with fewer
    than five genes say too little and are left out.

    Returns:
        (m,) uint64, sorted and unique, m <= spots.
    """
    values = data.values
    genes = np.diff(values.indptr)
    total = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
    squares = np.asarray(values.multiply(values).sum(axis=1, dtype=np.float64)).ravel()
    rows = np.stack([genes, total.round(2), squares.round(2)], axis=1)[genes >= 5]  # (m, 3)
    words = np.ascontiguousarray(rows, dtype=np.float64).view(np.uint64).reshape(-1, 3)
    out = np.zeros(len(words), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(3):  # multiply-xorshift mixing, as in splitmix64
            out = (out ^ words[:, column]) * np.uint64(0xBF58476D1CE4E5B9)
            out ^= out >> np.uint64(29)
    return np.unique(out)


class DuplicateFinder:
    """Recognise a sample that was there before, by the content of its spots."""

    def __init__(self) -> None:
        self._owner: dict[int, str] = {}

    def add(self, sample_id: str, prints: np.ndarray) -> Finding | None:
        """Add a sample; a fatal finding when at least half its spots are another's.

        Args:
            sample_id: Its id.
            prints: From `spot_prints`.
        """
        hits: dict[str, int] = {}
        for key in prints.tolist():
            owner = self._owner.get(key)
            if owner is not None:
                hits[owner] = hits.get(owner, 0) + 1
        if hits:
            other, shared = max(hits.items(), key=lambda item: item[1])
            if shared >= _SHARED * len(prints):
                text = f"a duplicate of {other}: {shared} of {len(prints)} spots are equal"
                return Finding("duplicate-sample", shared, len(prints), text, fatal=True)
        for key in prints.tolist():
            self._owner.setdefault(key, sample_id)
        return None
