"""Puts the page together: other modules say what is on it, templates how it looks."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import printable
from spade_bench.files import write_text
from spade_bench.report import risk_split
from spade_bench.report.figures.forest import forest_picture
from spade_bench.report.flags import empty_cell, shared
from spade_bench.report.leaderboard import ReportRow
from spade_bench.report.literature.citations import bibtex, used, used_labels
from spade_bench.report.mainseries import main_series
from spade_bench.report.naming import (
    encoder_title,
    head_title,
    metric_title,
    protocol_title,
    task_title,
)
from spade_bench.report.overall import OverallRow, over_several_tasks, overall
from spade_bench.report.page import howmade, usedcards
from spade_bench.report.page.cohortflow import cohort_flows, stored_cohorts
from spade_bench.report.page.hardcases import hard_cases
from spade_bench.report.page.headline import (
    Pair,
    against_controls,
    cautions,
    compared_pairs,
)
from spade_bench.report.page.maplinks import find_maps, links_of
from spade_bench.report.page.resultsview import ResultsView
from spade_bench.report.page.standings import (
    MOST_ROWS,
    Standing,
    flag_meanings,
    report_rows,
    standings,
)
from spade_bench.report.page.subgroups import by_class, by_site
from spade_bench.report.page.svgfigures import SvgFigure, draw_figures
from spade_bench.report.pictures import Look
from spade_bench.report.series import Series
from spade_bench.results.runsettings import stored_settings

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["render_page", "write_page"]

MOST_GENES = 2_000
"""Rows of the table of genes on the page; csv files and Python have all."""
_PACKAGE = "spade_bench.report.page"
_KINDS = ("dots", "heat", "curve", "cv", "ranks", "roc", "pr", "scatter", "calibration",
          "survival", "genes", "spots")  # fmt: skip


def write_page(results: ResultsView, path: Path, maps: Path | None = None) -> None:
    """Write the report as one HTML file that needs no network.

    Args:
        results: The results.
        path: The file.
        maps: Folder that `explain` wrote, to which the worst-predicted cases are linked.

    Raises:
        DataError: When the folder of maps is not there or empty.
    """
    write_text(path, render_page(results, maps, path.resolve().parent))


def render_page(results: ResultsView, maps: Path | None = None, home: Path | None = None) -> str:
    """Return the page as text; see :func:`write_page`.

    Args:
        results: The results.
        maps: Folder that `explain` wrote.
        home: Folder of the page, from which links to maps start; None for the working folder.
    """
    content = _content(results, maps, home or Path.cwd())
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html.j2")
    return template.render(
        **content, style=_resource("page.css"), script=script, script_hash=f"sha256-{digest}"
    )


def _genes(results: ResultsView) -> list[dict[str, Any]]:
    """Genes of every encoder and head, best first within each; NaN becomes None."""
    table = results.genes()
    return [
        {str(k): None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in table.to_dict("records")
    ]


def _content(results: ResultsView, maps: Path | None, home: Path) -> dict[str, Any]:
    from spade_bench.results.rows import now
    from spade_bench.version import __version__

    series, resampler = results.series, results.resampler
    cohorts = stored_cohorts(results.folders, results.problems)
    settings = stored_settings(results.folders, results.problems)
    missing = results.coverage().to_dict("records")
    rows = report_rows(results)
    whole = len(rows) <= MOST_ROWS
    shown = rows if whole else report_rows(results, "primary")
    tables = standings(shown)
    ranks = overall(series, resampler)
    pairs = compared_pairs(results, ranks)
    figures, left_out = _figures(results, pairs)
    sites = {one.cohort: one.sites for one in cohorts}
    words = {f"control:{one.control}": one.description for one in series if one.description}
    meanings = flag_meanings([*rows, *_as_rows(ranks)], words)
    rests_on = used(series, settings)
    labels, exposed = usedcards.exposures(results)
    return {
        "version": __version__,
        "written": now(),
        "folders": howmade.folders(results),
        "encoders": sorted({one.encoder for one in series if not one.control}),
        "tasks": list(dict.fromkeys(one.task for one in series)),
        "cautions": cautions(results, rows),
        "pairs": pairs,
        "against_controls": against_controls(pairs),
        "summary": _summary(series, results, rows),
        "standings": tables,
        "standing_data": _data(tables, meanings, results),
        "meanings": meanings,
        "whole": whole,
        "ranks": _by_place(over_several_tasks(ranks)),
        "one_task_only": bool(ranks) and not over_several_tasks(ranks),
        "figures": figures,
        "genes": _genes(results) if figures.get("genes") else [],
        "most_genes": MOST_GENES,
        "figures_left_out": [", ".join(one.words) for one in left_out],
        "splits": risk_split.risk_splits(series, resampler),
        "classes": by_class(series, resampler),
        "sites": by_site(series, resampler, sites),
        "hard": hard_cases(series, resampler),
        "maps": find_maps(maps, home) if maps is not None else [],
        "flows": cohort_flows(results, cohorts),
        "missing": missing,
        "failed": [one for one in series if one.failed],
        "problems": results.problems,
        "exposed_labels": labels,
        "exposed": exposed,
        "used_encoders": usedcards.used_encoders(results, settings),
        "used_tasks": usedcards.used_tasks(results, settings),
        "used_heads": usedcards.used_heads(results),
        "used_data": [one for one in rests_on if one.kind == "data"],
        "bibtex": bibtex(rests_on),
        "runs": howmade.run_settings(settings, list(used_labels(series))),
        "environments": howmade.environments(results),
    }


def _figures(
    results: ResultsView, pairs: Sequence[Pair]
) -> tuple[dict[str, list[SvgFigure]], list]:
    """Draw every figure: those of comparisons first, in case there are too many for a page."""
    look = Look.of(results.series)
    drawn = [
        ("forest", forest_picture(pair.differences, look)) for pair in pairs if not pair.is_control
    ]
    drawn += [(kind, one) for kind in _KINDS for one in results.pictures(kind)]
    figures, left_out = draw_figures([picture for _, picture in drawn])
    by_kind: dict[str, list[SvgFigure]] = {kind: [] for kind in ("forest", *_KINDS)}
    for (kind, _), figure in zip(drawn, figures, strict=False):
        by_kind[kind].append(figure)
    return by_kind, left_out


def _summary(
    series: Sequence[Series], results: ResultsView, rows: Sequence[ReportRow]
) -> list[dict[str, Any]]:
    """The one number of each encoder and task that most readers want, from the rows."""
    by_key = {
        (r.encoder, r.task, r.head, r.protocol, r.k_shot, r.metric, r.condition,
         "ensemble" in r.flags): r
        for r in rows
        if not r.control
    }  # fmt: skip
    out = []
    for shown in main_series(series, results.resampler).values():
        first = shown[0]
        cells = [
            by_key[s.encoder, s.task, s.head, s.protocol, s.k_shot, s.metrics[0], s.condition,
                   "ensemble" in s.flags]
            for s in shown
        ]  # fmt: skip
        out.append({"series": first, "metric": first.metrics[0], "cells": cells})
    return out


def _data(
    tables: Sequence[Standing], meanings: dict[str, str], results: ResultsView
) -> dict[str, Any]:
    """What the script of the page draws the leaderboard from."""
    from spade_bench.statistics.evaluate import direction

    order = {flag: at for at, flag in enumerate(meanings)}
    metrics = {metric for one in tables for metric in one.metrics}
    data: dict[str, Any] = _shown(
        {
            "flags": list(meanings.items()),
            "titles": {name: metric_title(name) for name in sorted(metrics)},
            "tasks": {one.task: task_title(one.task) for one in tables},
            "directions": {
                name: -1 if name == risk_split.METRIC else direction(name)
                for name in sorted(metrics)
            },
            "tables": [
                {**one.as_data(order), "chance": chance_levels(one, results)} for one in tables
            ],
        }
    )
    return data


def chance_levels(standing: Standing, results: ResultsView) -> dict[str, float]:
    """Value of each metric for predictions that know nothing, where there is one."""
    from spade_bench.statistics.evaluate import chance

    rows = [row for one in results.series for row in one.rows if one.task == standing.task]
    n = len(results.resampler.predictions(rows[0]).classes) if rows else 0
    levels = {name: chance(name, n) for name in standing.metrics if name != risk_split.METRIC}
    return {name: level for name, level in levels.items() if level is not None}


def _by_place(ranks: Sequence[OverallRow]) -> list[list[OverallRow]]:
    places = dict.fromkeys((row.protocol, row.condition) for row in ranks)
    return [[r for r in ranks if (r.protocol, r.condition) == place] for place in places]


def _as_rows(ranks: Sequence[OverallRow]) -> list[ReportRow]:
    from spade_bench.report.overall import as_report_rows

    return as_report_rows(ranks)


def _shown(value: Any) -> Any:
    """The value with every text made harmless for the reading direction."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): _shown(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shown(one) for one in value]
    return value


def _environment() -> Environment:
    """The templates: everything is escaped, and what is not there is an error."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_resource),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "number": _number,
        "p": _p,
        "interval": _interval,
        "share": _share,
        "time": _time,
    }
    environment.globals |= {
        "plot_scale": plot_scale,
        "place": _place,
        "empty_cell": empty_cell,
        "shared": shared,
        "links_of": links_of,
    }
    environment.filters |= {
        "encoder": encoder_title,
        "head": head_title,
        "task": task_title,
        "metric": metric_title,
        "protocol": protocol_title,
    }
    return environment


def _resource(name: str) -> str:
    return (resources.files(_PACKAGE) / name).read_text(encoding="utf-8")


def plot_scale(values: Sequence[float | None], level: float | None) -> tuple[float, float]:
    """Ends of the axis of small interval plots: tenths around all values and the chance level."""
    known = [v for v in (*values, level) if v is not None and math.isfinite(v)]
    if not known:
        return 0.0, 1.0
    low, high = math.floor(10 * min(known)) / 10, math.ceil(10 * max(known)) / 10
    return (low, high) if high > low else (low, low + 0.1)


def _place(one: Any) -> str:
    """Protocol, shots and condition of a series or a number, in words."""
    shot = (f"k={one.k_shot}",) if one.k_shot is not None else ()
    return ", ".join((protocol_title(one.protocol), *shot, *one.condition))


def _number(value: float | None, metric: str = "") -> str:
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    return _p(value) if metric == risk_split.METRIC else f"{value:.3f}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None or high is None:
        return ""
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "\N{EN DASH}"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _time(stamp: str) -> str:
    """A time as people write it, of one in ISO 8601."""
    return f"{stamp[:10]} {stamp[11:16]} UTC" if stamp.endswith("Z") else stamp


def _share(value: float | None) -> str:
    return "\N{EN DASH}" if value is None or not math.isfinite(value) else f"{100 * value:.0f}%"
