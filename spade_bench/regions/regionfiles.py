"""Regions of interest as GeoJSON, as QuPath writes it: reading, finding and writing files.

QuPath counts pixels from the top-left corner of what was scanned. Where a file says that this lies
elsewhere than at pixel 0 (`openslide.bounds-x`, as MRXS does), regions are moved by that offset.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade_bench.errors import DataError, name_some
from spade_bench.files import atomic_path, parse_json
from spade_bench.regions.outlines import Colour, Region, SlideRegions, no_such_region

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SUFFIXES",
    "check_names",
    "find_regions",
    "read_regions",
    "region_slide_id",
    "write_geojson",
]

SUFFIXES = (".geojson.gz", ".json.gz", ".geojson", ".json")
_SHAPES = ("Polygon", "MultiPolygon")
# What QuPath exports beside annotations: what a program found or cut, not what somebody outlined.
_NOT_OUTLINED = frozenset({"detection", "cell", "tile", "tma_core", "root"})
_GZIP = b"\x1f\x8b"


def region_slide_id(path: Path) -> str:
    """Return the slide that a region file speaks of: its name without suffix."""
    name = path.name
    suffix = next((end for end in SUFFIXES if name.lower().endswith(end)), "")
    return name[: -len(suffix)] if suffix else name


def find_regions(path: Path) -> dict[str, Path]:
    """Find the region file of every slide: `SLIDE.geojson`, `.json`, or either with `.gz`.

    Args:
        path: A folder, searched to the bottom, or one such file.

    Returns:
        Slide id -> file, sorted by slide id.

    Raises:
        DataError: When it is missing or holds none, or a slide has two.
    """
    if path.is_file():
        if not path.name.lower().endswith(SUFFIXES):
            raise DataError(
                "not a GeoJSON file by its name", where=str(path), fix=f"Use {', '.join(SUFFIXES)}"
            )
        return {region_slide_id(path): path}
    if not path.is_dir():
        raise DataError("no such folder or file of regions", where=str(path))
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if not file.name.lower().endswith(SUFFIXES) or not file.is_file():
            continue
        if any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        slide = region_slide_id(file)
        if slide in found:
            raise DataError(
                f"slide '{slide}' has two region files, {found[slide].relative_to(path)} and "
                f"{file.relative_to(path)}",
                where=str(path),
                fix="Keep one of them",
            )
        found[slide] = file
    if not found:
        raise DataError(
            "no region files (SLIDE.geojson)",
            where=str(path),
            fix="Export annotations from QuPath with File > Export objects as GeoJSON, one file "
            "per slide and named after it",
        )
    return dict(sorted(found.items()))


def read_regions(
    path: str | Path,
    *,
    slide_id: str | None = None,
    offset: tuple[int, int] = (0, 0),
    size: tuple[int, int] | None = None,
    names: Sequence[str] = (),
) -> SlideRegions:
    """Read the annotations of one slide.

    Takes a FeatureCollection, a list of features, one feature, or a bare geometry; of each
    feature the polygon or polygons with their holes, its name and its class. Detections, cells
    and tiles in the same file are left out, as nobody outlined them.

    Args:
        path: The file; one that is compressed with gzip is recognised by what it holds.
        slide_id: The slide; None takes the name of the file.
        offset: Level-0 pixel (x, y) that the file calls (0, 0); see `Slide.offset`.
        size: Level-0 width and height of the slide, to refuse what lies outside; None does not.
        names: Take only what has one of these as its class or name; empty takes all.

    Raises:
        DataError: When it is not GeoJSON, has no region, or a region is not a sound area: a ring
            that is open or crosses itself, other than two finite numbers per point, no area, or
            something outside the slide.
    """
    file = Path(path)
    listed = _features(_parsed(file), str(file))
    kept = [(n, f) for n, f in enumerate(listed, start=1) if _is_outlined(f, n, str(file))]
    if not kept:
        others = f": it holds {len(listed)} detections or tiles" if listed else ""
        raise DataError(
            f"no region{others}", where=str(file), fix="Outline one, or leave the file out"
        )
    regions = tuple(_region(feature, number, str(file)) for number, feature in kept)
    found = SlideRegions(slide_id or region_slide_id(file), regions).moved(*offset)
    if size is not None:
        found.check_size(*size, where=str(file))
    if not names:
        return found
    chosen = found.called(names)
    if chosen is None:
        raise no_such_region(found, names, str(file))
    return chosen


def check_names(slides: Iterable[SlideRegions], names: Sequence[str]) -> None:
    """Refuse a name that no region of any slide has, before anything is computed.

    Args:
        slides: The regions of each slide.
        names: Classes or names of regions.

    Raises:
        DataError: Naming those that no file has, and what there is.
    """
    missing, there = {name.casefold(): name for name in names}, dict[str, None]()
    for regions in slides:
        there |= dict.fromkeys(regions.labels)
        for label in regions.labels:
            missing.pop(label.casefold(), None)
        if not missing:
            return
    raise DataError(
        f"no region of any slide is called {' or '.join(map(repr, missing.values()))}",
        where="--region-name",
        fix=f"There are {name_some(there, 10)}" if there else "No region has a class or a name",
    )


def write_geojson(path: str | Path, features: Sequence[Mapping[str, Any]]) -> Path:
    """Write features as a FeatureCollection, one per line; compressed where the name ends in `.gz`.

    Args:
        path: The file.
        features: GeoJSON features.
    """
    import json

    lines = ",\n".join(json.dumps(f, separators=(",", ":"), allow_nan=False) for f in features)
    data = f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'.encode()
    target = Path(path)
    with atomic_path(target) as temporary:
        # No time stamp: the same regions are the same bytes.
        packed = target.suffix.lower() == ".gz"
        temporary.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return target


def region_features(regions: SlideRegions) -> list[dict[str, Any]]:
    """Return annotations as QuPath reads them, with their names and classes."""
    import shapely

    features = []
    for region in regions.regions:
        properties: dict[str, Any] = {"objectType": "annotation", "isLocked": True}
        if region.name:
            properties["name"] = region.name
        if region.label:
            properties["classification"] = {"name": region.label}
            if region.colour is not None:
                properties["classification"]["color"] = list(region.colour)
        geometry = shapely.geometry.mapping(region.shape)
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return features


def _parsed(file: Path) -> Any:
    """What a file holds.

    Raises:
        DataError: When it is not JSON in UTF-8, with or without a byte-order mark.
    """
    content = _text(file).removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(
            "is in UTF-16, not UTF-8", where=str(file), fix="Save it as UTF-8, or export it again"
        )
    try:
        return parse_json(content, str(file))
    except DataError as error:
        raise DataError(
            error.what, where=str(file), fix="It may be cut short or edited: export it again"
        ) from error


def _text(file: Path) -> bytes:
    if not file.is_file():
        raise DataError("no such region file", where=str(file))
    content = file.read_bytes()
    if not content.startswith(_GZIP):
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"cannot be decompressed ({error})", where=str(file), fix="Export it again"
        ) from error


def _features(content: Any, where: str) -> list[Mapping[str, Any]]:
    """The features of a collection, a list, a feature or a geometry."""
    if isinstance(content, Mapping) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    items = content if isinstance(content, list) else [content]
    features: list[Mapping[str, Any]] = []
    for number, item in enumerate(items, start=1):
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "Feature":
            features.append(item)
        elif isinstance(kind, str) and "coordinates" in item:
            features.append({"geometry": item, "properties": None})
        else:
            place = f"entry {number} is" if isinstance(content, list) else "holds"
            raise DataError(
                f"{place} neither a GeoJSON feature nor a geometry",
                where=where,
                fix="Export annotations from QuPath with File > Export objects as GeoJSON",
            )
    return features


def _properties(feature: Mapping[str, Any], number: int, where: str) -> Mapping[str, Any]:
    properties = feature.get("properties")
    if properties is None:
        return {}
    if not isinstance(properties, Mapping):
        raise DataError(f"annotation {number}: its properties are not keys and values", where=where)
    return properties


def _is_outlined(feature: Mapping[str, Any], number: int, where: str) -> bool:
    """Whether somebody drew it; older files of QuPath say `object_type`, other programs nothing."""
    properties = _properties(feature, number, where)
    kind = properties.get("objectType", properties.get("object_type", ""))
    return str(kind).lower() not in _NOT_OUTLINED


def _region(feature: Mapping[str, Any], number: int, where: str) -> Region:
    properties = _properties(feature, number, where)
    name = str(properties.get("name") or "")
    place = f"annotation {number}{f' ({name!r})' if name else ''}"
    of_class = properties.get("classification")
    label = _label(of_class, place, where)
    return Region(_shape(feature.get("geometry"), place, where), name, label, _colour(of_class))


def _colour(of_class: Any) -> Colour | None:
    """The colour of a class: `color` [r, g, b], or in older files `colorRGB`, one packed number.

    Anything else is no reason to refuse an outline: it is drawn in a colour of ours.
    """
    if not isinstance(of_class, Mapping):
        return None
    packed, given = of_class.get("colorRGB"), of_class.get("color")
    if given is None and type(packed) is int:
        given = [packed >> 16 & 255, packed >> 8 & 255, packed & 255]
    if not isinstance(given, list) or len(given) != 3:
        return None
    if any(type(part) is not int or not 0 <= part <= 255 for part in given):
        return None
    return given[0], given[1], given[2]


def _label(of_class: Any, place: str, where: str) -> str:
    """The class of an annotation: a text, a mapping with its name, or with a name per level.

    Raises:
        DataError: When it is anything else.
    """
    label = of_class
    if isinstance(of_class, Mapping):
        label = of_class.get("name")
        levels = of_class.get("names")
        if label is None and isinstance(levels, list):  # QuPath 0.5
            label = ": ".join(map(str, levels))
        elif label is None:
            label = levels  # which is no name either, unless there is none
    if label is not None and not isinstance(label, str):
        raise DataError(
            f"{place}: its classification has no name that is a text",
            where=where,
            fix="Export it again from QuPath, or delete the classification",
        )
    return label or ""


def _shape(geometry: Any, place: str, where: str) -> Any:
    """A sound polygon or several."""
    import shapely

    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if kind not in _SHAPES:
        raise DataError(
            f"{place} is a {kind}, which has no area" if kind else f"{place} has no geometry",
            where=where,
            fix="Outline an area, or delete it before the export",
        )
    parts = geometry.get("coordinates")
    parts = [parts] if kind == "Polygon" else parts
    if not isinstance(parts, list) or not parts:
        raise DataError(f"{place} has no coordinates", where=where)
    polygons = [_polygon(part, place, where) for part in parts]
    shape = polygons[0] if kind == "Polygon" else shapely.MultiPolygon(polygons)
    if not shapely.is_valid(shape):
        why = str(shapely.is_valid_reason(shape)).replace("[", " at ").replace("]", "")
        raise DataError(
            f"{place} is not a sound area ({why})",
            where=where,
            fix="Draw it again, so that no ring crosses itself or another",
        )
    if not shape.area > 0:
        raise DataError(f"{place} has no area", where=where, fix="Draw it again, or delete it")
    return shape


def _polygon(rings: Any, place: str, where: str) -> Any:
    import shapely

    if not isinstance(rings, list) or not rings:
        raise DataError(f"{place} has a polygon without rings", where=where)
    outer, *holes = (_ring(ring, place, where) for ring in rings)
    return shapely.Polygon(outer, holes)


def _ring(ring: Any, place: str, where: str) -> np.ndarray:
    """The points of a closed ring, (m, 2)."""
    import numpy as np

    try:
        points = np.array(ring)
    except (ValueError, TypeError):  # points of several lengths
        points = np.array(None)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise DataError(f"{place}: a point is not two numbers, x and y", where=where)
    if not np.isfinite(points).all():
        raise DataError(f"{place}: a coordinate is not a finite number", where=where)
    if len(points) < 4 or (points[0] != points[-1]).any():
        raise DataError(
            f"{place}: a ring of {len(points)} points is not closed",
            where=where,
            fix="Repeat the first point at the end",
        )
    return points.astype(np.float64)
