"""`spade-bench report` and `spade-bench compare`: what the stored results say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import JsonOption

if TYPE_CHECKING:
    from spade_bench.report import OverallRow, ReportRow, Resampler, RiskSplit, Series
    from spade_bench.report.loadedresults import Results

__all__ = ["compare", "report"]


FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Folders that `run` wrote; several are read as one. Default: the workspace's."
    ),
]
FiguresOption = Annotated[
    str,
    typer.Option(
        help="Formats of the pictures, such as pdf,svg,png; numbers lie beside each as csv."
    ),
]


def report(
    folders: FoldersArgument = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print csv instead of tables.")] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown instead of tables.")
    ] = False,
    metric: Annotated[
        str | None,
        typer.Option(
            help="primary, all, or a metric's name. Default: all for --json, --csv and --markdown, "
            "else primary."
        ),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Draw pictures into FOLDER/plots.")
    ] = True,
    figures: FiguresOption = "png",
) -> None:
    """Print the leaderboard: means with 95% intervals, controls beside them."""
    from spade_bench import api, console
    from spade_bench.errors import UserError
    from spade_bench.report import leaderboard, overall, risk_splits
    from spade_bench.report import risk_split as logrank
    from spade_bench.report.leaderboard import as_csv as to_csv
    from spade_bench.report.leaderboard import as_markdown as to_markdown
    from spade_bench.report.overall import as_report_rows
    from spade_bench.report.pictures import figure_formats

    formats = figure_formats(figures)
    if as_json + as_csv + as_markdown > 1:
        raise UserError("--json, --csv and --markdown exclude each other")
    results = api.load_results(_folders(folders))
    series, resampler = results.series, results.resampler
    machine = as_json or as_csv or as_markdown
    wanted = metric or ("all" if machine else "primary")
    splits = risk_splits(series, resampler)
    results.check_metric(wanted, (logrank.METRIC,) if splits else ())
    rows = leaderboard(series, resampler, wanted)
    ranks = overall(series, resampler)
    tests = logrank.as_report_rows(splits) if wanted in {"all", logrank.METRIC} else []
    everything = [*rows, *tests, *as_report_rows(ranks)]
    if as_json:
        console.emit_json("report", {"rows": [row.as_dict() for row in everything]})
    elif as_csv:
        console.emit(to_csv(everything))
    elif as_markdown:
        console.emit(to_markdown(everything))
    else:
        _print(series, resampler, rows, ranks, splits)
    _absent(results)
    if plots:
        _plot(results, formats)
    _left_out(results)


def compare(
    folders: FoldersArgument = None,
    a: Annotated[str, typer.Option("--a", help="First encoder.")] = "",
    b: Annotated[str, typer.Option("--b", help="Second encoder.")] = "",
    as_json: JsonOption = False,
    metric: Annotated[
        str | None,
        typer.Option(help="primary, all, or a metric's name. Default: all for --json."),
    ] = None,
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Draw a forest plot into FOLDER/plots.")
    ] = True,
    figures: FiguresOption = "png",
) -> None:
    """Compare two encoders, a minus b, on the same episodes and test cases."""
    from spade_bench import api, console
    from spade_bench.errors import UserError
    from spade_bench.report import terminal as tables
    from spade_bench.report.figures.forest import forest_picture
    from spade_bench.report.pictures import Look, draw_pictures, figure_formats

    formats = figure_formats(figures)
    if not a or not b:
        raise UserError("two encoders are needed", fix="Give --a NAME --b NAME")
    if a == b:
        raise UserError(f"'{a}' is compared with itself", fix="Give two encoders")
    results = api.load_results(_folders(folders))
    wanted = metric or ("all" if as_json else "primary")
    differences, shown, sentence = results.differences(a, b, wanted)
    if as_json:
        listed = [difference.as_dict() for difference in shown]
        console.emit_json("compare", {"verdict": sentence, "differences": listed})
    else:
        title = f"{a} minus {b}, same episodes and cases"
        tables.print_differences(shown, title)
        tables.print_legend([flag for one in shown for flag in one.flags])
        console.emit(sentence)
    _absent(results)
    if plots:
        picture = forest_picture(differences, Look.of(results.series))
        draw_pictures([picture], results.folders[0] / "plots", formats)
    _left_out(results)


def _absent(results: Results) -> None:
    """Say how many planned cells have no result, whatever the format."""
    from spade_bench import console
    from spade_bench.results import absent_cells

    there = {row.run_id for one in results.series for row in (*one.rows, *one.failed)}
    for folder in results.folders:
        for text in absent_cells(folder, there, results.problems):
            console.warn(text)


def _left_out(results: Results) -> None:
    """Name what was damaged, after everything else has been shown.

    Raises:
        DataError: When anything was.
    """
    from spade_bench import console
    from spade_bench.errors import DataError

    problems = results.problems
    if not problems:
        return
    for problem in problems[:10]:
        console.warn(problem)
    if len(problems) > 10:
        console.warn(f"and {len(problems) - 10} more")
    raise DataError(
        f"{len(problems)} stored result(s) are damaged and were left out",
        where=", ".join(map(str, results.folders)),
        fix="Repeat the `spade-bench run` command: it computes again what is missing",
    )


def _print(
    series: Sequence[Series],
    resampler: Resampler,
    rows: Sequence[ReportRow],
    ranks: Sequence[OverallRow],
    splits: Sequence[RiskSplit],
) -> None:
    from spade_bench import console
    from spade_bench.report import against_base
    from spade_bench.report import terminal as tables

    tables.print_leaderboard(rows)
    tables.print_notes(rows)
    shown = {(row.task, row.metric) for row in rows}
    differences = [d for d in against_base(series, resampler) if (d.task, d.metric) in shown]
    if differences:
        title = f"{differences[0].a} minus {differences[0].b}"
        if len({(d.a, d.b) for d in differences}) > 1:
            title = "encoders minus their base encoder"
        tables.print_differences(differences, f"{title}, same episodes and cases")
    tables.print_risk_splits(splits)
    tables.print_overall(ranks)
    tables.print_failures(series)
    flags = [*(row.flags for row in rows), *(split.series.flags for split in splits)]
    words = {f"control:{one.control}": one.description for one in series if one.description}
    tables.print_legend([flag for of_row in flags for flag in of_row], words)
    rest = sorted({name for one in series for name in one.metrics} - {row.metric for row in rows})
    if rest:
        console.emit(f"also computed: {', '.join(rest)} (--metric NAME, or --metric all)")


def _plot(results: Results, formats: Sequence[str]) -> None:
    from spade_bench.report.loadedresults import KINDS
    from spade_bench.report.pictures import draw_pictures

    kinds = [kind for kind in KINDS if kind != "forest"]  # of a pair, which `compare` draws
    pictures = [picture for kind in kinds for picture in results.pictures(kind)]
    draw_pictures(pictures, results.folders[0] / "plots", formats)


def _folders(folders: Sequence[Path] | None) -> list[Path]:
    from spade_bench import workspace as ws

    if folders:
        return list(folders)
    workspace = ws.load()
    if workspace is None:
        raise ws.need("the folder with results", "it as an argument")
    return [workspace.resolve(workspace.out) or workspace.out]
