"""Kaplan-Meier curves of the halves of the test cases with high and with low predicted risk."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.mainseries import is_survival, main_series
from spade_bench.report.pictures import Picture, described, panels
from spade_bench.report.risk_split import CaseRisks, case_risks, risk_splits
from spade_bench.report.series import Series
from spade_bench.report.values import Resampler

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

__all__ = ["km_band", "survival_pictures"]

_DAYS_A_YEAR = 365.25
_HALVES = (("low risk", False, "tab:blue"), ("high risk", True, "tab:red"))
_TICKS = 8


def survival_pictures(series: Sequence[Series], resampler: Resampler) -> list[Picture]:
    """Return a picture for every survival task and protocol: a panel per encoder, of its main head.

    Args:
        series: What :func:`spade_bench.report.series` found.
        resampler: Reads predictions.
    """
    return [
        Picture("Kaplan-Meier picture", (*place, "kaplan-meier"), partial(_draw, shown, resampler))
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


def _draw(shown: Sequence[Series], resampler: Resampler) -> Figure:
    cases = [case_risks(one, resampler) for one in shown]
    longest = max(float(one.days.max()) for one in cases) / _DAYS_A_YEAR
    figure, grid = panels(len(shown), height=3.9)
    for axes, one, risks in zip(grid, shown, cases, strict=False):
        _panel(axes, risks, longest)
        (split,) = risk_splits([one], resampler)
        axes.set_title(f"{one.encoder}\nlog-rank {_p(split.p)}", fontsize=9)
    grid[0].set_ylabel("probability of no event", fontsize=8)
    figure.suptitle(f"{described(shown)}: halves by predicted risk, 95% bands", fontsize=9)
    return figure


def _p(value: float | None) -> str:
    if value is None:
        return "undefined"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _panel(axes: Any, risks: CaseRisks, longest: float) -> None:
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    nice = MaxNLocator(_TICKS, steps=[1, 2, 5, 10]).tick_values(0, longest)
    ticks = [float(tick) for tick in nice if 0 <= tick <= longest]
    for place, (name, high, colour) in enumerate(_HALVES):
        mine = risks.high == high
        if not mine.any():
            continue
        event, days = risks.event[mine], risks.days[mine]
        times, values, band = km_band(event, days)
        years = times / _DAYS_A_YEAR
        axes.step(years, values, where="post", color=colour, linewidth=1.6,
                  label=f"{name}, {int(event.sum())} events in {len(days)}")  # fmt: skip
        if band is not None:
            axes.fill_between(years, *band, step="post", color=colour, alpha=0.15, linewidth=0)
        last = days[~event] / _DAYS_A_YEAR
        axes.plot(last, values[np.searchsorted(times, days[~event], "right") - 1], "|",
                  color=colour, markersize=4, alpha=0.6)  # fmt: skip
        for tick in ticks:
            at_risk = int((days / _DAYS_A_YEAR >= tick).sum())
            axes.annotate(f"{at_risk}", (tick, 0), xycoords=axes.get_xaxis_transform(),
                          xytext=(0, -38 - 10 * place), textcoords="offset points", ha="center",
                          fontsize=6.5, color=colour, annotation_clip=False)  # fmt: skip
    axes.legend(fontsize=6.5, loc="upper right", frameon=False)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlim(-0.02 * longest, 1.02 * longest)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("years; below: cases at risk", fontsize=8)
    axes.tick_params(labelsize=7)
