"""`spade-bench pack`: one memory-mapped file in place of a folder of feature files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_bench.cli.options import JsonOption

__all__ = ["pack"]


def pack(
    features: Annotated[
        Path, typer.Option(help="Folder of features, whoever wrote them; or another pack.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, or a folder to write it into.")],
    encoder: Annotated[
        str | None, typer.Option(help="Take this encoder's features, where there are several.")
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="Store float32. Default: float16, half the size.")
    ] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out slides that cannot be used.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack features into one file that opens at once; give it to `run` as `--features FILE`.

    The file lies where --out says and is as large as its values: 2 bytes each, 4 with --float32.
    `run --cache copy` is the other way to fast copies; docs/FEATURES.md compares them.
    """
    from spade_bench import console
    from spade_bench.features.packing import pack_features

    done = pack_features(
        features.expanduser(),
        out.expanduser(),
        dtype="float32" if float32 else "float16",
        encoder=encoder,
        allow_missing=allow_missing,
    )
    if as_json:
        content = {**vars(done), "path": str(done.path), "left_out": dict(done.left_out)}
        console.emit_json("pack", content)
        return
    rounded = f", rounded by at most {done.rounding:.1e} of a slide's largest value"
    console.emit(
        f"{done.slides} slides, {done.rows} patches x {done.dim}, {done.dtype}"
        f"{rounded if done.rounding else ''}; {done.nbytes / 1e6:.1f} MB, "
        f"content {done.content}: {done.path}"
    )
