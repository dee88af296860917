"""What expression values are (counts, normalised, logarithms), and their normalisation."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import scipy.sparse as sp

from spade_bench.data.st.findings import Finding
from spade_bench.errors import DataError

__all__ = ["TARGET_SUM", "ValueKind", "lognorm", "natural_logs", "value_kind"]

TARGET_SUM = 10_000.0
"""Total of every spot before log1p: a fixed target, so that samples share a scale."""

_LOG_MAX = 14.0  # log1p of a million: no log-normalised value lies above it
_LOG2_MAX = 20.0  # log2 of a million
_MOST_COUNTS = 1e6  # of one gene in one spot
_TELLING = 5e4  # below it, what float32 rounds away is far less than a half
_CLEAR = 0.95  # share of values from which a pattern counts
ValueKind = Literal["counts", "normalised", "log-normalised", "log-counts", "scaled"]


def value_kind(values: sp.csr_matrix) -> ValueKind:
    """Tells counts from what is already normalised.

    Integers are counts. Values with negatives are scaled. The rest is log-normalised when it
    stays within the range of a logarithm, unless the values themselves, not their exponentials,
    are multiples of each spot's smallest value (counts divided by a total). When `expm1` of all
    values are integers, they are the logarithm of unscaled counts.
    """
    data = values.data
    data = data[data != 0]
    if data.size == 0:
        return "counts"
    if data.min() < 0:
        return "scaled"
    if np.array_equal(data, np.rint(data)):
        return "counts"
    if data.max() > _LOG_MAX:
        return "normalised"
    if _whole_numbers(np.expm1(data.astype(np.float64))):
        return "log-counts"
    if _multiples(values, exponential=False) > 0.95 > _multiples(values, exponential=True):
        return "normalised"
    return "log-normalised"


def natural_logs(values: sp.csr_matrix, where: str) -> tuple[sp.csr_matrix, list[Finding]]:
    """Bring logarithms of base 2 or 10 to base e; refuse square roots.

    The base is the one in which every value is the logarithm of one plus a whole number, or in
    which all spots share a total, or in which values are multiples of each spot's smallest.

    Args:
        values: (spots, genes) as read.
        where: The file, for messages.

    Raises:
        DataError: When the values are square roots of counts.
    """
    data = values.data[values.data != 0].astype(np.float64)
    if not data.size or data.min() < 0 or np.array_equal(data, np.rint(data)):
        return values, []
    if _whole_numbers(data**2):
        raise DataError(
            "expression values are square roots of counts",
            where=where,
            fix="Give counts, or their logarithms to base e",
        )
    if data.max() > _LOG2_MAX:
        return values, []
    for evidence in (_whole, _shared_total, _near_multiples):
        if evidence(values, 1.0):
            return values, []  # base e, as expected
        for base in (2.0, 10.0):
            if evidence(values, math.log(base)):
                out = values.astype(np.float32, copy=True)
                out.data *= np.float32(math.log(base))
                text = f"logarithms of base {base:g} brought to base e"
                return out, [Finding("log-base", data.size, data.size, text)]
    return values, []


def _whole(values: sp.csr_matrix, factor: float) -> bool:
    return _whole_numbers(np.expm1(values.data.astype(np.float64) * factor))


def _whole_numbers(values: np.ndarray) -> bool:
    """Whether values rebuilt from float32 are whole numbers, each within its own rounding.

    A value so large that its rounding could hide a fraction tells nothing; where most are, or one
    is beyond what a spot can count, the answer is no.
    """
    telling = values < _TELLING
    if values.max() > _MOST_COUNTS or 2 * telling.sum() <= len(values):
        return False
    small = values[telling]
    return bool((np.abs(small - np.rint(small)) < 1e-3 + 1e-6 * small).all())


def _shared_total(values: sp.csr_matrix, factor: float) -> bool:
    linear = values.astype(np.float64, copy=True)
    linear.data = np.expm1(linear.data * factor)
    return values.shape[0] > 2 and common_total(np.asarray(linear.sum(axis=1)).ravel())


def _near_multiples(values: sp.csr_matrix, factor: float) -> bool:
    scaled = values.astype(np.float64, copy=True)
    scaled.data *= factor
    return _multiples(scaled, exponential=True) > _CLEAR


def lognorm(values: sp.csr_matrix, kind: ValueKind) -> sp.csr_matrix:
    """Each spot scaled over ALL its measured genes to 10,000, then log1p; never done twice.

    Log-normalised input whose spots share a total is brought to the total of 10,000; where the
    total is lost (a subset of genes) it is used as it is.

    Args:
        values: (spots, genes) as read.
        kind: From `value_kind`.

    Returns:
        (spots, genes) CSR float32, log-normalised.

    Raises:
        DataError: For scaled values, which cannot be brought back.
    """
    if kind == "scaled":
        raise DataError("the expression is scaled (negative values)", fix="give counts instead")
    out = values.astype(np.float32, copy=True)
    if kind in ("log-normalised", "log-counts"):
        np.expm1(out.data, out=out.data)
    totals = np.asarray(out.sum(axis=1, dtype=np.float64)).ravel()
    if kind == "log-normalised" and not common_total(totals):
        return values.astype(np.float32, copy=True)
    scale = np.divide(TARGET_SUM, totals, out=np.zeros_like(totals), where=totals > 0)
    out.data *= np.repeat(scale, np.diff(out.indptr)).astype(np.float32)
    np.log1p(out.data, out=out.data)
    return out


def common_total(totals: np.ndarray) -> bool:
    """Whether all spots with any expression share one total, up to 1%."""
    used = totals[totals > 0]
    return bool(used.size and np.ptp(used) <= 0.01 * used.mean())


def _multiples(values: sp.csr_matrix, *, exponential: bool, spots: int = 50) -> float:
    """Share of values that are near-multiples of their spot's smallest value."""
    hits = total = 0
    for row in range(min(spots, values.shape[0])):
        data = values.data[values.indptr[row] : values.indptr[row + 1]].astype(np.float64)
        data = data[data > 0]
        data = np.expm1(data) if exponential else data
        if data.size < 2:
            continue
        ratio = data / data.min()
        hits += int((np.abs(ratio - np.rint(ratio)) < 0.02).sum())
        total += data.size
    return hits / total if total else 0.0
