"""Tables of a report as Markdown, csv and LaTeX, for papers and spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from spade_bench.escaping import csv_cell, latex_cell, markdown_cell
from spade_bench.report.differences import Difference
from spade_bench.report.flags import OF_CELLS, code, empty_cell, explain
from spade_bench.report.leaderboard import COLUMNS, ReportRow, number
from spade_bench.report.naming import (
    encoder_title,
    head_title,
    metric_title,
    protocol_title,
    task_title,
)
from spade_bench.report.wide import BEST, TIE, UNTESTED, Column, WideRow, WideTable

__all__ = ["Grid", "differences_csv", "differences_grid", "latex", "long_grid", "markdown",
           "wide_csv", "wide_grids"]  # fmt: skip

_TIE, _UNTESTED = "†", "‡"
_MARKS = (
    f"Bold: best encoder of the column. {_TIE}: the paired test finds no difference from it "
    "(p ≥ 0.05, Holm over the encoders of the column)."
)
_NO_TEST = (
    f"{_UNTESTED}: cannot be tested against the best encoder, for want of shared episodes or "
    "variance."
)


class Cell(NamedTuple):
    """A cell: text, and whether it is bold."""

    text: str
    bold: bool = False


class Grid(NamedTuple):
    """A table that can be written in several formats.

    Attributes:
        title: What it shows.
        columns: Names of its columns.
        rows: Its cells.
        notes: Sentences that belong below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...]


def wide_grids(tables: Sequence[WideTable], words: Mapping[str, str]) -> list[Grid]:
    """Write encoders x tasks with names for print, flags as codes, and what must be said below.

    Args:
        tables: What :func:`spade_bench.report.wide.wide_tables` made.
        words: What flags mean that only their encoder knows.
    """
    return [_wide(table, words) for table in tables]


def _wide(table: WideTable, words: Mapping[str, str]) -> Grid:
    heads = dict.fromkeys(column.head for column in table.columns if column.head != "all")
    several = len(heads) > 1
    flags = [f for row in table.rows for f in row.flags
             if f not in OF_CELLS and f != "ensemble" and not f.startswith("tasks:")]  # fmt: skip
    short = {flag: code(flag) for flag in flags}
    title = [protocol_title(table.protocol)]
    title += [f"k={table.k_shot}"] if table.k_shot else []
    title += [table.part] if table.part else []
    title += [head_title(head) for head in heads] if len(heads) == 1 else []
    title += table.condition
    rows = [
        (
            Cell(("  " if row.control else "") + _name(row)),
            *(_value(row, column) for column in table.columns),
            *((Cell(", ".join(short[f] for f in row.flags if f in short)),) if short else ()),
        )
        for row in table.rows
    ]
    covers = dict.fromkeys(
        cell.covers for row in table.rows for cell in row.cells.values() if cell.covers
    )
    notes = [f"In brackets: 95% intervals {'; '.join(covers)}."] if covers else []
    marks = {mark for row in table.rows for mark in row.marks.values()}
    notes += [_MARKS] if marks else []
    notes += [_NO_TEST] if UNTESTED in marks else []
    notes += explain(flags, words)
    notes += dict.fromkeys(
        cell.note for row in table.rows for cell in row.cells.values() if cell.note
    )
    columns = ("Encoder", *(_heading(column, several) for column in table.columns))
    return Grid(", ".join(title), (*columns, *(("flags",) if short else ())), tuple(rows),
                tuple(notes))  # fmt: skip


def _name(row: WideRow) -> str:
    name = encoder_title(row.encoder, row.control, row.control_of)
    return f"{name} ({row.version})" if row.version else name


def _heading(column: Column, several: bool) -> str:
    if column.task == "overall":
        return "Mean rank over tasks"
    head = f", {head_title(column.head)}" if several else ""
    return f"{task_title(column.task)} ({metric_title(column.metric)}{head})"


def _value(row: WideRow, column: Column) -> Cell:
    cell = row.cells.get(column)
    if cell is None:
        return Cell("–")
    if cell.mean is None:
        return Cell(empty_cell(cell.flags))
    mark = row.marks.get(column, "")
    ends = ""
    if cell.ci_low is not None and cell.ci_high is not None:
        ends = f" [{cell.ci_low:.3f}, {cell.ci_high:.3f}]"
    some = [flag for flag in ("missing", "failed") if flag in cell.flags]
    absent = f" (some {' and '.join(some)})" if some else ""
    sign = {TIE: _TIE, UNTESTED: _UNTESTED}.get(mark, "")
    text = f"{number(cell.mean, cell.metric)}{sign}{ends}{absent}"
    return Cell(text, mark == BEST)


def wide_csv(tables: Sequence[WideTable]) -> str:
    """Write encoders x tasks as one csv: four columns per number, with raw names and all digits.

    A column is called TASK:METRIC, or TASK:HEAD:METRIC where a task was run with several heads,
    followed by its `low` and `high` end and its `mark`: `best`, `tie`, `untested` or nothing.
    """
    columns = list(dict.fromkeys(column for table in tables for column in table.columns))
    heads: dict[str, set[str]] = {}
    for column in columns:
        heads.setdefault(column.task, set()).add(column.head)
    names = {c: f"{c.task}:{c.head}:{c.metric}" if len(heads[c.task]) > 1 else
             f"{c.task}:{c.metric}" for c in columns}  # fmt: skip
    fixed = ("protocol", "k_shot", "part", "condition", "encoder", "control", "control_of")
    head = [
        *fixed,
        *(f"{names[c]}{end}" for c in columns for end in ("", ":low", ":high", ":mark")),
    ]
    lines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for table in tables:
        for row in table.rows:
            key = (table.protocol, table.k_shot, table.part, ";".join(table.condition),
                   row.encoder, row.control, row.control_of)  # fmt: skip
            line = lines.setdefault((*key, row.version), dict(zip(fixed, key, strict=True)))
            for column, cell in row.cells.items():
                name = names[column]
                line |= {name: cell.mean, f"{name}:low": cell.ci_low, f"{name}:high": cell.ci_high,
                         f"{name}:mark": row.marks.get(column, "")}  # fmt: skip
            there = row.cells.values()
            for name, words in (
                ("flags", row.flags),
                ("covers", [cell.covers for cell in there]),
                ("note", [cell.note for cell in there]),
            ):
                every = dict.fromkeys([*str(line.get(name, "")).split(";"), *words])
                line[name] = ";".join(word for word in every if word)
    head += ["flags", "covers", "note"]
    return _csv(head, [[line.get(name) for name in head] for line in lines.values()])


def long_grid(rows: Sequence[ReportRow]) -> Grid:
    """Write one number per row, with raw names."""
    columns = tuple(name for name in COLUMNS if name != "note")
    cells = []
    for row in rows:
        content = {
            **row.as_dict(),
            "flags": ", ".join(row.flags),
            "condition": ", ".join(row.condition),
            "mean": number(row.mean, row.metric),
            # A p value has no interval: nothing is missing there.
            **{
                name: "" if row.mean is not None and end is None else number(end)
                for name, end in (("ci_low", row.ci_low), ("ci_high", row.ci_high))
            },
        }
        cells.append(
            tuple(Cell("" if (v := content[name]) is None else str(v)) for name in columns)
        )
    return Grid("", columns, tuple(cells), tuple(row.note for row in rows if row.note))


def differences_grid(differences: Sequence[Difference], verdict: str) -> Grid:
    """Write paired differences with names for print."""
    first = differences[0]
    columns: tuple[str, ...] = ("Task", "Head", "Protocol", "k", "Metric",
                                "Difference [95% interval]", "p", "p (Holm)", "Better")  # fmt: skip
    rows = [
        tuple(map(Cell, (
            task_title(one.task), head_title(one.head),
            ", ".join((protocol_title(one.protocol), *one.condition)),
            str(one.k_shot or ("mean" if one.protocol == "few-shot" else "–")),
            metric_title(one.metric), f"{one.mean:+.3f} [{one.ci_low:+.3f}, {one.ci_high:+.3f}]",
            _p(one.p), _p(one.p_adjusted), encoder_title(one.better) if one.better else "?",
        )))
        for one in differences
    ]  # fmt: skip
    flags = [flag for one in differences for flag in one.flags]
    short = {flag: code(flag) for flag in flags}
    if short:  # a legend explains codes that stand in the table
        columns += ("flags",)
        rows = [
            (*row, Cell(", ".join(short[flag] for flag in one.flags)))
            for row, one in zip(rows, differences, strict=True)
        ]
    ways = dict.fromkeys(one.covers for one in differences)
    notes = (f"95% intervals {'; '.join(ways)}.", *explain(flags), verdict)
    title = f"{encoder_title(first.a)} minus {encoder_title(first.b)}, same episodes and cases"
    return Grid(title, columns, tuple(rows), notes)


def differences_csv(differences: Sequence[Difference]) -> str:
    """Write paired differences as csv, with raw names and all digits."""
    rows = [{**one.as_dict(), "flags": ";".join(one.flags), "condition": ";".join(one.condition)}
            for one in differences]  # fmt: skip
    return _csv(list(rows[0]), [list(row.values()) for row in rows])


def _p(value: float | None) -> str:
    return "–" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([csv_cell(name) for name in columns])
    writer.writerows([[csv_cell(value) for value in row] for row in rows])
    return buffer.getvalue().rstrip("\n")


def markdown(grids: Sequence[Grid]) -> str:
    """Write tables as Markdown, each below its title and above its notes."""
    out = []
    for grid in grids:
        lines = [f"**{markdown_cell(grid.title)}**", ""] if grid.title else []
        lines += ["| " + " | ".join(map(markdown_cell, grid.columns)) + " |"]
        lines += ["|" + " --- |" * len(grid.columns)]
        for row in grid.rows:
            lines.append("| " + " | ".join(map(_in_markdown, row)) + " |")
        for note in grid.notes:
            lines += ["", markdown_cell(note)]
        out.append("\n".join(lines))
    return "\n\n".join(out)


def latex(grids: Sequence[Grid]) -> str:
    r"""Write tables as LaTeX with the rules of `booktabs`; load that package, and nothing else."""
    out = [r"% In the preamble: \usepackage{booktabs}"]
    for number_, grid in enumerate(grids, start=1):
        heads = " & ".join(rf"\shortstack{{{_stacked(name)}}}" for name in grid.columns)
        lines = [
            r"\begin{table*}[t]",
            r"\centering",
            *([rf"\caption{{{latex_cell(grid.title)}}}"] if grid.title else []),
            rf"\label{{tab:results-{number_}}}",
            r"\footnotesize",
            rf"\begin{{tabular}}{{l*{{{len(grid.columns) - 1}}}{{c}}}}",
            r"\toprule",
            rf"{heads} \\",
            r"\midrule",
            *(" & ".join(map(_in_latex, row)) + r" \\" for row in grid.rows),
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\smallskip {latex_cell(note)}" for note in grid.notes),
            r"\end{table*}",
        ]
        text = "\n".join(lines).replace(_TIE, r"\textsuperscript{\dag}")
        out.append(text.replace(_UNTESTED, r"\textsuperscript{\ddag}"))
    return "\n\n".join(out)


def _in_markdown(cell: Cell) -> str:
    """A cell of Markdown: its number in bold where it is the best, controls indented."""
    value, space, rest = markdown_cell(cell.text).partition(" ")
    indent = "&nbsp;&nbsp;" if cell.text.startswith("  ") else ""
    return f"{indent}**{value}**{space}{rest}" if cell.bold else f"{indent}{value}{space}{rest}"


def _in_latex(cell: Cell) -> str:
    """A cell of LaTeX: an interval stands below its number, which makes columns narrow."""
    value, bracket, rest = latex_cell(cell.text).partition(" [")
    value = rf"\textbf{{{value}}}" if cell.bold else value
    indent = r"\quad " if cell.text.startswith("  ") else ""
    if not bracket:
        return f"{indent}{value}"
    return rf"\shortstack{{{value} \\ {{\scriptsize [{rest}}}}}"


def _stacked(name: str) -> str:
    """Break a heading into lines of about 16 letters."""
    import textwrap

    return r" \\ ".join(latex_cell(line) for line in textwrap.wrap(name, 16) or [""])
