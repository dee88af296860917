"""Options of commands that restrict bags to regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["RegionNameOption", "RegionShareOption", "RegionsOption"]

RegionsOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder with SLIDE.geojson (annotations of QuPath): take the patches inside only."
    ),
]
RegionNameOption = Annotated[
    list[str] | None,
    typer.Option(help="With --regions: class or name of the regions to take. Repeatable."),
]
RegionShareOption = Annotated[
    float | None,
    typer.Option(
        help="With --regions: least share of a patch's area inside, such as 0.5. Default: its "
        "centre."
    ),
]
