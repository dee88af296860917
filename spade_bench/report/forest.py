"""Forest plot: the paired difference of two encoders on every task, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spade_bench.files import atomic_path, file_name
from spade_bench.report.differences import Difference, summaries

__all__ = ["draw_forest"]


def draw_forest(differences: Sequence[Difference], out: Path) -> Path:
    """Draw the primary metric's difference of each task, head and protocol.

    Args:
        differences: What :func:`spade_bench.report.compare` found, of one pair of encoders.
        out: Folder of the picture.

    Returns:
        The file written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = sorted(
        summaries(differences),
        key=lambda d: (d.task, d.protocol, d.condition, d.head),
        reverse=True,
    )
    a, b = rows[0].a, rows[0].b
    figure = Figure(figsize=(8.5, 1.6 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
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
    path = out / f"forest-{file_name(a)}-{file_name(b)}.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path
