"""The picture of robustness: indices with intervals beside the distribution of margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from spade_bench.report.pictures import (
    DOUBLE_MM,
    GREY,
    INK,
    Drawn,
    Look,
    Picture,
    left_out_of,
    print_figure,
    wrapped,
)
from spade_bench.robustness.assessment import Assessed
from spade_bench.robustness.perturbations import Changed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.robustness.sitepoints import PointSet

__all__ = ["changes_picture", "robustness_picture"]

_LABEL_MM = 42.0


def robustness_picture(
    rows: Sequence[Assessed],
    margins: Mapping[str, NDArray[np.float64]],
    points: PointSet,
    simulated: bool = False,
) -> Picture:
    """Return the picture: a line per encoder and control, the best encoder on top.

    Args:
        rows: What was measured.
        margins: Margins of usable anchors, by encoder.
        points: The points.
        simulated: Whether the data are simulated.
    """
    make = partial(_draw, rows, margins, points, simulated)
    return Picture("robustness picture", ("robustness", points.by, points.kind), make)


def _draw(
    rows: Sequence[Assessed],
    margins: Mapping[str, NDArray[np.float64]],
    points: PointSet,
    simulated: bool,
) -> Drawn:
    ordered = _ordered(rows)
    mains = sorted(row.encoder for row in rows if row.control in {"", "base"})
    look = Look({name: at for at, name in enumerate(mains)})
    figure = print_figure(DOUBLE_MM, 24 + 6.5 * len(ordered))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.0, 1.0))
    names = [wrapped(look.name(r.encoder, r.control, r.control_of), _LABEL_MM, 6.5)
             for r in ordered]  # fmt: skip
    for height, row in enumerate(ordered):
        colour = GREY if row.control not in {"", "base"} else look.colour(row.encoder)
        _index(left, height, row, colour)
        _margin(right, height, margins[row.encoder], colour)
    chances = {round(row.chance, 6) for row in ordered if row.chance is not None}
    same_chance = len(chances) == 1
    if same_chance:
        chance = chances.pop()
        left.axvline(chance, color=GREY, linewidth=0.7, linestyle="--", zorder=0)
        side = (-3, "right") if chance > 0.5 else (3, "left")
        # In a line of its own above all encoders, so that it covers none of their numbers.
        left.annotate("neighbours at random", (chance, len(ordered) - 0.1), (side[0], 0),
                      textcoords="offset points", ha=side[1], va="center", fontsize=6.5,
                      color=INK)  # fmt: skip
    left.set_xlim(0, 1)
    left.set_yticks(range(len(ordered)), names)
    left.set_ylim(-0.6, len(ordered) + (0.3 if same_chance else -0.4))
    left.set_xlabel(f"Robustness index (k = {ordered[0].k}), 95% interval over cases")
    right.axvline(0, color=GREY, linewidth=0.7, zorder=0)
    centre = points.by.replace("_", " ")
    what = f"own class elsewhere less other class at own {centre}"
    right.set_xlabel(
        f"Margin in SD of similarity:\n{what}\n(mark: median, bar: 25% to 75%, line: 5% to 95%)"
    )
    right.locator_params(axis="x", nbins=6)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    marks = left_out_of({"simulated"} if simulated else ())
    title = (
        f"{ordered[0].anchors} of {ordered[0].points} {points.kind} are usable anchors, "
        f"{len(points.labels)} classes at {len(points.centres)} centres by "
        f"{points.by.replace('_', ' ')}{marks}"
    )
    figure.suptitle(wrapped(title, DOUBLE_MM - 4, 7.5))
    return Drawn(figure, [_number(row) for row in reversed(ordered)])


def _ordered(rows: Sequence[Assessed]) -> list[Assessed]:
    """From the bottom up: encoders by their index, the controls of each below it."""

    def index(row: Assessed) -> float:
        return -1.0 if row.robustness_index is None else row.robustness_index

    mains = {row.encoder: index(row) for row in rows if not row.control}

    def place(row: Assessed) -> tuple[float, str, bool, float, str]:
        owner = row.encoder if not row.control else row.control_of
        return (mains.get(owner, -2.0), owner, not row.control, index(row), row.encoder)

    return sorted(rows, key=place)


def _index(axes: Any, height: int, row: Assessed, colour: str) -> None:
    if row.robustness_index is None:
        axes.text(0.02, height, "undefined", va="center", fontsize=6.5, color=INK)
        return
    if row.ci_low is not None and row.ci_high is not None:
        axes.plot([row.ci_low, row.ci_high], [height, height], color=colour)
    axes.plot(row.robustness_index, height, "o" if row.control else "s", color=colour)
    axes.annotate(f"{row.robustness_index:.2f}", (row.robustness_index, height), (0, 4),
                  textcoords="offset points", ha="center", fontsize=6.5, color=INK)  # fmt: skip


def _margin(axes: Any, height: int, margin: NDArray[np.float64], colour: str) -> None:
    """Draw a box from the 25% to the 75% quantile, with whiskers to the 5% and 95% ones."""
    import numpy as np

    low, q25, middle, q75, high = np.quantile(margin, [0.05, 0.25, 0.5, 0.75, 0.95])
    axes.plot([low, high], [height, height], color=colour, linewidth=0.8)
    axes.plot([q25, q75], [height, height], color=colour, linewidth=4.0, alpha=0.5,
              solid_capstyle="butt")  # fmt: skip
    axes.plot(middle, height, "|", color=colour, markersize=7, markeredgewidth=1.4)


def _number(row: Assessed) -> dict[str, Any]:
    margins = row.margins
    return {
        "encoder": row.encoder, "control": row.control, "robustness_index": row.robustness_index,
        "ci_low": row.ci_low, "ci_high": row.ci_high, "chance": row.chance, "anchors": row.anchors,
        "k": row.k, "margin_mean": margins and margins.mean, "margin_q05": margins and margins.q05,
        "margin_below_zero": margins and margins.below_zero,
    }  # fmt: skip


def changes_picture(rows: Sequence[Changed]) -> Picture:
    """Return the picture of changed patches: cosine to themselves, and what a probe loses."""
    return Picture("picture of changes", ("changes",), partial(_draw_changes, rows))


def _draw_changes(rows: Sequence[Changed]) -> Drawn:
    ordered = list(reversed(rows))
    look = Look({name: at for at, name in enumerate(sorted({row.encoder for row in rows}))})
    probed = [row for row in rows if row.drop is not None]
    figure = print_figure(DOUBLE_MM, 26 + 6.5 * len(rows))
    axes = figure.subplots(1, 2 if probed else 1, sharey=True, squeeze=False)[0]
    for height, row in enumerate(ordered):
        colour = look.colour(row.encoder)
        axes[0].plot([row.cosine_q05, row.cosine], [height, height], color=colour, linewidth=0.8)
        axes[0].plot([row.cosine_low, row.cosine_high], [height, height], color=colour,
                     linewidth=3.0, alpha=0.5, solid_capstyle="butt")  # fmt: skip
        axes[0].plot(row.cosine, height, "o", color=colour)
        if row.drop is not None:
            axes[1].plot([row.drop_low, row.drop_high], [height, height], color=colour)
            axes[1].plot(row.drop, height, "s", color=colour)
    names = [wrapped(f"{look.name(row.encoder)}: {row.change}", _LABEL_MM, 6.5) for row in ordered]
    axes[0].set_yticks(range(len(ordered)), names)
    axes[0].set_ylim(-0.6, len(ordered) - 0.4)
    axes[0].set_xlabel("Cosine of a patch to itself changed\n(thin line: to the 5% quantile)")
    if probed:
        axes[1].axvline(0, color=GREY, linewidth=0.7, zorder=0)
        axes[1].set_xlabel("AUROC of a probe on changed\nless on unchanged patches")
    for one in axes:
        one.tick_params(axis="y", length=0)
        one.spines["left"].set_visible(False)
    title = (f"{rows[0].patches} patches, changes of strength {rows[0].strength:g}, "
             "95% intervals over slides")  # fmt: skip
    figure.suptitle(wrapped(title, DOUBLE_MM - 4, 7.5))
    return Drawn(figure, [row.as_dict() for row in rows])
