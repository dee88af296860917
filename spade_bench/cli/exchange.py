"""`spade-bench merge`, `export` and `import`: results of several folders, and passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import JsonOption

__all__ = ["export", "import_results", "merge"]


def merge(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `run` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    as_json: JsonOption = False,
) -> None:
    """Join folders of results into one, refusing what contradicts."""
    from spade_bench import api, console

    merged = api.merge(folders, out=out)
    if as_json:
        content = {"out": str(out), "cells": merged.cells, "failed": merged.failed,
                   "twice": merged.twice}  # fmt: skip
        console.emit_json("merge", content)
    twice = f"; {merged.twice} stood in several folders, alike" if merged.twice else ""
    failed = f", {merged.failed} failed" if merged.failed else ""
    console.say(f"{merged.cells} finished cells{failed} in {out}{twice}")


def export(
    folder: Annotated[Path, typer.Argument(help="Folder that `run` or `merge` wrote.")],
    out: Annotated[Path, typer.Option(help="The zip file.")],
    as_json: JsonOption = False,
) -> None:
    """Write results as one file to pass on, without paths of this machine; case names stay."""
    from spade_bench import api, console

    made = api.export(folder, out=out)
    if as_json:
        content = {"file": str(out), "files": made.files, "bytes": made.n_bytes,
                   "cells": made.cells}  # fmt: skip
        console.emit_json("export", content)
    console.say(
        f"{made.cells} finished cells in {out} ({made.n_bytes / 1e6:.1f} MB). It names cases and "
        "patients as the results do, and no path of this machine"
    )


def import_results(
    file: Annotated[Path, typer.Argument(help="Zip file that `export` wrote.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    max_gb: Annotated[
        float, typer.Option("--max-gb", help="Most that may be unpacked, in GB.", min=0)
    ] = 50.0,
    as_json: JsonOption = False,
) -> None:
    """Check a file that `export` wrote, and unpack it into a new folder for `report`."""
    from spade_bench import api, console

    results = api.import_results(file, out=out, max_gb=max_gb)
    cells = sum(len(one.rows) for one in results.series)
    if as_json:
        console.emit_json("import", {"out": str(out), "cells": cells})
    console.say(f"{cells} finished cells in {out}; see them with `spade-bench report {out}`")
