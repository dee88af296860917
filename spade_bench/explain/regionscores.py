"""How well maps agree with what was outlined, in numbers: per slide, over slides, and in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from spade_bench.errors import DataError, name_some
from spade_bench.files import atomic_path, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.explain.slidemap import SlideMap
    from spade_bench.regions.outlines import SlideRegions
    from spade_bench.statistics.intervals import Interval

    Floats = NDArray[np.float64]

__all__ = [
    "METRICS",
    "RegionDifference",
    "RegionMean",
    "RegionScore",
    "RegionScores",
    "score_slide",
    "score_slides",
]

SCHEMA = "spade-bench/region-scores/1"
METRICS = ("attention_share", "ratio", "auroc", "contribution_auroc")
_FEWEST_CASES = 5  # the spread of fewer is a guess


@dataclass(frozen=True)
class RegionScore:
    """A map of one slide against its regions.

    Attributes:
        slide_id: Name of the slide.
        case_id: Case that it belongs to.
        encoder: Encoder of the features.
        head: Name of the head.
        task: Name of the task.
        shown: What was held against the regions: `attention`, or `towards CLASS`.
        region: Classes or names of the regions.
        patches: Patches of the slide.
        inside: Patches in a region.
        area_share: Share of the patches that lies inside: what blind attention would give.
        attention_share: Share of the attention inside; None where the head has no attention.
        ratio: The one over the other: 1 is blind, above 1 attends to the region.
        auroc: Chance that more is shown of a patch inside than of one outside, ties counted half;
            None where all patches lie on one side.
        contribution_auroc: The same of the signed contribution. Attention does not say what a patch
            speaks for: where a case is of the other class, it may well lie outside.
        towards: What the contribution speaks for: the last class, or `risk`.
        trained: Whether the case trained a model that drew the map.
    """

    slide_id: str
    case_id: str
    encoder: str
    head: str
    task: str
    shown: str
    region: str
    patches: int
    inside: int
    area_share: float
    attention_share: float | None
    ratio: float | None
    auroc: float | None
    contribution_auroc: float | None = None
    towards: str = ""
    trained: bool = False


@dataclass(frozen=True)
class RegionMean:
    """A metric of one encoder and head over slides.

    Attributes:
        encoder: The encoder.
        head: The head.
        task: The task.
        metric: One of `METRICS`.
        slides: Slides that have it.
        cases: Cases of these slides, which are what is resampled.
        mean: Mean over cases of the mean over their slides.
        low: Lower end of the 95% interval; None below five cases.
        high: Upper end.
    """

    encoder: str
    head: str
    task: str
    metric: str
    slides: int
    cases: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class RegionDifference:
    """A metric of encoder `a` minus that of `b` on the same slides.

    Attributes:
        a: The one encoder.
        b: The other.
        head: The head of both.
        task: The task.
        metric: One of `METRICS`.
        slides: Slides that both have.
        cases: Cases of these slides.
        mean: Mean difference.
        low: Lower end of the 95% interval; None below five cases.
        high: Upper end.
        p: Two-sided p value of the bootstrap; None below five cases.
    """

    a: str
    b: str
    head: str
    task: str
    metric: str
    slides: int
    cases: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class RegionScores:
    """The scores of many maps.

    Attributes:
        slides: One score per map.
        without: Slides that have a map and no region that holds a patch.
    """

    slides: tuple[RegionScore, ...]
    without: tuple[str, ...] = ()

    @property
    def judged(self) -> tuple[RegionScore, ...]:
        """Scores that means are taken of: held-out cases; those that trained, where all did."""
        return tuple(score for score in self.slides if not score.trained) or self.slides

    def means(self, seed: int = 0) -> list[RegionMean]:
        """Return each metric of each encoder with each head, with an interval over cases.

        Args:
            seed: Seed of the resampling.
        """
        out = []
        for (encoder, head, task), scores in _grouped(self.judged, _series).items():
            for metric in METRICS:
                values = _values(scores, metric)
                if values:
                    by_case = _by_case(scores, values)
                    found = _interval(by_case, seed)
                    few = len(by_case) < _FEWEST_CASES
                    ends = (None, None) if few else _possible(found.low, found.high, metric)
                    out.append(RegionMean(encoder, head, task, metric, len(values), len(by_case),
                                          found.mean, *ends))  # fmt: skip
        return out

    def differences(self, a: str, b: str, seed: int = 0) -> list[RegionDifference]:
        """Return `a` minus `b` on the slides that both have, paired, with an interval over cases.

        Args:
            a: Label of an encoder.
            b: Label of another one, such as the base of the first.
            seed: Seed of the resampling.

        Raises:
            DataError: When one of them has no scores, or they share no slide and head.
        """
        out = []
        there = {score.encoder for score in self.slides}
        for name in (a, b):
            if name not in there:
                raise DataError(f"no map of encoder '{name}' has a region",
                                fix=f"Use {', '.join(sorted(there))}")  # fmt: skip
        series = _grouped(self.judged, _series)
        for (encoder, head, task), mine in series.items():
            others = series.get((b, head, task))
            if encoder != a or others is None:
                continue
            for metric in METRICS:
                first, second = _values(mine, metric), _values(others, metric)
                shared = {s: first[s] - second[s] for s in first if s in second}
                if not shared:
                    continue
                by_case = _by_case(mine, shared)
                found = _interval(by_case, seed)
                rest: tuple[float | None, ...] = (found.low, found.high, found.p)
                if len(by_case) < _FEWEST_CASES:
                    rest = (None, None, None)
                out.append(RegionDifference(a, b, head, task, metric, len(shared), len(by_case),
                                            found.mean, *rest))  # fmt: skip
        if not out:
            raise DataError(f"'{a}' and '{b}' have no slide with one head in common")
        return out

    def write(self, folder: Path, pairs: Sequence[tuple[str, str]] = ()) -> tuple[Path, Path]:
        """Write a row per slide, and all of it with means and differences.

        Args:
            folder: Where `region_scores.csv` and `region_scores.json` go.
            pairs: Pairs of encoders to compare, as (a, b) for `a` minus `b`.

        Returns:
            Both files.
        """
        import pandas as pd

        rows = [asdict(score) for score in self.slides]
        table = folder / "region_scores.csv"
        names = [item.name for item in fields(RegionScore)]
        with atomic_path(table) as temporary:
            pd.DataFrame(rows, columns=names).to_csv(temporary, index=False)
        content = {
            "schema": SCHEMA,
            "slides": rows,
            "without_region": list(self.without),
            "means": [asdict(one) for one in self.means()],
            "differences": [asdict(d) for a, b in pairs for d in self.differences(a, b)],
            "interval": "95%, bootstrap over cases; a case's value is the mean of its slides",
        }
        write_json(folder / "region_scores.json", content)
        return table, folder / "region_scores.json"


def score_slide(
    slide_map: SlideMap, regions: SlideRegions, *, share: float | None = None
) -> RegionScore:
    """Hold the map of a slide against its regions.

    Args:
        slide_map: The map.
        regions: What was outlined, in level-0 pixels of the slide's file (`read_regions` with the
            slide's offset).
        share: Least share of a patch's area that must lie inside; None asks for its centre.

    Raises:
        DataError: When the regions are of another slide, or nobody knows where patches lie.
    """
    slide_map.need_places("a region")
    if regions.slide_id != slide_map.slide_id:
        raise DataError(
            f"the regions are of '{regions.slide_id}', not of '{slide_map.slide_id}'",
            fix="Name the region file after its slide",
        )
    inside = regions.inside(slide_map.coords, slide_map.side, share=share)  # (n,)
    attention, n, k = slide_map.attention, len(inside), int(inside.sum())
    of_area = k / n
    within = None
    if attention is not None:
        within = float(attention[inside].sum() / attention.sum())
    return RegionScore(
        slide_id=slide_map.slide_id,
        case_id=slide_map.case_id,
        encoder=slide_map.encoder,
        head=slide_map.head,
        task=slide_map.task,
        shown="attention" if attention is not None else f"towards {slide_map.classes[-1]}",
        region=", ".join(regions.labels),
        patches=n,
        inside=k,
        area_share=of_area,
        attention_share=within,
        ratio=None if within is None or not k else within / of_area,
        auroc=_auroc(slide_map.shown, inside),
        contribution_auroc=_auroc(slide_map.contribution[:, -1], inside),
        towards=slide_map.classes[-1],
        trained=slide_map.trained,
    )


def score_slides(
    maps: Iterable[SlideMap],
    regions: Mapping[str, SlideRegions],
    *,
    share: float | None = None,
) -> RegionScores:
    """Hold maps against the regions of their slides.

    Args:
        maps: Maps of any slides, encoders and heads.
        regions: Slide id -> its regions; slides without any are listed and not scored.
        share: See `score_slide`.

    Raises:
        DataError: When none of the slides has a region.
    """
    scores, without, seen = [], [], []
    for one in maps:
        seen.append(one.slide_id)
        if one.slide_id in regions:
            scores.append(score_slide(one, regions[one.slide_id], share=share))
        else:
            without.append(one.slide_id)
    if not scores:
        raise DataError(
            f"none of the slides has a region: {name_some(dict.fromkeys(seen)) or 'there is none'}",
            fix="Name each region file after its slide, SLIDE.geojson",
        )
    return RegionScores(tuple(scores), tuple(dict.fromkeys(without)))


def _series(score: RegionScore) -> tuple[str, str, str]:
    return score.encoder, score.head, score.task


def _grouped(
    scores: Iterable[RegionScore], key: Callable[[RegionScore], tuple[str, str, str]]
) -> dict[tuple[str, str, str], list[RegionScore]]:
    out: dict[tuple[str, str, str], list[RegionScore]] = {}
    for score in scores:
        out.setdefault(key(score), []).append(score)
    return out


def _values(scores: Iterable[RegionScore], metric: str) -> dict[str, float]:
    """Slide id -> the metric, where it is known."""
    known = ((score.slide_id, getattr(score, metric)) for score in scores)
    return {slide: value for slide, value in known if value is not None}


def _by_case(scores: Iterable[RegionScore], values: Mapping[str, float]) -> list[float]:
    """Mean over the slides of each case, in the order of the cases."""
    of_cases: dict[str, list[float]] = {}
    for score in scores:
        if score.slide_id in values:
            of_cases.setdefault(score.case_id, []).append(values[score.slide_id])
    return [sum(listed) / len(listed) for listed in of_cases.values()]


def _possible(low: float, high: float, metric: str) -> tuple[float, float]:
    """An interval of few cases is wide; what no share and no AUROC can be is cut off."""
    return (low, high) if metric == "ratio" else (max(0.0, low), min(1.0, high))


def _interval(values: Sequence[float], seed: int) -> Interval:
    """Mean over cases with its bootstrap interval, widened for how few they are."""
    import numpy as np

    from spade_bench.statistics.intervals import case_weights, paired_interval

    of_cases, nothing = np.asarray(values), np.zeros(1)  # (n,)
    weights = case_weights(np.zeros(len(of_cases), dtype=np.int64), seed=seed)  # (B, n)
    boot = (weights @ of_cases / len(of_cases))[None]  # (1, B)
    zero = (nothing, np.zeros_like(boot))
    return paired_interval((of_cases.mean(keepdims=True), boot), zero, seed, len(of_cases))


def _auroc(values: Floats, inside: NDArray[np.bool_]) -> float | None:
    """Chance that a patch inside has the higher value, ties counted half; None with one side."""
    import numpy as np

    from spade_bench.statistics.metrics import auroc

    if inside.all() or not inside.any():
        return None
    return float(auroc(inside.astype(np.int64), np.stack([-values, values], axis=1))[0])
