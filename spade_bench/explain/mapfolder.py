"""The folder that `explain` writes: maps, pictures, and what they are of.

maps/SLIDE.h5              the numbers (`mapstore`); of a second encoder maps/ENCODER/SLIDE.h5
pictures/SLIDE.png, .pdf   the map on the slide
geojson/SLIDE.geojson      for QuPath, where asked for
explain.json, maps.csv     a line per map: models, prediction, files, marks; agreement
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError
from spade_bench.explain.agreement import Agreement, agreement
from spade_bench.explain.mapstore import read_map, write_map
from spade_bench.files import atomic_path, file_name, read_json, write_json, write_text

if TYPE_CHECKING:
    from spade_bench.explain.slidemap import SlideMap

__all__ = ["SCHEMA", "MapFolder", "Written", "write_maps"]

SCHEMA = "spade-bench/explain/1"
LISTING = "explain.json"
_DPI = 150


@dataclass(frozen=True)
class Written:
    """What lies in a folder of maps.

    Attributes:
        maps: A record per map, as in `explain.json`.
        agreements: Agreement of two encoders, per slide.
    """

    maps: list[dict[str, Any]]
    agreements: list[Agreement]

    @property
    def agreement(self) -> float | None:
        """Mean rank correlation of two encoders over slides; None where there is none."""
        known = [one.spearman for one in self.agreements if one.spearman is not None]
        return sum(known) / len(known) if known else None


class MapFolder:
    """Writes maps into a folder, each as soon as it is there.

    Args:
        out: The folder: new, empty, or one that `explain` has written, whose files are replaced.
        geojson: Whether files for QuPath are written.

    Raises:
        DataError: When the folder holds something else.
    """

    def __init__(self, out: Path, *, geojson: bool = False) -> None:
        self.out, self._geojson = out, geojson
        self._maps: list[dict[str, Any]] = []
        self._agreements: list[Agreement] = []
        self._first: dict[str, Path] = {}  # slide -> map of the first encoder
        self._encoder = ""
        _remove_earlier(out)

    def add(self, shown: SlideMap) -> None:
        """Write one map with its picture; one of a second encoder is held against the first."""
        self._encoder = self._encoder or shown.encoder
        second = shown.encoder != self._encoder
        name = file_name(shown.slide_id)
        below = Path(file_name(shown.encoder)) if second else Path()
        files = {"map": Path("maps") / below / f"{name}.h5"}
        write_map(shown, self.out / files["map"])
        figure = shown.plot()
        for suffix in ("png", "pdf"):
            files[suffix] = Path("pictures") / below / f"{name}.{suffix}"
            with atomic_path(self.out / files[suffix]) as temporary:
                figure.savefig(temporary, dpi=_DPI, bbox_inches="tight")
        if self._geojson:
            files["geojson"] = Path("geojson") / below / f"{name}.geojson"
            shown.to_geojson(self.out / files["geojson"])
        if not second:
            self._first[shown.slide_id] = self.out / files["map"]
        elif shown.slide_id in self._first:
            self._agreements.append(agreement(read_map(self._first[shown.slide_id]), shown))
        self._maps.append(_record(shown, files))

    def close(self) -> Written:
        """Write what the folder holds: `explain.json` and `maps.csv`."""
        written = Written(self._maps, self._agreements)
        content: dict[str, Any] = {"schema": SCHEMA, "maps": self._maps}
        content["agreement"] = {
            "mean_spearman": written.agreement,
            "slides": [one.as_dict() for one in self._agreements],
        }
        write_json(self.out / LISTING, content)
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        columns = [name for name in self._maps[0] if name not in _NESTED] if self._maps else []
        writer.writerow([*columns, "predicted", *_PATHS])
        for one in self._maps:
            said = [f"{name}={value:.6g}" for name, value in one["predicted"].items()]
            paths = [one["files"].get(name, "") for name in _PATHS]
            writer.writerow([*(one[name] for name in columns), "; ".join(said), *paths])
        write_text(self.out / "maps.csv", text.getvalue())
        return written


def write_maps(maps: Iterable[SlideMap], out: Path, *, geojson: bool = False) -> Written:
    """Write maps into a folder; see the module.

    Args:
        maps: The maps, those of a second encoder after all of the first.
        out: The folder.
        geojson: Whether files for QuPath are written.
    """
    folder = MapFolder(out, geojson=geojson)
    for shown in maps:
        folder.add(shown)
    return folder.close()


_NESTED = ("classes", "predicted", "about", "files")
_PATHS = ("map", "png", "pdf", "geojson")


def _record(shown: SlideMap, files: dict[str, Path]) -> dict[str, Any]:
    """What a listing says of a map."""
    share = None if shown.attention is None else float(shown.attention.sum())
    return {
        "slide_id": shown.slide_id,
        "case_id": shown.case_id,
        "encoder": shown.encoder,
        "head": shown.head,
        "task": shown.task,
        "method": shown.method,
        "patches": len(shown.coords),
        "models": shown.models,
        "trained": shown.trained,
        "simulated": shown.simulated,
        "attention_of_slide": share,
        "mpp_level0": shown.mpp,
        "classes": list(shown.classes),
        "predicted": dict(zip(shown.classes, shown.predicted, strict=True)),
        "about": dict(shown.about),
        "files": {name: path.as_posix() for name, path in files.items()},
    }


def _remove_earlier(out: Path) -> None:
    """Remove the maps of an earlier call, which would pass for those of this one.

    Raises:
        DataError: When the folder holds something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    listing = out / LISTING
    content = read_json(listing) if listing.is_file() else {}
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise DataError(
            "exists and was not written by `spade-bench explain`",
            where=str(out),
            fix="Name a new folder",
        )
    root = out.resolve()
    for one in content.get("maps", ()):
        for name in one.get("files", {}).values():
            path = (out / str(name)).resolve()
            if path.is_relative_to(root):  # nobody's list removes what lies elsewhere
                path.unlink(missing_ok=True)
