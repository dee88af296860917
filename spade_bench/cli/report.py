"""`spade-bench report`, `compare` and `cite`: what the stored results say and rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spade_bench.cli.options import JsonOption

if TYPE_CHECKING:
    from spade_bench.report import OverallRow, ReportRow, Resampler, RiskSplit, Series
    from spade_bench.report.loadedresults import Results

__all__ = ["cite", "compare", "report"]


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


CsvOption = Annotated[bool, typer.Option("--csv", help="Print csv instead of tables.")]
MarkdownOption = Annotated[
    bool, typer.Option("--markdown", help="Print Markdown instead of tables.")
]
LatexOption = Annotated[bool, typer.Option("--latex", help="Print LaTeX for the package booktabs.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        help="Write into a file instead; .md, .csv, .tex or .json says what, where no flag does."
    ),
]


def report(
    folders: FoldersArgument = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    as_markdown: MarkdownOption = False,
    as_latex: LatexOption = False,
    long: Annotated[
        bool,
        typer.Option("--long", help="One number per row in --csv, --markdown and --latex."),
    ] = False,
    out: OutOption = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="primary, all, or a metric's name. Default: all for --json and --long, else "
            "primary."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Instead: the metric within each level of a column of the cohort table, such as "
            "site, sex or stage, against all other levels."
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="With --by: the table, where it is not where the run had it."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Instead: your numbers beside published ones of the same task, encoder and "
            "metric, with their source and what differs.",
        ),
    ] = False,
    plots: Annotated[
        bool, typer.Option("--plots/--no-plots", help="Draw pictures into FOLDER/plots.")
    ] = True,
    figures: FiguresOption = "png",
    html: Annotated[
        Path | None,
        typer.Option(
            help="Also write the whole report as one page, such as report.html, that any browser "
            "opens without a network."
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `explain` wrote: the page links its worst-predicted cases to them."
        ),
    ] = None,
) -> None:
    """Print the leaderboard: means with 95% intervals, controls beside them."""
    from spade_bench import api, console
    from spade_bench.errors import UserError
    from spade_bench.report import leaderboard, overall, risk_splits
    from spade_bench.report import risk_split as logrank
    from spade_bench.report.overall import as_report_rows, over_several_tasks
    from spade_bench.report.pictures import figure_formats
    from spade_bench.results import stored_in

    formats = figure_formats(figures)
    form = _form(as_json, as_csv, as_markdown, as_latex, out)
    if long and form in {"", "json"}:
        raise UserError("--long is for --csv, --markdown and --latex")
    if maps is not None:
        _check_maps(maps, html)
    if table is not None and by is None:
        raise UserError("--table is for --by", fix="Give --by COLUMN too")
    others = {"--html": html, "--figures": figures != "png", "--long": long}
    _refuse_beside({"--by": by, "--published": published}, others)
    _check_targets(html, out, [*stored_in(_folders(folders)), *([table] if table else [])])
    results = api.load_results(_folders(folders))
    if by is not None:
        _by(results, by, metric or "primary", table, form, out)
        return
    if published:
        _published(results, metric or "all", form, out)
        return
    series, resampler = results.series, results.resampler
    wanted = metric or ("all" if long or form == "json" else "primary")
    splits = risk_splits(series, resampler)
    results.check_metric(wanted, (logrank.METRIC,) if splits else ())
    rows = leaderboard(series, resampler, wanted)
    every = overall(series, resampler)
    ranks = over_several_tasks(every)
    tests = logrank.as_report_rows(splits) if wanted in {"all", logrank.METRIC} else []
    everything = [*rows, *tests, *as_report_rows(ranks)]
    if form == "":
        _print(series, resampler, rows, ranks, splits, wanted)
    elif long:
        _write(_long(form, everything), out)
    else:
        _write(_wide(form, everything, results, ranks), out)
    if every and not ranks:
        console.say("no mean rank over tasks: all encoders share a single task")
    _absent(results)
    if plots:
        _plot(results, formats)
    if html is not None:
        results.to_html(html, maps=maps)
        console.say(f"the report as a page: {html}")
    _left_out(results)


def _check_maps(maps: Path, html: Path | None) -> None:
    from spade_bench.errors import UserError
    from spade_bench.report.page.maplinks import check_maps

    if html is None:
        raise UserError("--maps is for the page", fix="Give --html FILE too")
    check_maps(maps)


def _refuse_beside(tables: Mapping[str, object], others: Mapping[str, object]) -> None:
    """Refuse what a table of another kind cannot be, rather than leave it out in silence."""
    from spade_bench.errors import UserError

    asked = [name for name, value in tables.items() if value]
    for option in [*asked[1:], *(name for name, value in others.items() if value and asked)]:
        raise UserError(
            f"does not go with {asked[0]}", where=option, fix="Leave one of the two out"
        )


def _check_targets(html: Path | None, out: Path | None, inputs: Sequence[Path]) -> None:
    """Refuse files that cannot be written, or whose place something else needs."""
    from spade_bench.errors import UserError
    from spade_bench.files import check_target

    if html is not None:
        check_target(html, "--html", "report.html", inputs=inputs)
    if out is not None:
        check_target(out, "--out", "table.csv", inputs=inputs)
    if html is not None and out is not None and html.resolve() == out.resolve():
        raise UserError("names the file of --out too", where="--html", fix="Name two files")


def _by(
    results: Results, column: str, metric: str, table: Path | None, form: str, out: Path | None
) -> None:
    """Print a metric within each level of a column."""
    from spade_bench import console
    from spade_bench.errors import UserError
    from spade_bench.report.bylevels import levels_csv
    from spade_bench.report.terminal import print_legend, print_levels

    if form in {"markdown", "latex"}:
        raise UserError("--by is printed as a table, as csv or as JSON", fix="Use --csv or --json")
    if metric == "all":
        raise UserError("--by shows one metric", where="--metric", fix="Name it")
    rows = results.levels(column, metric, table)
    if form == "json":
        listed = [row.as_dict() for row in rows]
        _write(console.json_text("report", {"by": column, "rows": listed}), out)
    elif form == "csv":
        _write(levels_csv(rows), out)
    else:
        print_levels(rows)
        print_legend([flag for row in rows for flag in row.flags], _words(results.series))
    _left_out(results)


def _published(results: Results, metric: str, form: str, out: Path | None) -> None:
    """Print numbers of the folder beside published ones."""
    from spade_bench import console
    from spade_bench.errors import UserError
    from spade_bench.report import leaderboard
    from spade_bench.report.literature.published import COLUMNS, beside_published

    if form not in {"", "json"}:
        raise UserError("--published is printed as a table or as JSON", fix="Use --json")
    results.check_metric(metric, ())
    rows = beside_published(leaderboard(results.series, results.resampler, metric))
    if form == "json":
        listed = [row.as_dict() for row in rows]
        _write(console.json_text("report", {"published": listed}), out)
    else:
        console.table(
            "yours beside published numbers: protocols differ, see the last column",
            COLUMNS,
            [row.cells() for row in rows],
        )
    _left_out(results)


def _long(form: str, rows: Sequence[ReportRow]) -> str:
    """One number per row."""
    from spade_bench.report import tableformats
    from spade_bench.report.leaderboard import as_csv

    if form == "csv":
        return as_csv(rows)
    write = tableformats.markdown if form == "markdown" else tableformats.latex
    return write([tableformats.long_grid(rows)])


def _wide(
    form: str, rows: Sequence[ReportRow], results: Results, ranks: Sequence[OverallRow]
) -> str:
    """Encoders x tasks; JSON stays one number per row."""
    from spade_bench import console
    from spade_bench.report import tableformats, wide

    if form == "json":
        return console.json_text("report", {"rows": [row.as_dict() for row in rows]})
    tables = wide.wide_tables(rows, results.series, results.resampler, ranks)
    if form == "csv":
        return tableformats.wide_csv(tables)
    write = tableformats.markdown if form == "markdown" else tableformats.latex
    return write(tableformats.wide_grids(tables, _words(results.series)))


def compare(
    folders: FoldersArgument = None,
    a: Annotated[str, typer.Option("--a", help="First encoder.")] = "",
    b: Annotated[str, typer.Option("--b", help="Second encoder.")] = "",
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
    as_markdown: MarkdownOption = False,
    as_latex: LatexOption = False,
    out: OutOption = None,
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
    from spade_bench.files import check_target
    from spade_bench.report import tableformats
    from spade_bench.report import terminal as tables
    from spade_bench.report.figures.forest import forest_picture
    from spade_bench.report.pictures import Look, draw_pictures, figure_formats
    from spade_bench.results import stored_in

    formats = figure_formats(figures)
    form = _form(as_json, as_csv, as_markdown, as_latex, out)
    if not a or not b:
        raise UserError("two encoders are needed", fix="Give --a NAME --b NAME")
    if a == b:
        raise UserError(f"'{a}' is compared with itself", fix="Give two encoders")
    if out is not None:
        check_target(out, "--out", "table.csv", inputs=stored_in(_folders(folders)))
    results = api.load_results(_folders(folders))
    wanted = metric or ("all" if form == "json" else "primary")
    differences, shown, sentence = results.differences(a, b, wanted)
    if form == "json":
        listed = [difference.as_dict() for difference in shown]
        _write(console.json_text("compare", {"verdict": sentence, "differences": listed}), out)
    elif form == "csv":
        _write(tableformats.differences_csv(shown), out)
    elif form:
        grid = tableformats.differences_grid(shown, sentence)
        write = tableformats.markdown if form == "markdown" else tableformats.latex
        _write(write([grid]), out)
    else:
        title = f"{a} minus {b}, same episodes and cases"
        tables.print_differences(shown, title)
        tables.print_legend([flag for one in shown for flag in one.flags])
        console.paragraph(sentence)
    _absent(results)
    if plots:
        picture = forest_picture(differences, Look.of(results.series))
        draw_pictures([picture], results.folders[0] / "plots", formats)
    _left_out(results)


def cite(
    folders: FoldersArgument = None,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the BibTeX entries into a file instead.")
    ] = None,
) -> None:
    """Print BibTeX and a table of licences of the encoders, heads, tasks and data used."""
    from spade_bench import api, console, files
    from spade_bench.report.literature import citations
    from spade_bench.results import stored_in
    from spade_bench.results.runsettings import stored_settings

    if out is not None:
        inputs = stored_in(_folders(folders))
        files.check_target(out, "--out", "references.bib", inputs=inputs)
    results = api.load_results(_folders(folders))
    items = citations.used(results.series, stored_settings(results.folders, results.problems))
    entries = citations.bibtex(items)
    if out is not None:
        files.write_text(out, f"{entries}\n")
        console.say(f"wrote {out}")
    if as_json:
        listed = [item.as_dict() for item in items]
        console.emit_json("cite", {"used": listed, "bibtex": entries})
        _left_out(results)
        return
    if out is None:
        console.emit(f"{entries}\n")
    columns = ("kind", "name", "licence or terms", "gated", "cite")
    rows = [
        (one.kind, one.title, one.licence, "yes" if one.gated else "", one.key) for one in items
    ]
    console.table("Licences", columns, rows)
    _left_out(results)


_SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown", ".tex": "latex"}


def _form(as_json: bool, as_csv: bool, as_markdown: bool, as_latex: bool, out: Path | None) -> str:
    """Which format is wanted: empty for tables on the terminal.

    Raises:
        UserError: When several are, or a file's suffix says none or another, or it is no file.
    """
    from spade_bench.errors import UserError
    from spade_bench.files import check_target

    given = {"json": as_json, "csv": as_csv, "markdown": as_markdown, "latex": as_latex}
    wanted = [name for name, on in given.items() if on]
    if len(wanted) > 1:
        raise UserError("--json, --csv, --markdown and --latex exclude each other")
    if out is not None:
        check_target(out, "--out", "table.csv")
    if wanted and out is not None and _SUFFIXES.get(out.suffix.lower(), wanted[0]) != wanted[0]:
        raise UserError(
            f"'{out.name}' ends as {_SUFFIXES[out.suffix.lower()]} does, and --{wanted[0]} is "
            "given",
            where="--out", fix="Leave one of them out, or give the name another ending",
        )  # fmt: skip
    if wanted or out is None:
        return wanted[0] if wanted else ""
    if out.suffix.lower() not in _SUFFIXES:
        raise UserError(
            f"'{out.name}' does not say which format", where="--out",
            fix="Give --csv, --markdown, --latex or --json, or end the name in .csv, .md, .tex or "
            ".json",
        )  # fmt: skip
    return _SUFFIXES[out.suffix.lower()]


def _write(text: str, out: Path | None) -> None:
    """Print a result, or write it into a file."""
    from spade_bench import console, files

    if out is None:
        console.emit(text)
        return
    files.write_text(out, f"{text}\n")
    console.say(f"wrote {out}")


def _words(series: Sequence[Series]) -> dict[str, str]:
    """What flags of controls mean, in the words of the encoders that brought them."""
    return {f"control:{one.control}": one.description for one in series if one.description}


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
    times = Counter(problems)  # one damaged file takes many cells with it
    for problem, count in list(times.items())[:10]:
        console.warn(problem if count == 1 else f"{problem} ({count} results)")
    if len(times) > 10:
        console.warn(f"and {len(times) - 10} more")
    raise DataError(
        f"{len(problems)} stored result(s) are damaged and were left out",
        where=", ".join(map(str, results.folders)),
        fix="Repeat the `spade-bench run` command: it computes again what is missing. Remove lines "
        "of results.jsonl that are no results",
    )


def _print(
    series: Sequence[Series],
    resampler: Resampler,
    rows: Sequence[ReportRow],
    ranks: Sequence[OverallRow],
    splits: Sequence[RiskSplit],
    wanted: str,
) -> None:
    from spade_bench import console
    from spade_bench.report import against_base
    from spade_bench.report import terminal as tables

    tables.print_leaderboard(rows)
    tables.print_notes(rows)
    differences = against_base(series, resampler, wanted)
    if differences:
        title = f"{differences[0].a} minus {differences[0].b}"
        if len({(d.a, d.b) for d in differences}) > 1:
            title = "encoders minus their base encoder"
        tables.print_differences(differences, f"{title}, same episodes and cases")
    tables.print_risk_splits(splits)
    tables.print_overall(ranks)
    tables.print_failures(series)
    flags = [*(row.flags for row in rows), *(split.series.flags for split in splits)]
    tables.print_legend([flag for of_row in flags for flag in of_row], _words(series))
    rest = sorted({name for one in series for name in one.metrics} - {row.metric for row in rows})
    if rest:
        console.paragraph(f"also computed: {', '.join(rest)} (--metric NAME, or --metric all)")


def _plot(results: Results, formats: Sequence[str]) -> None:
    from spade_bench.report.loadedresults import KINDS, MORE_KINDS
    from spade_bench.report.pictures import draw_pictures

    kinds = [
        kind for kind in (*KINDS, *MORE_KINDS) if kind != "forest"
    ]  # of a pair, which `compare` draws
    pictures = [picture for kind in kinds for picture in results.pictures(kind)]
    draw_pictures(pictures, results.folders[0] / "plots", formats)


def _folders(folders: Sequence[Path] | None) -> list[Path]:
    """Return the folders that were named, or the workspace's.

    Raises:
        UserError: When there is neither.
    """
    from spade_bench import workspace as ws

    if folders:
        return list(folders)
    workspace = ws.load()
    if workspace is None:
        raise ws.need("the folder with results", "it as an argument")
    return [workspace.resolve(workspace.out) or workspace.out]
