"""Kaplan-Meier curves of the halves of the test cases with high and with low predicted risk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from spade_bench.report.mainseries import is_survival, main_series
from spade_bench.report.pictures import (
    DOUBLE_MM,
    PALETTE,
    SINGLE_MM,
    Drawn,
    Look,
    Picture,
    described,
    panels,
    wrapped,
)
from spade_bench.report.risk_split import CaseRisks, case_risks, risk_splits
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["HazardRatio", "hazard_ratio", "km_band", "survival_pictures"]

_DAYS_A_YEAR = 365.25
_HALVES = (("low risk", False, PALETTE[0]), ("high risk", True, PALETTE[1]))
_TICKS = 6


def survival_pictures(series: Sequence[Series], resampler: Resampler, look: Look) -> list[Picture]:
    """Return a picture for every survival task and protocol: a panel per encoder, of its main head.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
        look: Names and colours.
    """
    return [
        Picture(
            "Kaplan-Meier picture",
            (*place, "kaplan-meier"),
            partial(_draw, shown, resampler, look),
        )
        for place, shown in main_series(series, resampler).items()
        if is_survival(shown[0], resampler)
    ]


def km_band(
    event: NDArray[np.bool_], days: Floats
) -> tuple[Floats, Floats, tuple[Floats, Floats] | None]:
    """Kaplan-Meier estimate with its 95% band by the exponential Greenwood formula.

    Args:
        event: (n,) True where the event happened.
        days: (n,) days.

    Returns:
        Days from 0 on, the probability of no event from each day on, and the ends of its band;
        None where nothing happened, so that the band says nothing.
    """
    import numpy as np
    from lifelines import KaplanMeierFitter

    fitted = KaplanMeierFitter().fit(days, event)
    curve = fitted.survival_function_
    band = fitted.confidence_interval_.to_numpy()
    times = curve.index.to_numpy(dtype=float)
    ends = (band[:, 0], band[:, 1]) if event.any() else None
    return times, np.asarray(curve.iloc[:, 0], dtype=float), ends


class HazardRatio(NamedTuple):
    """Hazard of the cases at high risk over that of the others, with its 95% interval."""

    ratio: float
    low: float
    high: float


def hazard_ratio(cases: CaseRisks) -> HazardRatio | None:
    """Compare the halves above and below the median risk by Cox regression.

    Returns:
        None where the ratio or an end of its interval is zero, infinite or not found: a half has
        no case or no event, or one half ends before the other begins.
    """
    import warnings

    import numpy as np
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning

    high = cases.high
    if not (cases.event[high].any() and cases.event[~high].any()):
        return None
    table = pd.DataFrame({"high": high.astype(float), "days": cases.days, "event": cases.event})
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        # What does not converge is told by its interval.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            fitted = CoxPHFitter().fit(table, "days", "event")
        except ConvergenceError:
            return None
        low, up = np.exp(fitted.confidence_intervals_.to_numpy()[0])
    found = HazardRatio(float(np.exp(fitted.params_.iloc[0])), float(low), float(up))
    return found if np.isfinite(found).all() and found.low > 0 else None


def _draw(shown: Sequence[Series], resampler: Resampler, look: Look) -> Drawn:
    cases = [case_risks(one, resampler) for one in shown]
    longest = max(float(one.days.max()) for one in cases) / _DAYS_A_YEAR
    figure, grid = panels(len(shown), height_mm=62, across=3)
    numbers: list[dict[str, Any]] = []
    for axes, one, risks in zip(grid, shown, cases, strict=False):
        (split,) = risk_splits([one], resampler)
        ratio = hazard_ratio(risks)
        common = {
            "task": one.task, "head": one.head, "protocol": one.protocol, "encoder": one.encoder,
            "name": look.name(one.encoder), "logrank_p": split.p,
            **(ratio._asdict() if ratio else dict.fromkeys(HazardRatio._fields)),
        }  # fmt: skip
        common |= {f"hazard_{key}": common.pop(key) for key in HazardRatio._fields}
        numbers += [{**common, **row} for row in _panel(axes, risks, longest)]
        axes.set_title(f"{look.name(one.encoder)}\n{_tested(split.p, ratio)}")
    grid[0].set_ylabel("Probability of no event")
    width = SINGLE_MM if len(grid) == 1 else DOUBLE_MM
    title = f"{described(shown)}: halves by predicted risk, 95% bands"
    figure.suptitle(wrapped(title, width - 4, 7.5))
    return Drawn(figure, numbers)


def _tested(p: float | None, ratio: HazardRatio | None) -> str:
    """Hazard ratio with its interval, and the log-rank test."""
    words = "undefined" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    if ratio is None:
        return f"log-rank {words}"
    return f"HR {ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], log-rank {words}"


def _panel(axes: Any, risks: CaseRisks, longest: float) -> list[dict[str, Any]]:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    nice = MaxNLocator(_TICKS, steps=[1, 2, 5, 10]).tick_values(0, longest)
    ticks = [float(tick) for tick in nice if 0 <= tick <= longest]
    numbers: list[dict[str, Any]] = []
    for place, (name, high, colour) in enumerate(_HALVES):
        mine = risks.high == high
        if not mine.any():
            continue
        event, days = risks.event[mine], risks.days[mine]
        times, values, band = km_band(event, days)
        years = times / _DAYS_A_YEAR
        axes.step(years, values, where="post", color=colour,
                  label=f"{name}, {int(event.sum())} events in {len(days)}")  # fmt: skip
        if band is not None:
            axes.fill_between(years, *band, step="post", color=colour, alpha=0.13, linewidth=0)
        last = days[~event] / _DAYS_A_YEAR
        axes.plot(last, values[np.searchsorted(times, days[~event], "right") - 1], "|",
                  color=colour, markersize=3.5, markeredgewidth=0.6, alpha=0.7)  # fmt: skip
        at_risk = [int((days >= time).sum()) for time in times]
        low, up = band if band is not None else (np.full(len(times), np.nan),) * 2
        numbers += [
            {"half": name, "years": years[i], "no_event": values[i], "ci_low": low[i],
             "ci_high": up[i], "at_risk": at_risk[i]}
            for i in range(len(times))
        ]  # fmt: skip
        for tick in ticks:
            left = int((days / _DAYS_A_YEAR >= tick).sum())
            axes.annotate(f"{left}", (tick, 0), xycoords=axes.get_xaxis_transform(),
                          xytext=(0, -34 - 8 * place), textcoords="offset points", ha="center",
                          fontsize=6.5, color=colour, annotation_clip=False)  # fmt: skip
    axes.legend(loc="upper right", borderaxespad=0.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.02 * longest, 1.02 * longest)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Years (below: cases at risk)")
    return numbers
