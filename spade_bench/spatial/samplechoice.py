"""Which samples of a cohort are wanted, by their metadata; every refusal has a reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from spade_bench.errors import ConfigError
from spade_bench.spatial.fields import as_text
from spade_bench.spatial.sample import StSample

__all__ = ["check_trusted", "filter_samples"]

_ATTRIBUTES = {
    "id": "sample_id",
    "sample_id": "sample_id",
    "organ": "organ",
    "patient": "patient",
    "species": "species",
    "st_technology": "technology",
    "technology": "technology",
}


def filter_samples(
    samples: Sequence[StSample],
    *,
    include: Mapping[str, Any] | None = None,
    exclude: Mapping[str, Any] | None = None,
    min_genes: int = 0,
    exclude_ids: Iterable[str] = (),
    ids: Iterable[str] = (),
) -> tuple[list[StSample], dict[str, str]]:
    """Split samples into those wanted and those left out, each with the rule that did it.

    Values are compared as text without case. A blank never matches `include`.

    Args:
        samples: In order.
        include: Metadata column -> value or values to keep.
        exclude: Metadata column -> value or values to leave out.
        min_genes: Keep samples whose metadata give more genes than this; 0 keeps all.
        exclude_ids: Sample ids to leave out.
        ids: When given, only these sample ids.

    Returns:
        The samples kept, in order, and for each other sample id the reason.

    Raises:
        ConfigError: A column that no sample has, or an id in `ids` that no sample has.
    """
    wanted, unwanted = set(ids), set(exclude_ids)
    missing = sorted(wanted - {s.sample_id for s in samples})
    if missing:
        raise ConfigError(
            f"no sample named {', '.join(missing[:5])}", where="samples.ids", fix="Correct the ids"
        )
    _check_columns(samples, include or {}, "samples.include")
    _check_columns(samples, exclude or {}, "samples.exclude")
    kept, dropped = [], {}
    for sample in samples:
        if wanted and sample.sample_id not in wanted:
            reason = "not among samples.ids"
        elif sample.sample_id in unwanted:
            reason = "in samples.exclude_ids"
        else:
            reason = _refusal(sample, include or {}, exclude or {}, min_genes)
        if reason:
            dropped[sample.sample_id] = reason
        else:
            kept.append(sample)
    return kept, dropped


def check_trusted(trust: Iterable[str], names: Collection[str], where: str) -> None:
    """Refuse to trust a sample that is not there.

    Raises:
        ConfigError: Naming it.
    """
    unknown = sorted(set(trust) - set(names))
    if unknown:
        raise ConfigError(
            f"no sample named {', '.join(unknown[:5])}", where=where, fix="Correct the ids"
        )


def _refusal(
    sample: StSample, include: Mapping[str, Any], exclude: Mapping[str, Any], min_genes: int
) -> str:
    for column, allowed in include.items():
        value = _value(sample, column)
        if value is None or value.lower() not in _choices(allowed):
            return f"{column} is {value or 'blank'}"
    for column, refused in exclude.items():
        value = _value(sample, column)
        if value is not None and value.lower() in _choices(refused):
            return f"{column} is {value}"
    if min_genes and sample.nb_genes is not None and sample.nb_genes <= min_genes:
        return f"nb_genes is {sample.nb_genes:,}, not above {min_genes:,}"
    return ""


def _value(sample: StSample, column: str) -> str | None:
    attribute = _ATTRIBUTES.get(column)
    if attribute is None:
        return as_text(sample.metadata.get(column))
    value = getattr(sample, attribute)
    return None if value is None else str(value)


def _choices(values: Any) -> set[str]:
    items = values if isinstance(values, (list, tuple, set)) else [values]
    return {str(v).strip().lower() for v in items}


def _check_columns(samples: Sequence[StSample], rules: Mapping[str, Any], where: str) -> None:
    for column in rules:
        if column in _ATTRIBUTES or not samples or any(column in s.metadata for s in samples):
            continue
        raise ConfigError(
            f"no sample has the metadata column '{column}'",
            where=where,
            fix="Use a column of the metadata csv",
        )
