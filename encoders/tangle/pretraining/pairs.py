"""Pairs a case's slides with its bulk expression, and splits the cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_bench import console
from spade_bench.encoders.tangle.genescale import GeneScale
from spade_bench.encoders.tangle.pretraining.tangleconfig import (
    GeneConfig,
    SplitConfig,
    TangleConfig,
)
from spade_bench.errors import ConfigError, DataError
from spade_bench.features.bags import find_bags
from spade_bench.features.casebags import CaseBags, scan_bags
from spade_bench.features.slidevectors import patch_px
from spade_bench.files import hash_array, hash_obj

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "PairedCases",
    "fit_scale",
    "match_slides",
    "read_expression",
    "read_pairs",
    "split",
]

_MIN_CASES = 12
_SEPARATORS = "-_. "


@dataclass(frozen=True)
class PairedCases:
    """Cases with slides and expression.

    Attributes:
        cases: Case ids, n.
        slides: Slides of each case.
        bags: Patch features of each case.
        expression: Log expression, (n, all genes).
        genes: Names of the genes.
        encoder: Patch encoder, or None when the files do not say.
        patch_px: Side of a patch in pixels, where all files that say so agree.
        mpp: Their resolution, µm/px.
        simulated: Whether the table says that it is simulated.
        digest: Hash of all that training sees.
    """

    cases: tuple[str, ...]
    slides: tuple[tuple[str, ...], ...]
    bags: CaseBags
    expression: NDArray[np.float32]
    genes: tuple[str, ...]
    encoder: str | None
    patch_px: int | None
    mpp: float | None
    simulated: bool
    digest: str


def read_pairs(config: TangleConfig) -> PairedCases:
    """Read the table and find the bags of its cases.

    Raises:
        ConfigError: When features or table are not named.
        DataError: When too few cases have both, or a file cannot be used.
    """
    from spade_bench.features.bags import read_bag

    if config.features is None or config.table is None:
        raise ConfigError(
            "TANGLE needs patch features and bulk expression",
            fix="Give --features DIR and --table FILE",
        )
    table, simulated = read_expression(config.table)
    files = find_bags(config.features, config.encoder)
    named = None if config.cohort is None else _named_slides(config.cohort)
    slides = match_slides([str(case) for case in table.index], files, named)
    kept = [case for case in sorted(slides) if slides[case]]
    if len(kept) < _MIN_CASES:
        raise DataError(
            f"{len(kept)} cases have both expression and slides, at least {_MIN_CASES} are needed",
            where=str(config.table),
            fix="Slide names must start with the case id, or set cohort=FILE.csv with case_id "
            "and slide_id",
        )
    console.say(f"{len(kept)} cases with expression and slides; {len(table) - len(kept)} cases "
                f"have no slide, {_unpaired(slides, files)} slides no expression")  # fmt: skip
    infos = scan_bags({slide: files[slide] for case in kept for slide in slides[case]})
    bad = [f"{slide} ({info.problem})" for slide, info in infos.items() if info.problem]
    if bad:
        raise DataError(f"unusable features: {', '.join(bad[:5])}", where=str(config.features))
    first = next(iter(infos.values()))
    values = log_expression(table.loc[kept].to_numpy(np.float32), config.genes)
    bag = read_bag(first.path)
    sides = {patch_px(info.path) for info in infos.values()}
    return PairedCases(
        tuple(kept),
        tuple(slides[case] for case in kept),
        CaseBags.from_files([[files[s] for s in slides[case]] for case in kept], first.dim),
        values,
        tuple(str(gene) for gene in table.columns),
        first.encoder,
        sides.pop() if len(sides) == 1 else None,
        bag.mpp,
        simulated,
        hash_obj([kept, [[infos[s].digest for s in slides[c]] for c in kept], hash_array(values)]),
    )


def read_expression(path: Path) -> tuple[pd.DataFrame, bool]:
    """Read a table of cases x genes.

    Args:
        path: csv or tsv (optionally .gz) or parquet with the case ids in a column `case_id` or the
            first one; or h5ad with the case ids in `obs_names`.

    Returns:
        The table, float32, indexed by case id; and whether it says that it is simulated (a column
        `simulated`, or `uns["simulated"]`).

    Raises:
        DataError: When it cannot be read, a case stands twice, or values are no numbers, missing
            or infinite.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError("no such expression table", where=str(path))
    simulated = False
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    try:
        if kind == ".h5ad":
            import anndata

            data = anndata.read_h5ad(path)
            simulated = bool(data.uns.get("simulated", False))
            table = data.to_df()
        elif kind == ".parquet":
            table = _indexed(pd.read_parquet(path))
        elif kind in {".csv", ".tsv"}:
            table = _indexed(pd.read_csv(path, sep="," if kind == ".csv" else "\t"))
        else:
            raise DataError(f"'{path.name}' is no csv, tsv, parquet or h5ad", where=str(path))
    except (ValueError, OSError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error
    if "simulated" in table.columns:
        simulated = simulated or bool(table["simulated"].astype(bool).any())
        table = table.drop(columns="simulated")
    twice = table.index[table.index.duplicated()].astype(str).unique().tolist()
    if twice:
        raise DataError(f"cases stand twice: {', '.join(twice[:5])}", where=str(path))
    words = [str(c) for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    if words:
        raise DataError(
            f"columns that are no numbers: {', '.join(words[:5])}",
            where=str(path),
            fix="Rows are cases and columns genes; is the table transposed?",
        )
    table = table.astype(np.float32)
    if not np.isfinite(table.to_numpy()).all():
        raise DataError("values are missing or infinite", where=str(path))
    return table, simulated


def log_expression(values: NDArray[np.float32], genes: GeneConfig) -> NDArray[np.float32]:
    """Counts to log1p of counts per million; values on a log scale stay, (n, G) -> (n, G).

    Raises:
        DataError: When counts are negative or a case has none.
    """
    if genes.scale == "log":
        return values
    total = values.sum(axis=1, keepdims=True, dtype=np.float64)  # (n, 1)
    if (values < 0).any() or (total <= 0).any():
        raise DataError(
            "counts are negative or a case has none", fix="Set genes.scale=log for log values"
        )
    return np.asarray(np.log1p(values / total * 1e6), dtype=np.float32)  # (n, G)


def match_slides(
    cases: Sequence[str],
    slides: Mapping[str, object],
    named: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Find the slides of each case.

    Args:
        cases: Case ids.
        slides: Slide ids.
        named: Slide id -> case id; None takes the longest case id with which the slide's name
            starts, at a separator: `TCGA-AA-3662` owns `TCGA-AA-3662-01Z-00-DX1`.

    Returns:
        Case id -> slide ids, for every case.
    """
    slides_of: dict[str, list[str]] = {case: [] for case in cases}
    for slide in sorted(slides):
        if named is not None:
            owner = named.get(slide)
        else:
            ends = [i for i in range(1, len(slide)) if slide[i] in _SEPARATORS] + [len(slide)]
            owner = next(
                (slide[:e] for e in sorted(ends, reverse=True) if slide[:e] in slides_of), None
            )
        if owner in slides_of:
            slides_of[str(owner)].append(slide)
    return {case: tuple(names) for case, names in slides_of.items()}


def split(n: int, shares: SplitConfig, seed: int) -> dict[str, NDArray[np.int64]]:
    """Split n cases into `train`, `val` and `test` positions; each sorted, at least 2 in each."""
    order = np.random.default_rng([seed, 17]).permutation(n)
    n_test, n_val = max(2, round(shares.test * n)), max(2, round(shares.val * n))
    parts = np.split(order, [n_test, n_test + n_val])
    return dict(zip(("test", "val", "train"), map(np.sort, parts), strict=True))


def fit_scale(
    values: NDArray[np.float32], names: Sequence[str], train: NDArray[np.int64], n_top: int
) -> tuple[GeneScale, NDArray[np.float32]]:
    """Choose and standardise genes by the training cases only.

    Args:
        values: Log expression, (n, all genes).
        names: Names of the genes.
        train: Positions of the training cases.
        n_top: Genes of largest variance to keep; 0 keeps all that vary.

    Returns:
        The scale, and the standardised expression of all cases, (n, G), clipped to +-10.
    """
    spread = values[train].std(axis=0, dtype=np.float64)  # (all genes,)
    order = np.argsort(-spread, kind="stable")
    order = order[spread[order] > 0]
    if not len(order):
        raise DataError("no gene varies over the training cases")
    kept = np.sort(order[:n_top] if n_top else order)
    mean = values[train][:, kept].mean(axis=0, dtype=np.float64).astype(np.float32)  # (G,)
    std = spread[kept].astype(np.float32)  # (G,)
    scale = GeneScale(tuple(names[i] for i in kept), mean, std)
    return scale, np.clip((values[:, kept] - mean) / std, -10, 10)  # (n, G)


def _indexed(table: pd.DataFrame) -> pd.DataFrame:
    """Put the case ids into the index."""
    if "case_id" in table.columns:
        table = table.set_index("case_id")
    elif table.index.name is None and len(table.columns):
        table = table.set_index(table.columns[0])
    table.index = table.index.astype(str)
    return table


def _named_slides(path: Path) -> dict[str, str]:
    import pandas as pd

    if not path.is_file():
        raise DataError("no such cohort table", where=str(path))
    table = pd.read_csv(path, dtype=str)
    lacking = {"case_id", "slide_id"} - set(table.columns)
    if lacking:
        raise DataError(f"lacks the column {', '.join(sorted(lacking))}", where=str(path))
    owners = table.groupby("slide_id")["case_id"].nunique()
    shared = [str(slide) for slide in owners.index[owners > 1]]
    if shared:
        raise DataError(f"slides of two cases: {', '.join(shared[:5])}", where=str(path))
    return dict(zip(table["slide_id"], table["case_id"], strict=True))


def _unpaired(slides: Mapping[str, Sequence[str]], files: Mapping[str, object]) -> int:
    return len(files) - sum(len(names) for names in slides.values())
