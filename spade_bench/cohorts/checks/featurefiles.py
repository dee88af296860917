"""Checks of feature files against a table: coverage, content, width, encoder, resolution."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spade_bench.cohorts.checks.featurescan import FeatureScan
from spade_bench.cohorts.checks.issues import Issue, error, note, warning
from spade_bench.features.bags import same_encoder

__all__ = ["Expected", "check_features"]

_SAME_MPP = 1.05
_MISSING_FIX = (
    "Extract them, or run with --allow-missing, which leaves these slides out and says so"
)


@dataclass(frozen=True)
class Expected:
    """What features should be like, where that is known.

    Attributes:
        encoder: Name of the encoder.
        dim: Its width.
    """

    encoder: str | None = None
    dim: int | None = None


def check_features(scan: FeatureScan, slides: Mapping[str, str], expected: Expected) -> list[Issue]:
    """Check what was found.

    Args:
        scan: The folder.
        slides: Slide of the table -> its case.
        expected: What the features should be like.
    """
    issues = _coverage(scan, slides)
    issues += _content(scan)
    issues += _widths(scan, expected)
    issues += _encoders(scan, expected)
    return issues + _resolutions(scan)


def _coverage(scan: FeatureScan, slides: Mapping[str, str]) -> list[Issue]:
    missing = [
        slide for slide in slides if slide not in scan.files and slide not in scan.unreadable
    ]
    have = len(slides) - len(missing)
    issues = [
        note("coverage", f"{have} of {len(slides)} slides of the table have a file", count=have)
    ]
    if missing:
        left = {case for slide, case in slides.items() if slide not in set(missing)}
        gone = len(set(slides.values()) - left)
        text = f"{len(missing)} slide(s) of the table have no features"
        text += f"; {gone} case(s) would be left without any" if gone else ""
        issues.append(error("coverage", text, missing, fix=_MISSING_FIX))
    broken = [f"{name} ({why})" for name, why in scan.unreadable.items() if name in slides]
    if broken:
        issues.append(
            error("unreadable", f"{len(broken)} file(s) cannot be read", broken, fix=_MISSING_FIX)
        )
    extra = sorted(set(scan.files) - set(slides))
    if extra:
        issues.append(note("coverage", f"{len(extra)} file(s) are not in the table", extra))
    if scan.twice:
        issues.append(
            error(
                "duplicate-files",
                f"{len(scan.twice)} slide(s) have several feature files",
                [f"{slide}: {len(paths)} files" for slide, paths in scan.twice.items()],
                fix="Name the folder of one encoder",
            )
        )
    return issues


def _content(scan: FeatureScan) -> list[Issue]:
    issues = []
    empty = [slide for slide, bag in scan.bags.items() if not bag.n]
    if empty:
        issues.append(
            error("empty-bags", f"{len(empty)} slide(s) have no patches", empty, fix=_MISSING_FIX)
        )
    bad = {slide: bag for slide, bag in scan.bags.items() if bag.bad}
    if bad:
        issues.append(
            error(
                "not-finite",
                f"{len(bad)} slide(s) hold NaN or infinite features",
                [f"{slide} ({bag.bad} of {bag.n} rows)" for slide, bag in bad.items()],
                fix="Extract them again; infinity often is float16 overflow",
            )
        )
    by_digest: dict[str, list[str]] = defaultdict(list)
    for slide, bag in scan.bags.items():
        if bag.digest:
            by_digest[bag.digest].append(slide)
    same = [" = ".join(slides) for slides in by_digest.values() if len(slides) > 1]
    if same:
        issues.append(
            warning(
                "same-features",
                f"{len(same)} group(s) of slides have identical features",
                same,
                fix="The same slide under two names, or one file copied over another",
            )
        )
    sizes = sorted(bag.n for bag in scan.bags.values())
    if sizes:
        text = f"{sizes[0]} to {sizes[-1]} patches per slide, median {sizes[len(sizes) // 2]}"
        issues.append(note("bag-sizes", text, count=sum(sizes)))
    return issues


def _widths(scan: FeatureScan, expected: Expected) -> list[Issue]:
    widths = {slide: bag.dim for slide, bag in scan.bags.items() if bag.n}
    if not widths:
        return []
    usual = expected.dim or Counter(widths.values()).most_common(1)[0][0]
    wrong = [f"{slide} ({dim})" for slide, dim in widths.items() if dim != usual]
    if not wrong:
        return [note("width", f"features are {usual} wide", count=len(widths))]
    says = f"encoder {expected.encoder} is {usual} wide" if expected.dim else f"most are {usual}"
    return [
        error(
            "width",
            f"{len(wrong)} slide(s) have features of another width ({says})",
            wrong,
            fix="Features of another encoder, or a broken extraction: extract them again",
        )
    ]


def _encoders(scan: FeatureScan, expected: Expected) -> list[Issue]:
    names = Counter(bag.encoder for bag in scan.bags.values())
    named = sorted({name or "unnamed" for name in {*names, *scan.encoders}})
    if len(named) > 1:
        return [
            error(
                "mixed-encoders",
                f"features of several encoders: {', '.join(named)}",
                named,
                fix="Name the folder of one encoder, or choose one with --encoder",
            )
        ]
    name = next(iter(names), None)
    if name is None and names:
        return [note("encoder", "no file names its encoder", count=len(scan.bags))]
    if expected.encoder is not None and names and not same_encoder(name, expected.encoder):
        return [
            error(
                "encoder",
                f"the files name encoder {name}, not {expected.encoder}",
                [name],
                fix="Name the folder of that encoder",
            )
        ]
    return [note("encoder", f"encoder {name}", count=len(scan.bags))] if names else []


def _resolutions(scan: FeatureScan) -> list[Issue]:
    known = {slide: bag.mpp for slide, bag in scan.bags.items() if bag.mpp}
    if not known:
        text = "no file gives the resolution of its patches"
        return [note("mpp", text, count=len(scan.bags))] if scan.bags else []
    low, high = min(known.values()), max(known.values())
    if high <= low * _SAME_MPP:
        unknown = len(scan.bags) - len(known)
        text = f"patches at {_span(low, high)} µm/px" + (f"; {unknown} unknown" if unknown else "")
        return [note("mpp", text, count=len(known))]
    usual = _usual(list(known.values()))
    other = [
        f"{slide} ({mpp:g})"
        for slide, mpp in known.items()
        if not usual / _SAME_MPP <= mpp <= usual * _SAME_MPP
    ]
    return [
        error(
            "mixed-mpp",
            f"patches were encoded at {low:g} to {high:g} µm/px; most at {usual:g}",
            other,
            fix="Extract all slides at one resolution",
        )
    ]


def _usual(values: Sequence[float]) -> float:
    return Counter(round(value, 3) for value in values).most_common(1)[0][0]


def _span(low: float, high: float) -> str:
    return f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
