"""`merge`, `export`, `import`: results joined and passed on; `push`, `pull`: models passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import JsonOption

__all__ = ["export", "import_results", "merge", "pull", "push"]


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
    out: Annotated[Path | None, typer.Option(help="The zip file.")] = None,
    leaderboard: Annotated[
        Path | None,
        typer.Option(
            help="A JSON file of the numbers, for leaderboards: no cases, patients or predictions."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write results to pass on, without paths of this machine: whole, or the numbers alone."""
    from spade_bench import api, console
    from spade_bench.errors import UserError

    if out is None and leaderboard is None:
        raise UserError("no file is named", where="export",
                        fix="Give --out results.zip or --leaderboard numbers.json")  # fmt: skip
    content: dict[str, object] = {}
    if out is not None:
        made = api.export(folder, out=out)
        content |= {"file": str(out), "files": made.files, "bytes": made.n_bytes,
                    "cells": made.cells}  # fmt: skip
        console.say(
            f"{made.cells} finished cells in {out} ({made.n_bytes / 1e6:.1f} MB). It names cases "
            "and patients as the results do, and no path of this machine"
        )
    if leaderboard is not None:
        board = api.export_leaderboard(folder, out=leaderboard)
        content |= {"leaderboard": str(leaderboard), "rows": board.rows}
        console.say(
            f"{board.rows} number(s) of {board.encoders} encoder(s) in {leaderboard}, without "
            "names of cases and patients"
        )
    if as_json:
        console.emit_json("export", content)


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


def push(
    model: Annotated[
        Path,
        typer.Argument(
            help="Folder of `pretrain` or `fit`, or a head that `run --keep-heads` left in "
            "RUNS/heads/."
        ),
    ],
    to: Annotated[str, typer.Option(help="Folder to write, or hf://OWNER/NAME.")],
    licence: Annotated[
        str, typer.Option(help="Licence of this model; that of its encoder is added by itself.")
    ] = "",
    results: Annotated[
        Path | None,
        typer.Option(help="For a model of `fit`: folder of the run whose figures the card quotes."),
    ] = None,
    with_patients: Annotated[
        bool,
        typer.Option(
            "--with-patients", help="Pass on names of samples, patients and cases as they are."
        ),
    ] = False,
    hashes: Annotated[
        bool,
        typer.Option(
            help="Put a salted hash in the place of each name, so that leaks are still found."
        ),
    ] = True,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository of the hub that all can see.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pass on a model with a card and checksums, without names of patients."""
    import dataclasses

    from spade_bench import api, console

    made = api.push(
        model, to=to, licence=licence, results=results, with_patients=with_patients,
        hashes=hashes, public=public,
    )  # fmt: skip
    if as_json:
        console.emit_json("push", dataclasses.asdict(made))
    said = {
        "hashed": "names of samples, patients and cases are salted hashes",
        "none": "names of samples, patients and cases are left out; nobody can check for leaks",
        "named": "it names samples, patients and cases",
    }
    console.say(
        f"{made.files} files ({made.n_bytes / 1e6:.1f} MB) in {to}; {said[made.names]}. Read its "
        "README.md before you hand it on"
    )


def pull(
    source: Annotated[
        str, typer.Argument(help="Folder that `push` wrote, or hf://OWNER/NAME[@COMMIT].")
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    as_json: JsonOption = False,
) -> None:
    """Take over a model that `push` passed on, after every file of it was checked."""
    from spade_bench import api, console

    manifest = api.pull(source, out=out)
    if as_json:
        content = {"out": str(out), "kind": manifest.kind, "names": manifest.names,
                   "files": len(manifest.files)}  # fmt: skip
        console.emit_json("pull", content)
    if manifest.names == "none":
        console.warn(
            "the names of its training patients were left out: whether yours are among them cannot "
            "be checked, and results are marked contamination:unknown"
        )
    use = {
        "spade": f"use it with --encoder spade --weights {out}",
        "model": f"use it with `spade-bench predict {out}`",
        "head": "load it in Python with FittedHead.load",
    }
    console.say(f"{len(manifest.files)} files in {out}, as its manifest says; {use[manifest.kind]}")
