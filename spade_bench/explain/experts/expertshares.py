"""How much of each slide each expert has: tables, by slide and by what a table says of the slides.

Shares are of patches, by nearest expert. A case has the patches of all its slides; a site, an organ
or a label is the mean over its cases, so that no case counts for more because its tissue is large.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.cohorts.tables import read_table
from spade_bench.console import warn
from spade_bench.errors import DataError, name_some
from spade_bench.explain.colours import category_colours
from spade_bench.explain.experts.expertmaps import ExpertMap, expert_name
from spade_bench.report.pictures import new_figure, wrapped

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["GROUPS", "expert_shares", "plot_shares", "shares_by", "slide_facts"]

GROUPS = ("site", "organ", "label")
"""Columns of a table that shares are shown by where it has them."""
_MM = 1 / 25.4
_TITLE_PT = 8.0
_MOST_NAMES = 60  # slides whose names can be read below bars


def expert_shares(maps: Sequence[ExpertMap]) -> pd.DataFrame:
    """Return the share of patches nearest to each expert: a row per slide, a column per expert.

    The index is `slide_id`; `patches` counts them.
    """
    import pandas as pd

    rows: dict[str, dict[str, float]] = {}
    for one in maps:
        names = [expert_name(e, one.routing.n_experts) for e in range(one.routing.n_experts)]
        shares = one.routing.shares().tolist()
        rows[one.slide_id] = {
            "patches": len(one.routing.expert), **dict(zip(names, shares, strict=True))
        }  # fmt: skip
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("slide_id").fillna(0.0)
    return frame.astype({"patches": int}) if len(frame) else frame


def slide_facts(table: Path | pd.DataFrame, slides: Sequence[str]) -> pd.DataFrame:
    """Return what a table says of slides: `case_id` and what else there is, by `slide_id`.

    Args:
        table: A cohort table: csv or DataFrame with `slide_id`.
        slides: The slides that are asked for; those that the table lacks are named and left out.

    Raises:
        DataError: When there is no column `slide_id`, or it has none of the slides.
    """
    import pandas as pd

    where = str(table) if isinstance(table, Path) else "table"
    frame = table.copy() if isinstance(table, pd.DataFrame) else read_table(table)
    if "slide_id" not in frame:
        raise DataError(
            f"missing column slide_id (found {name_some(list(map(str, frame.columns)), 12)})",
            where=where,
            fix="Name the column with the slides slide_id",
        )
    frame = frame[frame["slide_id"].notna()]
    frame = frame.assign(slide_id=frame["slide_id"].astype(str))
    frame = frame.drop_duplicates("slide_id").set_index("slide_id")
    known = [name for name in slides if name in frame.index]
    if not known:
        raise DataError(
            f"has none of the {len(slides)} slides, such as '{slides[0]}'",
            where=where,
            fix="Write the names of the feature files into the column slide_id",
        )
    if len(known) < len(slides):
        absent = [name for name in slides if name not in frame.index]
        warn(f"{where}: lacks {len(absent)} of {len(slides)} slides ({name_some(absent, 3)})")
    return frame.loc[known]


def shares_by(shares: pd.DataFrame, facts: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the shares of the groups of a column, beside their number of `cases` and `slides`.

    Args:
        shares: From `expert_shares`.
        facts: From `slide_facts`.
        column: Such as `case_id`, `site`, `organ` or `label`; slides without a value are left out.
    """
    import pandas as pd

    inside = shares.join(facts, how="inner")
    if column not in inside:
        raise DataError(
            f"has no column '{column}' (found {name_some(list(map(str, facts.columns)), 12)})",
            where="table",
            fix="Name a column that it has",
        )
    inside = inside[inside[column].notna()]
    experts = [name for name in shares.columns if name != "patches"]
    case = inside["case_id"] if "case_id" in inside else pd.Series(inside.index, inside.index)
    keys = [inside[column], case.rename("case of it")]
    counts = inside[experts].mul(inside["patches"], axis=0).groupby(keys).sum()  # a row per case
    patches = inside["patches"].groupby(keys).sum()
    cases = counts.div(patches.clip(lower=1), axis=0)
    grouped = cases.groupby(level=0)
    out: pd.DataFrame = grouped.mean()
    out.insert(0, "cases", grouped.size())
    out.insert(1, "slides", inside.groupby(column).size())
    return out.rename_axis(column)


def plot_shares(shares: pd.DataFrame, title: str, *, marks: Sequence[str] = ()) -> Figure:
    """Draw stacked bars of the shares: a bar per row, the experts as colours.

    Rows are ordered by their largest expert and its share, so that likeness is seen.

    Args:
        shares: From `expert_shares` or `shares_by`.
        title: What the picture shows.
        marks: What a reader must know, such as "simulated data".
    """
    import numpy as np

    experts = [name for name in shares.columns if name not in ("patches", "cases", "slides")]
    values = shares[experts].to_numpy(dtype=float)  # (rows, K)
    if len(values):
        main = values.argmax(axis=1)
        order = np.lexsort((-values[np.arange(len(values)), main], main))
        shares, values = shares.iloc[order], values[order]
    used = [e for e in range(len(experts)) if values[:, e].any()]
    wide = float(np.clip(25 + 3.2 * len(values) + 28, 85, 180)) * _MM
    named = len(values) <= _MOST_NAMES
    figure = new_figure(wide, 70 * _MM if not named else 82 * _MM)
    axes = figure.add_subplot()
    colours, bottom = category_colours(len(experts)), np.zeros(len(values))
    gap = 0.0 if not named else 0.12
    for e in used:
        axes.bar(np.arange(len(values)), values[:, e], 1 - gap, bottom, color=colours[e],
                 label=experts[e], linewidth=0)  # fmt: skip
        bottom += values[:, e]
    axes.set_xlim(-0.6, max(len(values), 1) - 0.4)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of patches", fontsize=7)
    axes.tick_params(labelsize=6.5)
    kind = str(shares.index.name or "slide_id")
    word = {"slide_id": "slides", "case_id": "cases"}.get(kind, kind)
    if named:
        turned = len(values) > 6 or max((len(str(n)) for n in shares.index), default=0) > 12
        axes.set_xticks(np.arange(len(values)), list(map(str, shares.index)),
                        rotation=90 if turned else 0)  # fmt: skip
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(values):,} {word}", fontsize=7)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=6.5,
                ncols=1 + len(used) // 17, handlelength=1.0)  # fmt: skip
    texts = [title, *(["; ".join(marks)] if marks else [])]
    above = "\n".join(wrapped(text, wide / _MM - 4, _TITLE_PT) for text in texts)
    figure.suptitle(above, fontsize=_TITLE_PT, ha="left", x=0.01)
    return figure
