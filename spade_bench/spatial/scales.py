"""What expression values are (counts, normalised, logarithms), and their normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy.sparse as sp

from spade_bench.errors import DataError
from spade_bench.spatial.findings import Finding

__all__ = ["TARGET_SUM", "ValueKind", "lognorm", "natural_logs", "value_kind"]

TARGET_SUM = 10_000.0
"""Total of every spot before log1p: a fixed target, so that samples share a scale."""

_LOG_MAX = 14.0  # log1p of a million: no log-normalised value lies above it
_LOG2_MAX = 20.0  # log2 of a million
_MOST_COUNTS = 1e6  # of one gene in one spot
_TELLING = 5e4  # below it, what float32 rounds away is far less than a half
_CLEAR = 0.95  # share of values from which a pattern counts
_ZERO = 1e-5  # what rounding leaves of a zero
_UNITS = 1000.0  # multiples up to which float32 tells whole from broken
_PARTS = np.arange(1, 101, dtype=np.float64)  # the smallest count of a spot is one of these
_SEVERAL = 4  # different values of a spot; fewer are multiples of some part of the smallest
_RATIOS = 200  # different values of a spot that are looked at
_SPOTS = 50  # spots that are looked at closely
_FEWEST = 10  # values from which multiples are no accident
ValueKind = Literal["counts", "normalised", "log-normalised", "log-counts", "scaled"]


def value_kind(values: sp.csr_matrix) -> ValueKind:
    """Tell counts from what is already normalised.

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
    """Bring logarithms of base 2 or 10 to base e; refuse square roots and their like.

    What was done to the counts is told by undoing it: every value is then a whole number, or all
    spots share a total, or the values of a spot are multiples of one unit.

    Args:
        values: (spots, genes) as read.
        where: The file, for messages.

    Raises:
        DataError: When the values are counts transformed in another way than by a logarithm.
    """
    data = values.data[values.data != 0].astype(np.float64)
    if not data.size or data.min() < 0 or np.array_equal(data, np.rint(data)):
        return values, []
    base = _transform(values, float(data.max()))
    if base is None:
        text = "the base of the logarithms cannot be told from the values: taken as base e"
        return values, [Finding("log-base-unknown", data.size, data.size, text)]
    if base in ("linear", "e"):
        return values, []
    if base not in _BASES:
        raise DataError(
            f"expression values are {base} of counts",
            where=where,
            fix="Give counts, or their logarithms to base e",
        )
    factor = math.log(_BASES[base])
    out = values.astype(np.float32, copy=True)
    out.data *= np.float32(factor)
    text = f"logarithms of base {base} brought to base e"
    return out, [Finding("log-base", data.size, data.size, text)]


def _transform(values: sp.csr_matrix, largest: float) -> str | None:
    """The transform whose undoing gives counts or shares of counts; None where none does."""
    logs = _LOGARITHMS if largest <= _LOG2_MAX else {}
    roots = {name: undo for name, undo in _ROOTS.items() if largest <= 20 or "sinh" not in name}
    known: _Undo = {**logs, "linear": _same}
    tries: list[tuple[_Undo, Callable[[sp.csr_matrix], bool]]] = [
        ({**logs, **roots}, _whole),
        ({**known, **roots}, _same_total),
        ({**known, **roots}, _share_units),
        (known, _similar_total),  # of values that were rounded, or of most genes
        (logs, _near_multiples),
    ]
    few = values[np.flatnonzero(np.diff(values.indptr))[:_SPOTS]]
    for transforms, evidence in tries:
        for name, undo in transforms.items():
            # A few spots rule out nearly everything; what they allow is held against all.
            if evidence(_undone(few, undo)) and evidence(_undone(values, undo)):
                return name
    return "linear" if largest > _LOG_MAX else None


def _undone(values: sp.csr_matrix, undo: Callable[[np.ndarray], np.ndarray]) -> sp.csr_matrix:
    out = values.astype(np.float64, copy=True)
    out.data = np.where(out.data == 0, 0.0, undo(out.data))
    out.data[np.abs(out.data) < _ZERO] = 0.0
    return out


def _same(data: np.ndarray) -> np.ndarray:
    return data


def _logarithm(base: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda data: np.asarray(np.expm1(data * math.log(base)))


def _freeman_tukey(data: np.ndarray) -> np.ndarray:
    return np.asarray(((data**2 - 1) / (2 * data)) ** 2)


_Undo = dict[str, Callable[[np.ndarray], np.ndarray]]
_BASES = {"2": 2.0, "10": 10.0}
_LOGARITHMS: _Undo = {"e": _logarithm(math.e)} | {k: _logarithm(b) for k, b in _BASES.items()}
_SHIFT = 2 * math.sqrt(3 / 8)  # what Anscombe's transform makes of zero
_ROOTS: _Undo = {
    "Anscombe transforms": lambda data: (data / 2) ** 2 - 3 / 8,  # first: negative if it is none
    "square roots": np.square,
    "Anscombe transforms shifted to zero": lambda data: ((data + _SHIFT) / 2) ** 2 - 3 / 8,
    "Freeman-Tukey transforms": _freeman_tukey,
    "Freeman-Tukey transforms shifted to zero": lambda data: _freeman_tukey(data + 1),
    "arcsinh transforms": np.sinh,
    "arcsinh transforms of square roots": lambda data: np.sinh(data) ** 2,
}
"""Transforms that stabilise the variance of counts, by how they are undone."""


def _whole(counts: sp.csr_matrix) -> bool:
    data = counts.data[counts.data != 0]
    return bool(data.size) and bool(data.min() > 0) and _whole_numbers(data)


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


def _same_total(linear: sp.csr_matrix) -> bool:
    if linear.data.size and linear.data.min() < 0:
        return False
    return linear.shape[0] > 2 and common_total(_totals(linear), 1e-4)


def _similar_total(linear: sp.csr_matrix) -> bool:
    return linear.shape[0] > 2 and common_total(_totals(linear))


def _totals(linear: sp.csr_matrix) -> np.ndarray:
    return np.asarray(linear.sum(axis=1)).ravel()


def _near_multiples(linear: sp.csr_matrix) -> bool:
    return _multiples(linear, exponential=False) > _CLEAR


def _share_units(linear: sp.csr_matrix, spots: int = _SPOTS) -> bool:
    """Whether the values of each spot are multiples of one unit, within the rounding of float32.

    The unit is the smallest value or a whole part of it: where all genes are expressed strongly,
    none has a count of one.
    """
    hits = total = 0
    for row in range(min(spots, linear.shape[0])):
        data = linear.data[linear.indptr[row] : linear.indptr[row + 1]]
        if data.size and data.min() < 0:
            return False
        data = data[data > 0]
        ratios = np.unique((data / data.min()).round(6))[1:_RATIOS] if data.size else data
        parts = _PARTS if ratios.size >= _SEVERAL else _PARTS[:1]
        units = ratios * parts[:, None]  # (parts, values)
        telling = units < _UNITS
        near = telling & (np.abs(units - np.rint(units)) < 1e-3 + 4e-6 * units)
        enough = telling.sum(axis=1) >= min(ratios.size, _SEVERAL)
        best = int((enough * near.sum(axis=1) / telling.sum(axis=1).clip(1)).argmax())
        hits, total = hits + int(near[best].sum()), total + int(telling[best].sum())
    return total >= _FEWEST and hits > _CLEAR * total


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
        raise DataError("the expression is scaled (negative values)", fix="Give counts instead")
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


def common_total(totals: np.ndarray, tolerance: float = 0.01) -> bool:
    """Whether all spots with any expression share one total, up to a relative difference."""
    used = totals[totals > 0]
    return bool(used.size and np.ptp(used) <= tolerance * used.mean())


def _multiples(values: sp.csr_matrix, *, exponential: bool, spots: int = _SPOTS) -> float:
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
