"""`spade-bench cite`: what to cite for stored results, and under which licences they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import JsonOption

__all__ = ["cite"]


def cite(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders that `run` wrote. Default: the workspace's."),
    ] = None,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None, typer.Option(help="Write the BibTeX entries into a file instead.")
    ] = None,
) -> None:
    """Print BibTeX and a table of licences of the encoders, heads, tasks and data used.

    Example: spade-bench cite runs/ --out references.bib
    """
    from spade_bench import api, console, files
    from spade_bench.cli.report import folders_of
    from spade_bench.report import citations

    results = api.load_results(folders_of(folders))
    items = citations.used(results.series)
    entries = citations.bibtex(items)
    if out is not None:
        files.write_text(out, f"{entries}\n")
        console.say(f"wrote {out}")
    if as_json:
        listed = [item.as_dict() for item in items]
        console.emit_json("cite", {"used": listed, "bibtex": entries})
        return
    if out is None:
        console.emit(f"{entries}\n")
    columns = ("kind", "name", "licence or terms", "gated", "cite")
    rows = [
        (one.kind, one.title, one.licence, "yes" if one.gated else "", one.key) for one in items
    ]
    console.table("Licences", columns, rows)
