"""The folder that `explain` writes: maps, pictures, and what they are of.

maps/SLIDE.h5              the numbers (`mapstore`); of a second encoder maps/ENCODER/SLIDE.h5
pictures/SLIDE.png, .pdf   the map on the slide, with crops of its highest areas
pictures/SLIDE-sd.png      how far the models disagree, where there are several
pictures/SLIDE-CLASS.png   the contribution towards the last class, or to the risk
panels/SLIDE.png, .pdf     two encoders beside each other on one scale
geojson/SLIDE.geojson      for QuPath, where asked for
top-ENCODER.png, .pdf      contact sheet of the highest and lowest patches
region_scores.csv, .json   the maps held against regions, where these are given
viewer/index.html          every layer on the slide, for a browser, where asked for
explain.json, maps.csv     a line per map: models, prediction, files, marks; agreement
"""

from __future__ import annotations

import csv
import io
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say
from spade_bench.errors import DataError, UserError
from spade_bench.explain.agreement import Agreement, agreement
from spade_bench.explain.detections import MAX_DETECTIONS
from spade_bench.explain.earlierfiles import (
    clear_viewer,
    read_earlier,
    remove_kinds,
    remove_listed,
)
from spade_bench.explain.mapstore import read_map, write_map
from spade_bench.explain.overlay import overlay_figure, panel_figure, save_figure
from spade_bench.explain.places import read_crops
from spade_bench.explain.regionscores import RegionScore, RegionScores, score_slide
from spade_bench.explain.topsheet import KEY, SlideLayer, write_top_sheets
from spade_bench.explain.viewer.mapviews import map_views
from spade_bench.explain.viewer.viewerfiles import VIEWER_PX, write_viewer
from spade_bench.files import file_name, write_json, write_text
from spade_bench.regions.regionfiles import find_regions, read_regions
from spade_bench.report.naming import head_title, task_title

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.regions.outlines import SlideRegions

__all__ = ["LISTING", "SCHEMA", "MapFolder", "Wishes", "Written", "write_maps"]

SCHEMA = "spade-bench/explain/1"
LISTING = "explain.json"
_CROPS = 4
_KINDS = {
    "maps": {".h5"},
    "pictures": {".png", ".pdf"},
    "panels": {".png", ".pdf"},
    "geojson": {".geojson", ".gz"},
}
"""Folders that a call fills, with the kinds of files."""


@dataclass(frozen=True)
class Wishes:
    """What is written beside maps and pictures.

    Attributes:
        geojson: Whether files for QuPath are written.
        top: Patches of each end on the contact sheets; 0 for no sheets.
        blind: Whether the sheets name no encoder.
        regions: GeoJSON file or folder of them, to hold maps against and to outline in pictures.
        region_names: Classes or names of the regions to hold maps against; empty for all.
        pictures: Whether every map is drawn; without, there are numbers alone.
        gzip: Whether files for QuPath are compressed.
        max_detections: Most patches in a file for QuPath.
        viewer: Whether a viewer is written, which opens without a server.
        viewer_px: Longer side of its largest picture of a slide.
    """

    geojson: bool = False
    top: int = 50
    blind: bool = False
    regions: Path | None = None
    region_names: tuple[str, ...] = ()
    pictures: bool = True
    gzip: bool = False
    max_detections: int = MAX_DETECTIONS
    viewer: bool = False
    viewer_px: int = VIEWER_PX


@dataclass(frozen=True)
class Written:
    """What lies in a folder of maps.

    Attributes:
        maps: A record per map, as in `explain.json`.
        agreements: Agreement of two encoders, per slide.
        regions: Maps held against regions; None without regions.
        viewer: First page of the viewer; None where none was asked for.
    """

    maps: list[dict[str, Any]]
    agreements: list[Agreement]
    regions: RegionScores | None = None
    viewer: Path | None = None

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders, the first one first."""
        return tuple(dict.fromkeys(one["encoder"] for one in self.maps))

    @property
    def agreement(self) -> float | None:
        """Mean rank correlation of two encoders over slides; None where there is none."""
        known = [one.spearman for one in self.agreements if one.spearman is not None]
        return sum(known) / len(known) if known else None


class MapFolder:
    """Writes maps into a folder, each as soon as it is there.

    Args:
        out: The folder: new, empty, or one that `explain` has written, whose files are replaced.
        wishes: What is written beside maps and pictures.

    Raises:
        DataError: When the folder holds something else, or regions are missing.
    """

    def __init__(self, out: Path, wishes: Wishes) -> None:
        self.out, self._wishes = out, wishes
        self._regions = {} if wishes.regions is None else find_regions(wishes.regions)
        self._maps: list[dict[str, Any]] = []
        self._agreements: list[Agreement] = []
        self._scores: list[RegionScore] = []
        self._without: list[str] = []
        self._ranked: list[SlideLayer] = []
        self._marks: dict[str, None] = {}
        self._first: dict[str, Path] = {}  # slide -> map of the first encoder
        self._stored: list[tuple[Path, Path | None]] = []  # map, slide
        self._outlined: dict[str, SlideRegions] = {}
        self._encoder = ""
        if wishes.viewer and wishes.blind:
            raise UserError(
                "a viewer names the encoders, which --blind withholds",
                where="--viewer",
                fix="Leave one of them out",
            )
        self._earlier = _earlier(out)

    def _begin(self) -> None:
        """Make room for the first map: what is refused before it costs no earlier map."""
        if self._earlier is not None:
            _remove(self.out, self._earlier, viewer_stays=self._wishes.viewer)
        # Says whose the folder is from the start: a call that was cut off can be made again.
        write_json(self.out / LISTING, {"schema": SCHEMA, "complete": False, "maps": []})

    def add(self, shown: SlideMap) -> None:
        """Write one map with its pictures; one of a second encoder is held against the first."""
        if not self._maps:
            self._begin()
        self._encoder = self._encoder or shown.encoder
        second = shown.encoder != self._encoder
        below, name = Path(file_name(shown.encoder)) if second else Path(), shown.slide_id
        files = {"map": Path("maps") / below / f"{file_name(name)}.h5"}
        if self._wishes.viewer and shown.slide is None:
            raise UserError(
                "the viewer needs the slides", where=name, fix="Name their folder with --slides"
            )
        write_map(shown, self.out / files["map"])
        self._stored.append((self.out / files["map"], shown.slide))
        regions = self._held_against_regions(shown)
        if self._wishes.pictures:
            files |= self._draw(shown, regions, below)
        if self._wishes.geojson:
            suffix = ".geojson.gz" if self._wishes.gzip else ".geojson"
            files["geojson"] = Path("geojson") / below / f"{file_name(name)}{suffix}"
            shown.to_geojson(
                self.out / files["geojson"], max_detections=self._wishes.max_detections
            )
        if not second:
            self._first[name] = self.out / files["map"]
        elif name in self._first:
            other = read_map(self._first[name], shown.slide)
            self._agreements.append(agreement(other, shown))
            if self._wishes.pictures:
                files |= self._draw_both(other, shown, regions)
        if shown.slide is not None and self._wishes.top:
            self._ranked.append(
                SlideLayer(shown.slide, shown.strength(), shown.encoder, mpp=shown.mpp)
            )
        self._marks |= dict.fromkeys(shown.marks)
        self._maps.append(_record(shown, files))

    def close(self) -> Written:
        """Write contact sheets, region scores and the listing.

        Raises:
            DataError: When regions were given and none is of a slide that was mapped.
        """
        if not self._maps:
            self._begin()
        sheets = self._sheets()
        regions = self._region_scores()
        viewer = self._viewer()
        written = Written(self._maps, self._agreements, regions, viewer)
        content: dict[str, Any] = {"schema": SCHEMA, "complete": True, "maps": self._maps}
        content |= {"sheets": sheets}
        if viewer is not None:
            content["viewer"] = viewer.relative_to(self.out).as_posix()
        content["agreement"] = {
            "mean_spearman": written.agreement,
            "slides": [one.as_dict() for one in self._agreements],
        }
        if regions is not None:
            encoders = written.encoders
            pairs = [(encoders[0], encoders[1])] if len(encoders) > 1 else []
            tables = regions.write(self.out, pairs)
            content["regions"] = [path.name for path in tables]
        write_json(self.out / LISTING, content)
        write_text(self.out / "maps.csv", _as_csv(self._maps))
        return written

    def _held_against_regions(self, shown: SlideMap) -> SlideRegions | None:
        """The regions of a slide, against which its map is scored; None where it has none."""
        if self._wishes.regions is None:
            return None
        if shown.slide_id not in self._regions:
            self._without.append(shown.slide_id)
            return None
        outlined: SlideRegions | None = read_regions(
            self._regions[shown.slide_id], slide_id=shown.slide_id, offset=shown.offset
        )
        if outlined is not None and self._wishes.region_names:
            outlined = outlined.called(self._wishes.region_names)
        if outlined is None:
            self._without.append(shown.slide_id)
            return None
        score = score_slide(shown, outlined)
        if not score.inside:  # nothing to attend to: no share of it means anything
            self._without.append(shown.slide_id)
        else:
            self._scores.append(score)
        self._outlined[shown.slide_id] = outlined
        return outlined

    def _draw(self, shown: SlideMap, regions: SlideRegions | None, below: Path) -> dict[str, Path]:
        """The map with crops, the dispersion and the last contribution."""
        place, stem = Path("pictures") / below, file_name(shown.slide_id)
        first, *others = shown.layers()
        background, outline = shown.background, _rings(regions)
        crops = [] if shown.slide is None else read_crops(shown.slide, first, _CROPS)
        figure = overlay_figure(
            first, background, shown.slide_id, outline=outline, crops=crops, marks=shown.marks
        )
        files = self._save(figure, place / stem, {"png": ".png", "pdf": ".pdf"})
        wanted = {"contribution": shown.classes[-1], "sd": "sd"}
        for key, name in wanted.items():
            for layer in others:
                if layer.key.endswith(f".{name}"):
                    figure = overlay_figure(
                        layer, background, shown.slide_id, outline=outline, marks=shown.marks
                    )
                    path = place / file_name(f"{shown.slide_id}-{name}")
                    files |= self._save(figure, path, {key: ".png"})
        return files

    def _draw_both(self, a: SlideMap, b: SlideMap, regions: SlideRegions | None) -> dict[str, Path]:
        """Two encoders on one scale, the one that the first is held against on the left."""
        figure = panel_figure(
            [b.layers()[0], a.layers()[0]], b.background, b.slide_id,
            outline=_rings(regions), marks=b.marks,
        )  # fmt: skip
        place = Path("panels") / file_name(b.slide_id)
        return self._save(figure, place, {"panel_png": ".png", "panel_pdf": ".pdf"})

    def _save(self, figure: Figure, place: Path, kinds: dict[str, str]) -> dict[str, Path]:
        files = {}
        for key, suffix in kinds.items():
            files[key] = place.with_name(f"{place.name}{suffix}")
            save_figure(figure, self.out / files[key])
        return files

    def _sheets(self) -> list[str]:
        if not self._wishes.top or not self._maps:
            return []
        if not self._ranked:
            say(
                "No contact sheet and no tissue in the pictures: the files of the slides that were "
                "mapped are not in the folder of --slides"
            )
            return []
        first = self._maps[0]
        paths = write_top_sheets(
            self._ranked,
            self.out,
            top=self._wishes.top,
            title=f"{task_title(first['task'])}, {head_title(first['head'])}",
            blind=secrets.randbelow(2**31) if self._wishes.blind else None,
            marks=list(self._marks),
        )
        return [path.relative_to(self.out).as_posix() for path in paths]

    def _viewer(self) -> Path | None:
        if not self._wishes.viewer or not self._stored:
            return None
        maps = (read_map(path, slide) for path, slide in self._stored)
        views = map_views(maps, top=self._wishes.top, regions=self._outlined)
        return write_viewer(self.out / "viewer", views, viewer_px=self._wishes.viewer_px)

    def _region_scores(self) -> RegionScores | None:
        if self._wishes.regions is None:
            return None
        if not self._scores:
            named = " or ".join(f"'{name}'" for name in self._wishes.region_names)
            raise DataError(
                f"holds no region{f' called {named}' if named else ''} of a slide that was mapped",
                where=str(self._wishes.regions),
                fix="Name each region file after its slide, SLIDE.geojson"
                + (", and a class or name that is in it" if named else ""),
            )
        return RegionScores(tuple(self._scores), tuple(dict.fromkeys(self._without)))


def write_maps(maps: Iterable[SlideMap], out: Path, wishes: Wishes | None = None) -> Written:
    """Write maps into a folder; see the module.

    Args:
        maps: The maps, those of a second encoder after all of the first.
        out: The folder.
        wishes: What is written beside maps and pictures.
    """
    folder = MapFolder(out, wishes or Wishes())
    for shown in maps:
        folder.add(shown)
    return folder.close()


_NESTED = ("classes", "predicted", "about", "files")
_PATHS = ("map", "png", "pdf", "panel_png", "geojson")


def _as_csv(maps: list[dict[str, Any]]) -> str:
    """A line per map, with what it predicts in words and where its files are."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    columns = [name for name in maps[0] if name not in _NESTED] if maps else []
    writer.writerow([*columns, "predicted", *_PATHS])
    for one in maps:
        said = [f"{name}={value:.6g}" for name, value in one["predicted"].items()]
        paths = [one["files"].get(name, "") for name in _PATHS]
        writer.writerow([*(one[name] for name in columns), "; ".join(said), *paths])
    return text.getvalue()


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


def _rings(regions: SlideRegions | None) -> list[NDArray[np.float64]]:
    """Borders of regions and of their holes, (k, 2) each."""
    import numpy as np
    import shapely

    if regions is None:
        return []
    parts = shapely.get_parts(regions.outline)
    rings = [ring for part in parts for ring in (part.exterior, *part.interiors)]
    return [np.asarray(ring.coords, dtype=np.float64)[:, :2] for ring in rings]


def _earlier(out: Path) -> Mapping[str, Any] | None:
    """Return the listing of an earlier call; None where the folder is new or empty.

    Raises:
        DataError: When the folder holds something else, or the key of blind sheets.
    """
    content = read_earlier(out, LISTING, SCHEMA)
    if content is not None and (out / KEY).exists():
        raise DataError(
            "holds blind sheets: written again, their letters would mean other encoders",
            where=str(out / KEY),
            fix="Name a new folder, or remove this key once nobody reads the sheets any more",
        )
    return content


def _remove(out: Path, content: Mapping[str, Any], *, viewer_stays: bool) -> None:
    """Remove what an earlier call wrote, which would pass for results of this one.

    Args:
        out: The folder.
        content: Its listing.
        viewer_stays: Whether the tiles of a viewer stay, for the next one to use.
    """
    names = [name for one in content.get("maps", ()) for name in one.get("files", {}).values()]
    remove_listed(out, (*names, *content.get("sheets", ()), *content.get("regions", ())))
    if content.get("complete") is False:  # it was cut off before it could list its files
        remove_kinds(out, _KINDS)
        for path in (*out.glob("top-*.p*"), *out.glob("region_scores.*")):
            path.unlink()
        shutil.rmtree(out / "blind", ignore_errors=True)
    if viewer_stays or "viewer" in content or content.get("complete") is False:
        clear_viewer(out / "viewer", tiles_stay=viewer_stays)
