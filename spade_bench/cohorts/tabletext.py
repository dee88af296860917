"""Tables as people save them: any common encoding, comma, semicolon or tab, or a workbook.

One reader for cohort tables, published splits, lists of slides and downloaded label tables.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import itertools
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from spade_bench.console import say
from spade_bench.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["is_workbook", "read_dicts", "read_frame", "read_lines", "read_rows", "separator_of"]

_SEPARATORS = (",", "\t", ";")
_WORKBOOKS = {".xlsx", ".xls", ".xlsm"}
_OLD = ("cp1252", "latin-1")
_ZIP, _OLE, _GZIP = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"\x1f\x8b"
_reported: set[str] = set()  # files whose encoding was reported


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file in UTF-8, UTF-16 (either byte order) or Latin-1.

    Args:
        path: The file, plain or compressed with gzip.

    Raises:
        DataError: When it is missing or cannot be read.
    """
    # Not splitlines: it also divides at characters that old encodings use for letters and dots.
    return io.StringIO(_text(path), newline=None).read().split("\n")


def separator_of(header: str, suffix: str = "") -> str:
    """Guess the separator from the header line: the one that occurs most, outside quotes.

    Args:
        header: First line.
        suffix: Suffix of the file, which decides where the line has no separator.
    """
    bare = "".join(header.split('"')[::2])
    counts = {one: bare.count(one) for one in _SEPARATORS}
    if not any(counts.values()):
        return "\t" if suffix.lower() in {".tsv", ".tab"} else ","
    return max(_SEPARATORS, key=lambda one: counts[one])


def is_workbook(path: Path) -> bool:
    """Whether a file is a workbook, by its suffix or by what is in it."""
    if path.suffix.lower() in _WORKBOOKS:
        return True
    return _head(path) in {_ZIP, _OLE}


def read_dicts(path: Path) -> tuple[list[str], list[dict[str, str | None]]]:
    """Read a small table row by row, in any encoding and with any separator.

    Args:
        path: csv, tsv or text.

    Returns:
        Names of the columns, and each row by column; blank names are kept under the empty name.

    Raises:
        DataError: When it cannot be read, names a column twice, or has a row that is longer than
            the header.
    """
    if is_workbook(path):
        frame = read_frame(path)
        header = [str(column).strip() for column in frame]
        rows = frame.to_numpy().tolist()
        return header, [dict(zip(header, row, strict=True)) for row in rows]
    lines, separator, first = _table_lines(path)
    reader = csv.reader(lines, delimiter=separator)
    try:
        header = [name.strip() for name in next(reader, [])]
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise DataError(
                f"the column {twice[0]} occurs twice", where=str(path), fix="Remove one"
            )
        return header, [_row(header, row, f"{path} line {first + reader.line_num}")
                        for row in reader if row]  # fmt: skip
    except csv.Error as error:
        raise DataError(f"cannot read the table ({error})", where=str(path)) from error


def _row(header: list[str], cells: list[str], where: str) -> dict[str, str | None]:
    """One row by column; cells that are missing at its end are None.

    Raises:
        DataError: When it has more cells than the header: all behind the extra one would shift.
    """
    if any(cell.strip() for cell in cells[len(header) :]):
        raise DataError(
            f"{len(cells)} cells for {len(header)} columns",
            where=where,
            fix="Put cells that hold the separator in double quotes",
        )
    return dict(itertools.zip_longest(header, cells[: len(header)]))


def read_rows(path: Path) -> list[list[str]]:
    """Read the cells of a text table that may lack a header; blank lines are left out.

    Args:
        path: csv, tsv or text in any common encoding and with any separator, also gzipped.

    Raises:
        DataError: When it cannot be read or is a workbook.
    """
    if is_workbook(path):
        raise DataError("a workbook, not text", where=str(path), fix="Save the sheet as csv")
    lines, separator, _ = _table_lines(path)
    try:
        return [row for row in csv.reader(lines, delimiter=separator) if any(map(str.strip, row))]
    except csv.Error as error:
        raise DataError(f"cannot read the table ({error})", where=str(path)) from error


def read_frame(
    path: Path,
    *,
    wanted: Callable[[list[str]], bool] | None = None,
    comments: bool = False,
    stray_quotes: bool = False,
) -> pd.DataFrame:
    """Read a table as text; blank cells are empty strings.

    Args:
        path: csv, tsv or text in any common encoding, also gzipped, or a workbook.
        wanted: Of a workbook, take the first sheet whose header this accepts; by default the
            first sheet with rows.
        comments: Skip lines that start with ``#`` above the header.
        stray_quotes: In tables that are separated by tabs, take quotes literally.

    Raises:
        DataError: When the file is missing, unreadable or empty, or rows are longer than the
            header.
    """
    if not path.is_file():
        raise DataError("no such table", where=str(path), fix="Give a csv file with --table")
    workbook = is_workbook(path)
    frame = _sheet(path, wanted) if workbook else _delimited(path, comments, stray_quotes)
    if frame.empty:
        raise DataError("the table has no rows", where=str(path))
    return frame


def _table_lines(path: Path, *, comments: bool = False) -> tuple[list[str], str, int]:
    """The lines of a table from its header on, the separator, and how many lines came before.

    Above the header there may be blank lines, comments, and Excel's line that names the separator.
    """
    lines = read_lines(path)
    named, skip = "", 0
    while skip < len(lines):
        line = lines[skip].strip(" \r")
        if line.lower().startswith("sep=") and len(line) == len("sep=") + 1:
            named = line[-1]
        elif line.strip() and not (comments and line.startswith("#")):
            break
        skip += 1
    header = lines[skip] if skip < len(lines) else ""
    return lines[skip:], named or separator_of(header, path.suffix.removesuffix(".gz")), skip


def _delimited(path: Path, comments: bool, stray_quotes: bool) -> pd.DataFrame:
    import pandas as pd

    lines, separator, _ = _table_lines(path, comments=comments)
    if not lines:
        raise DataError("the table has no rows", where=str(path))
    # csv.QUOTE_NONE or csv.QUOTE_MINIMAL
    quoting: Literal[3, 0] = 3 if stray_quotes and separator == "\t" else 0
    try:
        frame: pd.DataFrame = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=separator,
            dtype=str,
            keep_default_na=False,
            quoting=quoting,
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"cannot read the table ({error})", where=str(path)) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise DataError(
            "rows have more cells than the header has names",
            where=str(path),
            fix="Put cells that hold the separator in double quotes",
        )
    filled: pd.DataFrame = frame.fillna("")  # rows that end early
    return filled


def _sheet(path: Path, wanted: Callable[[list[str]], bool] | None) -> pd.DataFrame:
    import pandas as pd

    if _head(path) == _OLE:
        raise DataError(
            "an old or encrypted workbook", where=str(path), fix="Save it as xlsx or csv"
        )
    try:
        importlib.import_module("openpyxl")  # before pandas looks into the file
        sheets = pd.read_excel(path, sheet_name=None, dtype=str, keep_default_na=False)
    except ImportError as error:
        raise DataError(
            "reading a workbook needs openpyxl",
            where=str(path),
            fix="Run pip install 'spade-bench[xlsx]', or save the sheet as csv",
        ) from error
    except Exception as error:  # openpyxl raises whatever its zip and XML parsers raise
        raise DataError(
            f"cannot read the workbook ({error})", where=str(path), fix="Save the sheet as csv"
        ) from error
    full = {name: frame for name, frame in sheets.items() if len(frame)}
    for frame in full.values():
        if wanted is None or wanted([str(column) for column in frame.columns]):
            text: pd.DataFrame = frame.fillna("").astype(str)
            return text
    if not full:
        raise DataError("the workbook has no rows", where=str(path))
    raise DataError(
        f"no sheet names cases (sheets: {', '.join(map(str, sheets))})",
        where=str(path),
        fix="The header must be in the first row of its sheet",
    )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as handle:
            return handle.read(4)
    except OSError as error:
        raise DataError(f"cannot read the table ({error})", where=str(path)) from error


def _text(path: Path) -> str:
    """Decode a file, by its byte order mark where it has one."""
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read the table ({error})", where=str(path)) from error
    for encoding in _encodings(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if encoding in _OLD and str(path) not in _reported:
            _reported.add(str(path))
            say(
                f"{path}: not UTF-8, read as Western European (Latin-1); save it as CSV UTF-8 to "
                "be sure of umlauts"
            )
        return text.removeprefix("\ufeff")
    raise DataError(
        "neither UTF-8, UTF-16 nor Latin-1 text", where=str(path), fix="Save it as CSV UTF-8"
    )


def _encodings(data: bytes) -> tuple[str, ...]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ("utf-16",)
    head = data[:4096]
    if b"\0" not in head:
        return ("utf-8", *_OLD)
    # Without a byte order mark, the zero bytes of plain letters tell the byte order.
    if head[1::2].count(0) > 0.5 * len(head[1::2]):
        return ("utf-16-le",)
    return ("utf-16-be",) if head[::2].count(0) > 0.5 * len(head[::2]) else ()
