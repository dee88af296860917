"""The folder that `explain` writes: maps, pictures, and what they are of.

maps/SLIDE.h5              the numbers (`mapstore`); of a second encoder maps/ENCODER/SLIDE.h5
pictures/SLIDE.png, .pdf   the map on the slide, with crops of its highest areas
contributions/SLIDE.png    the contribution towards the last class, or to the risk
dispersion/SLIDE.png       how far the models disagree, where there are several
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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.console import say
from spade_bench.errors import UserError
from spade_bench.explain.agreement import Agreement, agreement
from spade_bench.explain.earlierfiles import LISTING, SCHEMA, earlier_listing, remove_earlier
from spade_bench.explain.mapstore import read_map, write_map
from spade_bench.explain.outlined.givenregions import GivenRegions
from spade_bench.explain.overlay import overlay_figure, panel_figure, save_map
from spade_bench.explain.places import read_crops
from spade_bench.explain.ranking import PatchRanking, SlideLayer
from spade_bench.explain.regionscores import RegionScore, RegionScores, score_slide
from spade_bench.explain.topsheet import write_top_sheets
from spade_bench.explain.viewer.mapviews import slide_view
from spade_bench.explain.viewer.viewerfiles import write_viewer
from spade_bench.explain.wishes import Wishes
from spade_bench.files import file_name, write_json, write_text
from spade_bench.report.naming import encoder_title, head_title, task_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_bench.explain.outlined.regionclasses import RegionClass
    from spade_bench.explain.slidemap import SlideMap

__all__ = ["LISTING", "SCHEMA", "MapFolder", "Wishes", "Written", "write_maps"]

_CROPS = 4


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
        wishes.check_options()
        self.out, self._wishes = out, wishes
        self._regions: GivenRegions | None = None
        if wishes.regions is not None:  # one that is damaged costs no earlier map
            self._regions = GivenRegions.read(wishes.regions, wishes.region_names)
        self._maps: list[dict[str, Any]] = []
        self._agreements: list[Agreement] = []
        self._scores: list[RegionScore] = []
        self._without: list[str] = []
        self._ranked: dict[str, PatchRanking] = {}  # of each encoder
        self._marks: dict[str, None] = {}
        self._first: dict[str, Path] = {}  # slide -> map of the first encoder
        self._stored: dict[str, list[tuple[Path, Path | None]]] = {}  # slide -> maps, its file
        self._outlined: dict[str, list[RegionClass]] = {}  # slide -> what its page outlines
        self._encoder = ""
        self._placeless = 0  # maps whose patches lie nobody knows where
        self._earlier = earlier_listing(out)

    def _begin(self) -> None:
        """Make room for the first map: what is refused before it costs no earlier map."""
        if self._earlier is not None:
            remove_earlier(self.out, self._earlier, viewer_stays=self._wishes.viewer)
        # Says whose the folder is from the start: a call that was cut off can be made again.
        write_json(self.out / LISTING, {"schema": SCHEMA, "complete": False, "maps": []})

    def expect(self, slides: Iterable[str]) -> None:
        """Refuse what cannot come of these slides, while the earlier maps are still there.

        Args:
            slides: The slides that will be mapped.

        Raises:
            DataError: When regions were given and none is of one of these slides.
        """
        if self._regions is not None:
            self._regions.expect(slides)

    def take(self, maps: Iterable[SlideMap]) -> Written:
        """Write maps one after another, those of a second encoder after all of the first."""
        for shown in maps:
            self.add(shown)
        return self.close()

    def add(self, shown: SlideMap) -> None:
        """Write one map with its pictures; one of a second encoder is held against the first."""
        if self._wishes.regions is not None:
            shown.need_places("--regions")
        if self._wishes.viewer and shown.placed and shown.slide is None:
            raise UserError(
                "the viewer needs the slides",
                where=shown.slide_id,
                fix="Name their folder with --slides",
            )
        if not self._maps:
            self._begin()
        self._encoder = self._encoder or shown.encoder
        second = shown.encoder != self._encoder
        below, name = Path(file_name(shown.encoder)) if second else Path(), shown.slide_id
        files = {"map": Path("maps") / below / f"{file_name(name)}.h5"}
        write_map(shown, self.out / files["map"])
        if shown.placed:
            self._stored.setdefault(name, []).append((self.out / files["map"], shown.slide))
        else:
            self._placeless += 1
        outlined = self._held_against_regions(shown)
        if self._wishes.pictures and shown.placed:
            files |= self._draw(shown, outlined, below)
        if self._wishes.geojson and shown.placed:
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
            if self._wishes.pictures and shown.placed and other.placed:
                files |= self._draw_both(other, shown, outlined)
        if self._wishes.top:
            self._rank(shown)
        self._marks |= dict.fromkeys(shown.marks)
        self._maps.append(_record(shown, files))

    def _rank(self, shown: SlideMap) -> None:
        """Take the patches of a map for the contact sheets, where what they show is at hand."""
        if shown.patches is not None:
            path, images = shown.patches, tuple(shown.patches / name for name in shown.images)
        elif shown.slide is not None and shown.placed:
            path, images = shown.slide, ()
        else:
            return
        one = SlideLayer(path, shown.strength(), shown.encoder, images, shown.mpp, shown.slide_id)
        self._ranked.setdefault(shown.encoder, PatchRanking(self._wishes.top)).add(one)

    def close(self) -> Written:
        """Write contact sheets, region scores and the listing.

        Raises:
            DataError: When regions were given and none is of a slide that was mapped.
        """
        if not self._maps:
            self._begin()
        self._say_placeless()
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

    def _held_against_regions(self, shown: SlideMap) -> list[RegionClass]:
        """The outlines of a slide by class, once its map is scored; empty where it has none."""
        if self._regions is None:
            return []
        regions = self._regions.of(shown)
        if regions is None:
            self._without.append(shown.slide_id)
            return []
        score = score_slide(shown, regions)
        if not score.inside:  # nothing to attend to: no share of it means anything
            self._without.append(shown.slide_id)
        else:
            self._scores.append(score)
        self._outlined[shown.slide_id] = self._regions.classes(regions)
        return self._outlined[shown.slide_id]

    def _draw(
        self, shown: SlideMap, outlined: Sequence[RegionClass], below: Path
    ) -> dict[str, Path]:
        """The map with crops, the dispersion and the last contribution."""
        place, stem = Path("pictures") / below, file_name(shown.slide_id)
        first, *others = shown.layers()
        background = shown.background
        crops = [] if shown.slide is None else read_crops(shown.slide, first, _CROPS)
        marks = [*shown.marks]
        if crops:
            which = "1" if len(crops) == 1 else f"1 to {len(crops)}"
            marks.append(f"{which}: the highest places, among the top quarter of the patches")
        figure = overlay_figure(
            first, background, shown.slide_id, outlined=outlined, crops=crops, marks=marks,
            subtitle=shown.subtitle,
        )  # fmt: skip
        files = self._save(figure, place / stem, {"png": ".png", "pdf": ".pdf"})
        wanted = {"contribution": ("contributions", others[len(shown.classes) - 1])}
        if shown.sd is not None:
            wanted["sd"] = ("dispersion", others[-1])
        for key, (folder, layer) in wanted.items():
            figure = overlay_figure(
                layer, background, shown.slide_id, outlined=outlined, subtitle=shown.subtitle,
                marks=shown.marks,
            )  # fmt: skip
            files |= self._save(figure, Path(folder) / below / stem, {key: ".png"})
        return files

    def _draw_both(
        self, a: SlideMap, b: SlideMap, outlined: Sequence[RegionClass]
    ) -> dict[str, Path]:
        """Two encoders on one scale, the one that the first is held against on the left."""
        figure = panel_figure(
            [b.layers()[0], a.layers()[0]], b.background, b.slide_id,
            outlined=outlined, marks=b.marks, subtitle=_of_both(b, a),
        )  # fmt: skip
        place = Path("panels") / file_name(b.slide_id)
        return self._save(figure, place, {"panel_png": ".png", "panel_pdf": ".pdf"})

    def _save(self, figure: Figure, place: Path, kinds: dict[str, str]) -> dict[str, Path]:
        files = {}
        for key, suffix in kinds.items():
            files[key] = place.with_name(f"{place.name}{suffix}")
            save_map(figure, self.out / files[key])
        return files

    def _say_placeless(self) -> None:
        """Say once what maps do not have whose features say nothing of the places of patches."""
        if not self._placeless:
            return
        lacking = ["picture"] if self._wishes.pictures else []
        lacking += ["file for QuPath"] if self._wishes.geojson else []
        lacking += ["page in the viewer"] if self._wishes.viewer else []
        sheets = self._wishes.top and not self._ranked
        lacking += ["place on the contact sheets"] if sheets else []
        if lacking:
            say(
                f"{self._placeless} map(s) have no {' and no '.join(lacking)}: their features do "
                "not say where on a slide the patches lie"
                + ("; --patches DIR names the images that they were made of" if sheets else "")
            )

    def _sheets(self) -> list[str]:
        if not self._wishes.top or not self._maps:
            return []
        if not self._ranked:
            if self._placeless == len(self._maps):
                return []
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
        views = (  # the maps of one slide at a time
            slide_view(
                [read_map(path, slide) for path, slide in stored],
                top=self._wishes.top,
                outlined=self._outlined.get(name, ()),
            )
            for name, stored in self._stored.items()
        )
        return write_viewer(
            self.out / "viewer",
            views,
            total=len(self._stored),
            viewer_px=self._wishes.viewer_px,
        )

    def _region_scores(self) -> RegionScores | None:
        if self._regions is None:
            return None
        if not self._outlined:
            raise self._regions.none_of_a_slide()
        if not self._scores:
            raise self._regions.none_holds_a_patch()
        return RegionScores(tuple(self._scores), tuple(dict.fromkeys(self._without)))


def write_maps(maps: Iterable[SlideMap], out: Path, wishes: Wishes | None = None) -> Written:
    """Write maps into a folder; see the module.

    Args:
        maps: The maps, those of a second encoder after all of the first.
        out: The folder.
        wishes: What is written beside maps and pictures.
    """
    return MapFolder(out, wishes or Wishes()).take(maps)


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
        "patches": len(shown.contribution),
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


def _of_both(a: SlideMap, b: SlideMap) -> str:
    """Case, task, what each of two encoders predicts, and the truth."""
    said = [f"{encoder_title(one.encoder)} {one.prediction}" for one in (a, b) if one.prediction]
    parts = [*replace(a, predicted=(), about={}).subtitle.split("; "), *said, a.truth]
    return "; ".join(part for part in parts if part)
