"""The level-0 resolution of a slide, from what its file says, and what in that cannot be right."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from spade_bench.errors import DataError

__all__ = ["Resolution", "find_resolution", "resolution"]

# No slide scanner resolves finer than the first (a 100x oil objective gives 0.1). Coarser than the
# second is a default of the writing program (72 dpi reads as 353 µm/px), not a measurement.
_FINEST, _COARSEST = 0.08, 20.0
_SQUARE = 0.05  # largest difference between columns and rows, and between two records of one value
# µm per pixel times the objective's power, where 10 is usual: camera adapters make it as small as
# 4.6 (20x at 0.23), binning hardly larger than 14.
_POWER_RANGE = (4.0, 15.0)
_OVERRIDE = "Give the right value, µm per pixel, with --override-mpp"
_UM = {
    "": 1.0, "µm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "pm": 1e-6, "å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "in": 25400.0,
}  # fmt: skip


@dataclass(frozen=True)
class Resolution:
    """How large a level-0 pixel is.

    Attributes:
        mpp: µm per pixel.
        source: Where that comes from.
        notes: What else the file says and does not fit, one clause each.
    """

    mpp: float
    source: str
    notes: tuple[str, ...] = ()


def resolution(properties: Mapping[str, str], assume_mpp: float | None) -> tuple[float, str]:
    """µm per pixel and where it comes from; see `find_resolution`."""
    result = find_resolution(properties, assume_mpp)
    return result.mpp, result.source


def find_resolution(
    properties: Mapping[str, str], assume_mpp: float | None, *, image: int = 0
) -> Resolution:
    """Find the level-0 resolution in a slide's OpenSlide properties.

    In this order: the scanner's µm per pixel, the physical size in an OME description, the
    objective power (10 / power), the TIFF tags, what is assumed. Defaults of writing programs
    count as absent. What does not agree with the value taken is in the notes.

    Args:
        properties: OpenSlide's properties, or tags under the same names.
        assume_mpp: Resolution where the file says none.
        image: Which image of an OME description it is about.

    Raises:
        DataError: When there is none, when it is finer than any scanner's, or when columns and
            rows differ by more than 5%.
    """
    measured = {
        "mpp property": [properties.get(f"openslide.mpp-{axis}") for axis in "xy"],
        "OME description": _ome_sizes(properties.get("tiff.ImageDescription", ""), image),
    }
    known = {source: mpp for source, pair in measured.items() if (mpp := _square(pair, source))}
    power = _number(properties.get("openslide.objective-power"))
    if power is not None and 10 / power < _FINEST:
        raise DataError(
            f"says an objective power of {power:g}, which no slide scanner has: likely the total "
            f"magnification, with the eyepiece's, where {power / 10:g} is meant",
            fix=_OVERRIDE,
        )
    if power is not None and not known:
        known["objective power"] = 10.0 / power
    if tags := _square(_tag_sizes(properties), "TIFF tags"):
        known["TIFF tags"] = tags
    if not known:
        if assume_mpp:
            return Resolution(assume_mpp, "assumed")
        raise DataError(
            "has no usable resolution (no mpp, objective power or plausible TIFF resolution)",
            fix="Give its µm per pixel with --assume-mpp",
        )
    source, mpp = next(iter(known.items()))
    return Resolution(mpp, source, tuple(_notes(mpp, source, known, power)))


def _notes(mpp: float, source: str, known: Mapping[str, float], power: float | None) -> list[str]:
    """What contradicts the value that is taken."""
    # A tag of TIFF beside an objective's power is a better measurement of the same thing.
    notes = [
        f"{source} says {mpp:.4g} µm/px, {other} {value:.4g}"
        for other, value in known.items()
        if abs(value / mpp - 1) > _SQUARE and "objective power" not in (source, other)
    ]
    for name, value in [(source, mpp)] if source != "objective power" else list(known.items())[1:]:
        low, high = _POWER_RANGE
        if power is not None and not low <= value * power <= high:
            notes.append(
                f"{name} says {value:.4g} µm/px and the objective power is {power:g}, which "
                f"usually means {10 / power:.3g}"
            )
    return notes


def _square(texts: list[str | None], source: str) -> float | None:
    """One number for columns and rows; None where one of them is missing or a default."""
    across, down = (_number(text) for text in texts)
    if across is None or down is None or max(across, down) > _COARSEST:
        return None
    if abs(across / down - 1) > _SQUARE:
        raise DataError(
            f"pixels are not square ({across:g} x {down:g} µm, {source})",
            fix="Resample the slide to square pixels; if the file is wrong, give the right value "
            "with --override-mpp",
        )
    mpp = (across + down) / 2
    if mpp < _FINEST:
        factors = {10: "ten", 100: "a hundred", 1000: "a thousand"}
        likely = [(word, mpp * n) for n, word in factors.items() if 0.1 <= mpp * n < 1.1]
        off = f": likely off by {likely[0][0]}, {likely[0][1]:.3g} meant" if likely else ""
        raise DataError(
            f"says {mpp:.3g} µm per pixel ({source}), finer than any slide scanner{off}",
            fix=_OVERRIDE,
        )
    return mpp


def _tag_sizes(properties: Mapping[str, str]) -> list[str | None]:
    """Width and height of a pixel by the TIFF tags, µm."""
    unit = {"centimeter": 1e4, "inch": 25400.0}.get(properties.get("tiff.ResolutionUnit", ""))
    dots = [_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    across, down = dots[0], dots[1] or dots[0]
    return [str(unit / value) if unit and value else None for value in (across, down)]


def _ome_sizes(description: str, image: int) -> list[str | None]:
    """Width and height of a pixel by an OME-XML description, µm."""
    pixels = re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", description) if "OME" in description else []
    if image >= len(pixels):
        return [None, None]
    named = dict(re.findall(r"""(\w+)=["']([^"']*)["']""", pixels[image]))
    across = _ome_size(named, "X")
    return [across, _ome_size(named, "Y") or across]


def _ome_size(named: Mapping[str, str], axis: str) -> str | None:
    value = _number(named.get(f"PhysicalSize{axis}"))
    unit = named.get(f"PhysicalSize{axis}Unit", "µm").replace("\u03bc", "µ")
    for code in ("&#181;", "&#xB5;", "&#xb5;", "&#956;", "&#x3BC;", "&micro;", "\ufffd", "Âµ"):
        unit = unit.replace(code, "µ")
    factor = _UM.get(unit.strip().lower())
    return None if value is None or factor is None else str(value * factor)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
