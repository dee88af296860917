"""Checks of measured values: numbers at all, outliers, mixed units, and classes in disguise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_bench.cohorts.checks.issues import Issue, error, note, warning
from spade_bench.cohorts.checks.tablerows import Target, case_labels
from spade_bench.cohorts.spelling import read_number

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["check_values"]

_FAR = 5.0  # robust standard deviations
_FEW = 20
_FEW_VALUES = 5
_TO_SIGMA = 1.4826  # from a median absolute deviation, of a normal distribution
# What the values of one unit are times those of another, and between which units.
_FACTORS = {
    365.25: "years and days",
    30.44: "months and days",
    12.0: "years and months",
    1000.0: "units a thousandfold apart, such as mm and m",
    100.0: "shares and percentages",
    10.0: "units a tenfold apart, such as mm and cm",
}
_NEAR = 0.25  # of a factor, as a difference of logarithms


def check_values(frame: pd.DataFrame, target: Target) -> list[Issue]:
    """Check the measured value of each case.

    Args:
        frame: The table as text, blanks as None.
        target: Names the column, and what values are plausible.
    """
    import numpy as np

    if target.label_column not in frame:
        return []
    text = case_labels(frame, target.label_column)
    if text.empty:
        return [error("values", "no case has a value", fix="Fill in the column of the target")]
    numbers = text.map(read_number)
    issues = _no_numbers(text[numbers.isna()])
    known = numbers.dropna().astype(float)
    if known.empty:
        return issues
    values = known.to_numpy()  # (n,)
    unit = f" {target.unit}" if target.unit else ""
    low, middle, high = np.quantile(values, [0.0, 0.5, 1.0])
    spread = f"{len(values)} cases: {low:.4g} to {high:.4g}{unit}, median {middle:.4g}"
    issues.append(note("values", spread, count=len(values)))
    if low == high:
        same = error("values", f"all cases have the value {low:g}", fix="Choose another column")
        return [*issues, same]
    if len(values) < _FEW:
        few = f"only {len(values)} cases: intervals will be very wide"
        issues.append(warning("values", few, count=len(values), fix="Find more cases"))
    distinct = np.unique(values)
    if len(distinct) <= _FEW_VALUES and len(values) >= _FEW:
        listed = ", ".join(f"{value:g}" for value in distinct)
        text_ = f"only {len(distinct)} different values ({listed}): classes written as numbers?"
        issues.append(warning("values", text_, distinct, fix="Then use kind: classification"))
    issues += _implausible(known, target)
    return issues + _outliers(known)


def _no_numbers(text: pd.Series) -> list[Issue]:
    if text.empty:
        return []
    wrong = [f"{case}: {value}" for case, value in text.items()]
    fix = "Write plain numbers, without units or thousands separators"
    if text.str.contains(",", regex=False).any():
        fix = "Use a decimal point, and no thousands separators"
    return [error("values", f"{len(wrong)} value(s) are not numbers", wrong, fix=fix)]


def _implausible(known: pd.Series, target: Target) -> list[Issue]:
    """Values outside of what the task's card says can be."""
    if len(target.plausible) != 2:
        return []
    low, high = target.plausible
    wrong = known[(known < low) | (known > high)]
    if wrong.empty:
        return []
    unit = f" {target.unit}" if target.unit else ""
    return [
        error(
            "values",
            f"{len(wrong)} value(s) lie outside of {low:g} to {high:g}{unit}, which the task says "
            "is all that can be",
            [f"{case}: {value:g}" for case, value in wrong.items()],
            fix="Correct them, or convert the column to the unit of the task",
        )
    ]


def _outliers(known: pd.Series) -> list[Issue]:
    """Values far from the others, and whether they look like another unit."""
    import numpy as np

    values = known.to_numpy()  # (n,)
    middle = float(np.median(values))
    sigma = _TO_SIGMA * float(np.median(np.abs(values - middle)))
    if sigma == 0:  # more than half are one value
        return []
    far = np.abs(values - middle) > _FAR * sigma  # (n,)
    if not far.any():
        return []
    named = [f"{case}: {value:g}" for case, value in known[far].items()]
    units = _mixed_units(values[far], values[~far])
    if units:
        text = f"{int(far.sum())} value(s) look like another unit than the rest ({units})"
        return [warning("units", text, named, fix="Write all values in one unit")]
    text = f"{int(far.sum())} value(s) lie more than {_FAR:g} robust standard deviations off"
    fix = "Look at them: they decide r2, and Spearman's correlation is not moved by them"
    return [warning("outliers", text, named, fix=fix)]


def _mixed_units(far: Floats, rest: Floats) -> str:
    """Between which units the outliers and the other values may be; empty where none fits."""
    import numpy as np

    usual = float(np.median(rest))
    if usual <= 0 or (far <= 0).any():
        return ""
    ratio = abs(float(np.log(np.median(far) / usual)))
    spread = float(np.ptp(np.log(far)))
    within = float(np.ptp(np.log(rest[rest > 0])))
    if len(far) < 2 or spread > within + 2 * _NEAR:
        return ""
    near = {abs(ratio - float(np.log(factor))): words for factor, words in _FACTORS.items()}
    return near[min(near)] if min(near) < _NEAR else ""
