"""Forest plot: the paired difference of two encoders on every task, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from spade_bench.report.differences import Difference, summaries
from spade_bench.report.pictures import Picture, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["forest_picture"]


def forest_picture(differences: Sequence[Difference]) -> Picture:
    """Return the picture of the primary metric's difference of each task, head and protocol.

    Args:
        differences: What :func:`spade_bench.report.compare` found, of one pair of encoders.
    """
    words = ("forest", differences[0].a, differences[0].b)
    return Picture("forest plot", words, partial(_draw, differences))


def _draw(differences: Sequence[Difference]) -> Figure:
    rows = sorted(
        summaries(differences),
        key=lambda d: (d.task, d.protocol, d.condition, d.head),
        reverse=True,
    )
    a, b = rows[0].a, rows[0].b
    figure = new_figure(8.5, 1.6 + 0.34 * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for height, one in enumerate(rows):
        # Colour follows the adjusted p value, as the verdict does.
        clear = one.p_adjusted is not None and one.p_adjusted < 0.05 and bool(one.better)
        colour = "0.45" if not clear else "tab:blue" if one.better == a else "tab:red"
        axes.plot([one.ci_low, one.ci_high], [height, height], color=colour, linewidth=1.6)
        axes.plot(one.mean, height, "s", color=colour, markersize=5)
        axes.annotate(
            f"{one.mean:+.3f} [{one.ci_low:+.3f}, {one.ci_high:+.3f}]",
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            annotation_clip=False,
        )
    labels = [f"{', '.join((d.task, d.head, d.protocol, *d.condition))} ({d.metric})" for d in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"worse ← {a} minus {b} → better, 95% interval")
    simulated = " (simulated data)" if any("simulated" in d.flags for d in rows) else ""
    axes.set_title(f"{a} against {b}{simulated}; coloured: 5% after Holm", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure
