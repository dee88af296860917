"""Forest plot: the paired difference of two encoders on every task, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from spade_bench.report.differences import Difference, summaries
from spade_bench.report.naming import head_title, metric_title, protocol_title, task_title
from spade_bench.report.pictures import (
    DOUBLE_MM,
    GREY,
    PALETTE,
    Drawn,
    Look,
    Picture,
    left_out_of,
    print_figure,
    wrapped,
)

__all__ = ["forest_picture"]

_LABEL_MM = 62.0


def forest_picture(differences: Sequence[Difference], look: Look) -> Picture:
    """Return the picture of the primary metric's difference of each task, head and protocol.

    Args:
        differences: What :func:`spade_bench.report.compare` found, of one pair of encoders.
        look: Names and colours.
    """
    words = ("forest", differences[0].a, differences[0].b)
    return Picture("forest plot", words, partial(_draw, differences, look))


def _draw(differences: Sequence[Difference], look: Look) -> Drawn:
    rows = sorted(
        summaries(differences),
        key=lambda d: (d.task, d.protocol, d.condition, d.head),
        reverse=True,
    )
    a, b = look.name(rows[0].a), look.name(rows[0].b)
    labels = [wrapped(_label(d), _LABEL_MM, 6.5) for d in rows]
    tall = max(1 + label.count("\n") for label in labels)
    figure = print_figure(DOUBLE_MM, 20 + max(5.0, 3.0 * tall) * len(rows))
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=0.7)
    numbers = []
    for height, one in enumerate(rows):
        # Colour follows the adjusted p value, as the verdict does.
        clear = one.p_adjusted is not None and one.p_adjusted < 0.05 and bool(one.better)
        colour = "0.45" if not clear else PALETTE[0] if one.better == one.a else PALETTE[1]
        axes.plot([one.ci_low, one.ci_high], [height, height], color=colour)
        axes.plot(one.mean, height, "s", color=colour, markersize=3.5)
        axes.annotate(
            f"{one.mean:+.3f} [{one.ci_low:+.3f}, {one.ci_high:+.3f}]".replace("-", "−"),
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=6.5,
            annotation_clip=False,
        )
        numbers.append({
            "a": one.a, "b": one.b, "task": one.task, "head": one.head, "protocol": one.protocol,
            "condition": "; ".join(one.condition), "k_shot": one.k_shot, "metric": one.metric,
            "difference": one.mean, "ci_low": one.ci_low, "ci_high": one.ci_high, "p": one.p,
            "p_adjusted": one.p_adjusted, "better": one.better if clear else "",
        })  # fmt: skip
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"← {b} better    {a} minus {b}, 95% interval    {a} better →")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    mark = left_out_of({flag for one in rows for flag in one.flags})
    axes.set_title(f"{a} against {b}{mark}; coloured where p < 0.05 after Holm")
    return Drawn(figure, numbers[::-1])


def _label(one: Difference) -> str:
    place = (task_title(one.task), head_title(one.head), protocol_title(one.protocol),
             *one.condition)  # fmt: skip
    return f"{', '.join(place)} ({metric_title(one.metric)})"
