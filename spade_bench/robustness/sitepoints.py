"""Points of a cohort, slides or patches, with class, centre and case; of every encoder alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from spade_bench.cohorts.labels.barcodes import site_of
from spade_bench.cohorts.tables import read_table
from spade_bench.console import say, track
from spade_bench.errors import ConfigError, DataError, UserError, name_some
from spade_bench.evaluation.taskpreparation import PreparedTask

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from spade_bench.features.casebags import CaseBags

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

__all__ = ["Kind", "PointSet", "Points", "Sample", "centres_of", "cohort_points"]

Kind = Literal["slides", "patches"]


@dataclass(frozen=True)
class PointSet:
    """What is known of the points, whichever encoder made their features.

    Attributes:
        kind: `slides` or `patches`.
        names: Name of each point, n of them.
        labels: Names of the classes.
        centres: Names of the centres.
        label: (n,) class of each point.
        centre: (n,) centre of each point.
        group: (n,) case of each point; neighbours of one case never count.
        by: What the centres are, such as `site`.
    """

    kind: Kind
    names: tuple[str, ...]
    labels: tuple[str, ...]
    centres: tuple[str, ...]
    label: Ints
    centre: Ints
    group: Ints
    by: str = "site"


@dataclass(frozen=True)
class Points:
    """The features of an encoder, or of a control, at the points.

    Attributes:
        encoder: Label.
        x: (n, D).
        control: Name of the control that it is; empty for an encoder itself.
        control_of: Label of the encoder beside which the control stands.
        flags: What a reader must know.
    """

    encoder: str
    x: Floats
    control: str = ""
    control_of: str = ""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Which points are taken of a slide.

    Attributes:
        kind: One point, the mean of its patches, or sampled patches.
        per_slide: Most patches of a slide.
        seed: Seed of the sample.
    """

    kind: Kind = "slides"
    per_slide: int = 30
    seed: int = 0


def cohort_points(
    prepared: PreparedTask, table: Path, by: str, sample: Sample
) -> tuple[PointSet, list[Points]]:
    """Take the points of a prepared task, for every encoder and control of features.

    Args:
        prepared: The task: cases with classes, and encoders.
        table: Its table, which names the centres.
        by: Column of the centre.
        sample: Which points.

    Raises:
        DataError: When centres are missing, or there is one of them or one class only.
        UserError: When patches are wanted of an encoder that makes one vector per slide.
    """
    import numpy as np

    cases = prepared.cohort.cases
    owner = [(slide, at) for at, case in enumerate(cases) for slide in case.slide_ids]
    slides = [slide for slide, _ in owner]
    case = np.array([at for _, at in owner], dtype=np.int64)  # (S,)
    centre_of = centres_of(table, by, prepared.card.case_column, prepared.card.slide_column)
    missing = [slide for slide in slides if slide not in centre_of]
    if missing:
        raise DataError(
            f"{len(missing)} slide(s) have no {by}: {name_some(missing)}",
            where=str(table),
            fix="Fill in the column, or leave these slides out of the table",
        )
    labels = prepared.cohort.classes
    centres = tuple(sorted({centre_of[slide] for slide in slides}))
    if len(centres) < 2 or len(labels) < 2:
        raise DataError(
            f"{len(labels)} class(es) at {len(centres)} {by}(s): there is nothing to tell apart",
            where=str(table),
            fix=f"Two classes and two values of {by} are needed; name another column with --by",
        )
    target = np.asarray(prepared.target, dtype=np.int64)  # (n_cases,)
    place = np.array([centres.index(centre_of[slide]) for slide in slides], dtype=np.int64)
    rows = [row for row in prepared.rows if not row.permute]
    points: list[Points] = []
    sizes: list[int] = []
    chosen = [np.zeros(1, dtype=np.int64) for _ in slides]  # of slides the mean is the one point
    for row in track(rows, "Gathering points", len(rows), "encoders"):
        bags = row.make(_slide_bags(prepared, row, slides), range(len(slides)))
        if sample.kind == "patches":
            found = [bags.length(i) for i in range(len(slides))]
            if sizes and found != sizes:
                raise UserError(
                    f"'{row.label}' has other patches than '{points[0].encoder}', so that no patch "
                    "can be compared",
                    fix="Leave it out, or use --points slides",
                )
            sizes = found
            chosen = _sample(sizes, sample.per_slide, sample.seed)
            parts = [bags[i][take] for i, take in enumerate(chosen)]
            x = np.concatenate(parts).astype(np.float64)  # (n, D)
        else:
            x = bags.pooled()  # (S, D)
        flags = (*row.flags, *row.notes)
        points.append(Points(row.label, x, row.control, row.control_of, flags))
    at = np.repeat(np.arange(len(slides)), [len(take) for take in chosen])  # (n,)
    names = tuple(slides)
    if sample.kind == "patches":
        names = tuple(f"{slides[i]}#{p}" for i, take in enumerate(chosen) for p in take.tolist())
    group = case[at]
    label, centre = target[group], place[at]  # (n,) each
    return PointSet(sample.kind, names, labels, centres, label, centre, group, by), points


def centres_of(
    table: Path, by: str, case_column: str = "", slide_column: str = ""
) -> dict[str, str]:
    """Return the centre of each slide of a table.

    Args:
        table: The cohort table.
        by: Column; `site` where there is none falls back to the tissue source site in the TCGA
            barcodes of the cases.
        case_column: What the table calls the case; empty for `case_id`.
        slide_column: What it calls the slide.

    Raises:
        ConfigError: When there is no such column.
    """
    frame = read_table(table)
    case, slide = case_column or "case_id", slide_column or "slide_id"
    if by in frame:
        known = frame.dropna(subset=[slide, by])
        return dict(zip(known[slide].astype(str), known[by].astype(str), strict=True))
    names = [str(name) for name in frame[case]] if case in frame else []
    if by != "site" or not names or not all(name.startswith("TCGA-") for name in names):
        listed = name_some([str(name) for name in frame.columns], 12)
        raise ConfigError(
            f"there is no column '{by}' (found {listed})", where=str(table),
            fix="Name the column of the site or scanner with --by",
        )  # fmt: skip
    say("site: the tissue source site in the TCGA barcodes, because there is no column 'site'")
    return dict(zip(frame[slide].astype(str), map(site_of, names), strict=True))


def _slide_bags(prepared: PreparedTask, row: Any, slides: Sequence[str]) -> CaseBags:
    """Bags of single slides, from the files a row starts from."""
    from spade_bench.features.casebags import CaseBags

    files = [[row.files[slide]] for slide in slides]
    dim = prepared.infos[files[0][0]].dim
    return CaseBags.from_files(files, dim, cache=prepared.cache, infos=prepared.infos)


def _sample(sizes: Sequence[int], per_slide: int, seed: int) -> list[Ints]:
    """Positions of patches of each slide, the same for every encoder of the same patches."""
    import numpy as np

    rng = np.random.default_rng([seed, 11])
    return [
        np.sort(rng.choice(size, min(size, per_slide), replace=False)).astype(np.int64)
        for size in sizes
    ]
